"""Three nodes on one machine: stages spread over them, and a node that goes takes nothing with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import runs

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes() -> Iterator[tuple[Any, list[Any]]]:
    """A head that only drives, and three nodes of one CPU."""
    os.environ.update(RAY_worker_niceness="0", RAY_USAGE_STATS_ENABLED="0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "gcs_server_port": runs.free_port()})
    try:
        yield cluster, [cluster.add_node(num_cpus=1) for _ in range(3)]
    finally:
        cluster.shutdown()


def lose_one_when(cluster: Any, node: Any, process: Any, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not ready():
        assert process.poll() is None, "it ended before its node was taken: " + "".join(process.communicate())
        assert time.monotonic() < deadline
        time.sleep(0.02)
    cluster.remove_node(node, allow_graceful=False)


def test_a_node_is_lost_in_scoring(nodes: tuple[Any, list[Any]], tmp_path: Path) -> None:
    cluster, workers = nodes
    config, root = runs.write(tmp_path, runs.TINY), tmp_path / "root"
    words = ("run", config, "resources.score.num_workers=3", "--root", root, "--json")
    process = runs.start(*words, env={"RAY_ADDRESS": cluster.address})
    scored = lambda: sorted(root.glob("artifacts/score/*/scores-*.parquet"))  # noqa: E731
    lose_one_when(cluster, workers[0], process, lambda: len(scored()) >= 4)
    before = {p: p.stat().st_mtime_ns for p in scored()}
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err[-3000:]
    found = runs.result(out)
    assert len(scored()) == 50 and all(p.stat().st_mtime_ns == stamp for p, stamp in before.items())
    shards = [row["shard"] for row in runs.rows(runs.folder_of(root, found, "student_1/score"))]
    assert sorted(shards) == list(range(50))
    accounting = next(s["metrics"] for s in found["stages"] if s["name"] == "student_1/score")
    assert accounting["scored"] == 1247


def test_a_node_is_lost_in_training_which_goes_on_with_fewer(nodes: tuple[Any, list[Any]], tmp_path: Path) -> None:
    cluster, workers = nodes
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "root"
    words = ("run", config, "resources.num_workers=2", "resources.min_workers=1", "train.batch_size=40")
    process = runs.start(*words, "--root", root, "--json", env={"RAY_ADDRESS": cluster.address})
    lose_one_when(
        cluster, workers[0], process, lambda: bool(list(root.glob("artifacts/train/*/state/step-*/commit.json")))
    )
    cluster.remove_node(workers[1], allow_graceful=False)  # of three CPUs one is left
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err[-3000:]
    model = runs.folder_of(root, runs.result(out), "model")
    steps = [row["step"] for row in runs.rows(model)]
    assert steps == sorted(set(steps)) and steps[-1] == 400
    assert "going on from step" in "".join(p.read_text() for p in root.glob("logs/*worker0.log"))


def test_training_takes_in_a_node_that_comes(nodes: tuple[Any, list[Any]], tmp_path: Path) -> None:
    cluster, workers = nodes
    for node in workers[1:]:
        cluster.remove_node(node, allow_graceful=False)
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "root"
    words = ["run", config, "resources.num_workers=2", "resources.min_workers=1", "train.num_steps=100000"]
    words += ["train.save_every=50", "train.log_every=50"]
    process = runs.start(*words, "--root", root, env={"RAY_ADDRESS": cluster.address})

    def wait(ready: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            assert process.poll() is None, "it ended: " + "".join(process.communicate())
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def last() -> int:
        return max(
            (int(p.parent.name[-8:]) for p in root.glob("artifacts/train/*/state/step-*/commit.json")), default=0
        )

    second = lambda: "".join(p.read_text() for p in root.glob("logs/*worker1.log"))  # noqa: E731
    try:
        wait(lambda: last() > 0, 120)
        assert not second()  # one worker trains
        cluster.add_node(num_cpus=1)
        wait(lambda: "going on from step" in second(), 200)  # Ray looks for more room every minute
        reached = last()
        wait(lambda: last() > reached + 200, 100)
        (log,) = root.glob("artifacts/train/*/metrics.jsonl")
        steps = [row["step"] for row in runs.rows(log.parent)]
        assert steps == sorted(set(steps)) and steps == list(range(50, 50 * len(steps) + 1, 50))
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_the_drivers_memory_does_not_grow_with_the_number_of_shards(tmp_path: Path) -> None:
    """20,000 shards, which a manifest names and one file holds, through the scoring stage with two workers."""

    from sslscale.cluster.connection import connect, disconnect
    from sslscale.data.index import ShardInfo, read_index, write_index
    from sslscale.data.pack import pack
    from sslscale.graph.artifacts import Checkpoint, Dataset
    from sslscale.graph.context import RunContext
    from sslscale.graph.resources import Resources
    from sslscale.nn.classifier import build_classifier, num_parameters
    from sslscale.settings.data import PackConfig
    from sslscale.settings.model import ImageConfig, ModelConfig
    from sslscale.settings.pseudo import ScoreConfig
    from sslscale.stages.score import score
    from sslscale.train import checkpoint

    pack(PackConfig(source="digits", labels_per_class=1, shard_size=1, test=0.95), tmp_path / "one")
    count, first = 20_000, tmp_path / "one" / "labeled"
    folder = tmp_path / "data" / "unlabeled"
    folder.mkdir(parents=True)
    info = read_index(first).shards[0]
    for number in range(count):
        os.link(first / info.file, folder / f"shard-{number:06d}.tar")
    infos = [ShardInfo(**{**info._asdict(), "file": f"shard-{n:06d}.tar"}) for n in range(count)]
    write_index(folder, infos, read_index(first).classes)
    network, teacher = build_classifier(ModelConfig(name="wrn_10_0.5"), 10), tmp_path / "teacher"
    teacher.mkdir()
    described = checkpoint.describe_model(
        network, ModelConfig(name="wrn_10_0.5"), ImageConfig(size=8), read_index(first).classes
    )
    checkpoint.save_model(teacher, network, described)
    path = tmp_path / "artifacts" / "score" / "x"
    path.mkdir(parents=True)
    seen: list[int] = []

    class Watched(RunContext):
        def progress(self, done: int, total: int, **shown: float | str) -> None:
            if done % 1000 == 0:
                seen.append(psutil.Process().memory_info().rss)

    resources = Resources(num_workers=2, cache_bytes=0)
    context = Watched(path=path, root=tmp_path, name="score", resources=resources)
    connect()
    try:
        found = score(
            context,
            ScoreConfig(),
            teacher=Checkpoint(path=str(teacher), num_parameters=num_parameters(network), step=0),
            data=Dataset(path=str(tmp_path / "data"), num_samples={"unlabeled": count}, classes=described.classes),
        )
    finally:
        disconnect()
    assert found.num_samples == count and len(list(path.glob("*.parquet"))) == count
    assert seen[-1] - seen[2] < 32 << 20, [f"{rss >> 20} MiB" for rss in seen]
