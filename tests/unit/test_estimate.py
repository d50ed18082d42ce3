"""What a plan costs, told from what ran before; and the simulation of what no one can run here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sslscale.estimate import EFFICIENCY, estimate
from sslscale.graph import dag
from sslscale.graph.dag import stage
from sslscale.graph.resources import Resources
from sslscale.methods.noisy_student import NoisyStudent
from sslscale.settings.data import PackConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.stages.pack import pack
from sslscale.stages.train import train
from sslscale.storage.jsonio import canonical
from tests.benchmarks.simulate import Machine, Run, shards_for, simulate, step_seconds

CONFIG = TrainConfig(
    method=NoisyStudent(unlabeled_ratio=3),
    model=ModelConfig(name="wrn_10_1"),
    image=ImageConfig(size=8),
    batch_size=10,
    num_steps=100,
)


def graph(config: TrainConfig, **resources: int) -> list[dag.Stage]:
    data = stage(pack, PackConfig(source="digits"), name="data", content=lambda root: "digits")
    return [stage(train, config, name="model", resources=Resources(**resources), data=data)]  # type: ignore[arg-type]


def finish(root: Path, entry: dag.Planned, seconds: float, size: int, **fields: object) -> None:
    entry.path.mkdir(parents=True)
    (entry.path / "weights").write_bytes(bytes(size))
    record = {
        "key": entry.key,
        "config": canonical(entry.stage.config),
        "inputs": dict(entry.input_keys),
        "kind": "Checkpoint",
        "fields": fields,
        "seconds": seconds,
        "num_workers": entry.stage.resources.num_workers,
    }
    (entry.path / "record.json").write_text(json.dumps(record))


def test_an_estimate_scales_what_was_measured(tmp_path: Path) -> None:
    planned = dag.plan(graph(CONFIG), tmp_path)
    assert {e.seconds for e in estimate(planned, tmp_path).values()} == {None}
    finish(tmp_path, planned[0], 5.0, 900, num_samples={"labeled": 100, "unlabeled": 300})
    finish(tmp_path, planned[1], 20.0, 100_000, step=100)

    longer = dataclasses.replace(CONFIG, num_steps=250, batch_size=20)
    found = estimate(dag.plan(graph(longer), tmp_path), tmp_path)
    assert found["model"].seconds == pytest.approx(20 * 5)
    assert 100_000 <= (found["model"].bytes or 0) < 110_000  # a network is as large after more steps
    wide = estimate(dag.plan(graph(longer, num_workers=4), tmp_path), tmp_path)
    assert wide["model"].seconds == pytest.approx(20 * 5 / (1 + 3 * EFFICIENCY))
    more = dataclasses.replace(CONFIG, method=NoisyStudent(unlabeled_ratio=7))
    assert estimate(dag.plan(graph(more), tmp_path), tmp_path)["model"].seconds == pytest.approx(40)
    passes = dataclasses.replace(CONFIG, num_steps=None, epochs=5.0)  # of 400 images
    assert estimate(dag.plan(graph(passes), tmp_path), tmp_path)["model"].seconds == pytest.approx(40)


MACHINE = Machine(train_rate=1000, score_rate=4000, bandwidth=1e10, latency=0.0, price=2.0)
RUN = Run(images=8e6, kept=0.5, epochs=2, weights=25e6, batch=250)


def test_the_simulation_of_one_worker_is_arithmetic() -> None:
    found = simulate(MACHINE, RUN, 1)
    assert found["train_h"] == pytest.approx(8e6 * 0.5 * 2 / 1000 / 3600)
    assert found["score_h"] == pytest.approx(8e6 / 4000 / 3600)
    assert found["cost"] == pytest.approx(2 * (found["train_h"] + found["score_h"]))


def test_communication_overlapped_with_backward_is_free() -> None:
    assert step_seconds(MACHINE, RUN, 64) == pytest.approx(0.25)  # 20 ms of ring behind 167 ms
    slow = dataclasses.replace(MACHINE, bandwidth=1e9)
    ring = 2 * 63 / 64 * 1e8 / 1e9
    assert step_seconds(slow, RUN, 64) == pytest.approx(0.25 + ring - 0.25 * 2 / 3)


@pytest.mark.parametrize("workers", [3, 8, 64, 512])
def test_scoring_scales_linearly_with_enough_shards(workers: int) -> None:
    for shards in range(shards_for(workers), shards_for(workers) + workers):
        rounds = -(-shards // workers)
        assert shards / (rounds * workers) > 1 / 1.1 - 1e-9
    assert simulate(MACHINE, RUN, workers)["score_efficiency"] > 0.9
