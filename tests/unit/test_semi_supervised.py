"""Labelled and unlabelled streams side by side: what the log says of pseudo-labels, and what a user may get wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sslscale import experiment
from sslscale.data.pack import pack
from sslscale.data.samples import open_images, open_samples, open_unlabeled
from sslscale.data.sources import HIDDEN
from sslscale.data.write import write_shards
from sslscale.errors import ConfigError, DataError
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.methods.fixmatch import FixMatch
from sslscale.methods.flexmatch import FlexMatch
from sslscale.methods.temporal_ensembling import TemporalEnsembling
from sslscale.settings.augment import AugmentConfig, RandAugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.stages.train import train
from sslscale.train import fit
from tests import runs

SPLITS = ("labeled", "unlabeled")
STRONG = AugmentConfig(randaugment=RandAugmentConfig(magnitude=4))
BASE = TrainConfig(
    method=FixMatch(unlabeled_ratio=2, threshold=0.12, unlabeled_weight=0.1, ema=0.9),
    model=ModelConfig(name="wrn_10_0.5"),
    image=ImageConfig(size=8),
    augment=AugmentConfig(crop="pad", padding=1),
    views={"strong": STRONG},
    optim=OptimConfig(lr=0.05),
    batch_size=20,
    num_steps=60,
    log_every=10,
)
Context = Callable[..., RunContext]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    config = PackConfig(
        source="digits", labels_per_class=10, test=0.25, shard_size=300, keep_hidden_labels=True, resize=None
    )
    pack(config, folder)
    return folder


def dataset(folder: Path) -> Dataset:
    return Dataset(path=str(folder), num_samples={}, classes=tuple("0123456789"))


def test_packing_keeps_the_truth_beside_the_shards_and_out_of_them(packed: Path, digits: Path) -> None:
    plain = open_images(packed, SPLITS)
    assert plain.hidden is None and (plain.labels == -1).all()
    assert (open_images(packed, ("unlabeled",), labels=True).labels == -1).all()
    samples = open_unlabeled(packed, SPLITS)
    assert (samples.labels == -1).all()  # what a batch would show
    assert samples.hidden is not None and (samples.hidden >= 0).all() and len(samples.hidden) == len(plain)
    order = {}
    for folder in (packed, packed):
        everything = open_images(folder, ("labeled",), labels=True)
        order = {everything.key(n): int(everything.labels[n]) for n in range(len(everything))}
    known = {samples.key(n): int(samples.hidden[n]) for n in range(len(samples))}
    assert all(known[key] == label for key, label in order.items())
    assert len(set(known.values())) == 10
    half = samples.keep(np.arange(len(samples)) % 2 == 0)
    assert half.hidden is not None and [half.hidden[3], half.key(3)] == [samples.hidden[6], samples.key(6)]
    assert not (digits / "unlabeled" / HIDDEN).exists()  # by default nothing is kept
    unknown = open_unlabeled(digits, SPLITS).hidden
    assert unknown is not None and set(unknown[-100:].tolist()) == {-1}


def rows(ctx: RunContext) -> list[dict[str, float]]:
    return [json.loads(line) for line in (ctx.path / "metrics.jsonl").read_text().splitlines()]


def test_training_is_the_same_when_hidden_labels_are_scrambled_or_gone(
    packed: Path, tmp_path: Path, context: Context
) -> None:
    scrambled, gone = tmp_path / "scrambled", tmp_path / "gone"
    for folder in (scrambled, gone):
        shutil.copytree(packed, folder)
    file = scrambled / "unlabeled" / HIDDEN
    np.save(file, np.random.default_rng(0).permutation(np.load(file)))
    (gone / "unlabeled" / HIDDEN).unlink()
    weights, logs = [], []
    for name, folder in (("true", packed), ("scrambled", scrambled), ("gone", gone)):
        ctx = context(name)
        train(ctx, BASE, data=dataset(folder))
        weights.append((ctx.path / "model.safetensors").read_bytes())
        logs.append(rows(ctx))
    assert weights[0] == weights[1] == weights[2]
    accuracy = [[row.get("pseudo_label_accuracy") for row in log] for log in logs]
    assert accuracy[0] != accuracy[1]
    last, shuffled = accuracy[0][-1], accuracy[1][-1]
    assert last is not None and shuffled is not None and last > shuffled + 0.15
    for log in logs:
        assert all(0 <= row["kept"] <= 1 for row in log)


def test_parts_of_a_batch_are_counted_together(packed: Path, context: Context) -> None:
    """With gradient accumulation the guesses of all parts meet the truth of all of the batch.

    The network has no batch norm, so each image's guess is the same in a part as in the whole batch.
    """
    vit = ModelConfig(name="vit_32x1_4", grid=2)
    frozen = dataclasses.replace(BASE, model=vit, optim=OptimConfig(lr=1e-9), num_steps=6, log_every=1)
    found = []
    for accumulate in (1, 2):
        ctx = context(f"parts-{accumulate}")
        method = FixMatch(unlabeled_ratio=2, threshold=0.0)
        train(ctx, dataclasses.replace(frozen, accumulate=accumulate, method=method), data=dataset(packed))
        found.append([row["pseudo_label_accuracy"] for row in rows(ctx)])
    assert found[0] == found[1] and len(set(found[0])) > 1


def test_per_sample_memory_survives_a_restart(packed: Path, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexMatch's classes and temporal ensembling's means; the second from a file that is mapped into memory."""
    monkeypatch.setattr(fit, "_PROGRESS_S", 0.0)  # every step is told, however fast the machine is
    for method, views in (
        (FlexMatch(unlabeled_ratio=2, threshold=0.15), {"strong": STRONG}),
        (TemporalEnsembling(unlabeled_ratio=4), {}),
    ):
        config = dataclasses.replace(BASE, method=method, views=views, num_steps=40, save_every=20, splits=SPLITS)
        whole, cut = context(f"{method.name}-whole"), context(f"{method.name}-cut")
        train(whole, config, data=dataset(packed))

        class Stopped(Exception):
            pass

        def stop(step: int, total: int, shown: object = None, *, cut: RunContext = cut, **rest: object) -> None:
            if list(cut.path.glob("state/step-*/commit.json")):
                raise Stopped

        interrupted = dataclasses.replace(cut) if dataclasses.is_dataclass(cut) else cut
        object.__setattr__(interrupted, "progress", stop)
        with pytest.raises(Stopped):
            train(interrupted, dataclasses.replace(config, log_every=1), data=dataset(packed))
        resumed = context(f"{method.name}-cut")
        train(resumed, config, data=dataset(packed))
        assert (resumed.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
        assert not list(resumed.path.rglob("memory.bin"))


def test_configuration_and_data_errors_of_semi_supervised_training(
    packed: Path, tmp_path: Path, context: Context
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(packed / "labeled", alone / "labeled")
    with pytest.raises(DataError, match="has no unlabelled images, which fixmatch learns from"):
        train(context("none"), BASE, data=dataset(alone))
    with pytest.raises(DataError, match=r"no index.json there"):
        train(context("no split"), dataclasses.replace(BASE, splits=("labeled",)), data=dataset(tmp_path / "empty"))
    some = open_samples(packed / "labeled")
    kept = (
        some.shards[0].sample(n)._replace(label=int(some.labels[n])) for n in np.flatnonzero(some.labels != 3).tolist()
    )
    write_shards(tmp_path / "nine" / "labeled", "labeled", kept, some.index.classes, 500)
    shutil.copytree(packed / "unlabeled", tmp_path / "nine" / "unlabeled")
    with pytest.raises(DataError, match="class '3' has no labelled image; label one"):
        train(context("nine"), BASE, data=dataset(tmp_path / "nine"))
    large = dataclasses.replace(BASE, method=FixMatch(unlabeled_ratio=100))
    with pytest.raises(ConfigError, match=r"2,?000 unlabeled images is larger than the"):
        train(context("large"), large, data=dataset(packed))
    with pytest.raises(ValueError, match="views: fixmatch needs views"):
        dataclasses.replace(BASE, views={})
    with pytest.raises(ValueError, match="temporal_ensembling has no such view; its views: weak"):
        dataclasses.replace(BASE, method=TemporalEnsembling())
    with pytest.raises(ConfigError, match="is not a semi-supervised method"):
        experiment.load("configs/semi_supervised/fixmatch_digits.yaml", ["train.method={name: supervised}"])
    folder = tmp_path / "classes"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    with pytest.raises(DataError):
        pack(PackConfig(source=str(folder), labels_per_class=1), tmp_path / "out")


@pytest.mark.slow
def test_the_real_command_compares_with_labels_alone(tmp_path: Path) -> None:
    words = ["train.num_steps=30", "supervised.num_steps=30", "train.model.name=wrn_10_0.5"]
    words += ["supervised.model.name=wrn_10_0.5", "train.method.threshold=0.2", "train.log_every=10"]
    out, _ = runs.sslscale(
        "run", "configs/semi_supervised/fixmatch_digits.yaml", *words, "--root", tmp_path / "runs", "--json"
    )
    found = runs.result(out)
    assert {"supervised/test_accuracy", "fixmatch/test_accuracy"} <= found["metrics"].keys()
    assert found["metrics"]["report/fixmatch_test_gain"] == pytest.approx(
        found["metrics"]["fixmatch/test_accuracy"] - found["metrics"]["supervised/test_accuracy"]
    )
    log = runs.rows(runs.folder_of(tmp_path / "runs", found, "fixmatch"))
    assert 0 < log[-1]["pseudo_label_accuracy"] <= 1
