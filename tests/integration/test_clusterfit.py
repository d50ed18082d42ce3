"""SimCLR -> ClusterFit -> fine-tuning and the evaluation of a checkpoint, by the real commands."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sslscale.graph.artifacts import Embeddings
from sslscale.graph.context import RunContext
from sslscale.settings.features import KMeansConfig
from sslscale.stages.kmeans import kmeans
from sslscale.storage.jsonio import read_json
from tests import runs

SHORT = ("pretrain.num_steps=80", "clusterfit.num_steps=80", "finetune.num_steps=40", "kmeans.k=30")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("clusterfit")
    out, _ = runs.sslscale("run", "configs/simclr_clusterfit/digits.yaml", *SHORT, "--root", root, "--json")
    return root, runs.result(out)


def test_the_clusterfit_graph_ends_with_a_comparison(ran: tuple[Path, dict]) -> None:
    root, found = ran
    metrics = found["metrics"]
    for name in ("random", "pretrain", "clusterfit", "pretrain_2x", "distill"):
        assert 0 < metrics[f"{name}/knn_accuracy"] <= 1 and 0 < metrics[f"{name}/linear_accuracy"] <= 1
    for name in ("finetune", "finetune_pretrain", "finetune_scratch"):
        assert 0 < metrics[f"{name}/test_accuracy"] <= 1
    assert metrics["pretrain/knn_accuracy"] > metrics["random/knn_accuracy"] + 0.1
    assert metrics["clusterfit/knn_accuracy"] > metrics["random/knn_accuracy"] + 0.1
    gain = metrics["clusterfit/linear_accuracy"] - metrics["pretrain/linear_accuracy"]
    assert metrics["report/clusterfit_linear_gain"] == pytest.approx(gain)
    clusters = runs.folder_of(root, found, "clusters")
    labels = np.concatenate([np.load(f) for f in sorted(clusters.glob("*/clusters-*.npy"))])
    assert len(labels) == 1347 and set(labels) == set(range(30))
    assert np.load(clusters / "centroids.npy").shape == (30, 64)
    page = (runs.folder_of(root, found, "report") / "report.html").read_text()
    for word in ("clusterfit", "pretrain_2x", "distill", "scratch", "Nearest images", "data:image/png"):
        assert word in page


def test_only_changed_stages_run_again(ran: tuple[Path, dict]) -> None:
    root, _ = ran
    config = "configs/simclr_clusterfit/digits.yaml"
    again, _ = runs.sslscale("run", config, *SHORT, "--root", root, "--json")
    assert {s["state"] for s in runs.result(again)["stages"]} == {"cached"}
    planned, _ = runs.sslscale("run", config, *SHORT, "finetune.num_steps=50", "--root", root, "--plan", "--json")
    missing = {s["name"].split("/")[0] for s in runs.result(planned)["stages"] if s["state"] == "run"}
    assert missing == {"finetune", "finetune_pretrain", "finetune_scratch", "report"}


@pytest.mark.slow
def test_a_checkpoint_is_judged_by_every_protocol(ran: tuple[Path, dict], tmp_path: Path) -> None:
    root, found = ran
    checkpoint = runs.folder_of(root, found, "finetune_pretrain")
    runs.sslscale("data", "pack", "digits", tmp_path / "shards", "--test", "0.25", "--labels-per-class", "20")
    protocols = "knn,linear,sgd,retrieval,clustering,layerwise,finetune,classify,robustness"
    words = ("eval", checkpoint, tmp_path / "shards", "--protocol", protocols, "--labels", "20%,100%")
    small = ("robustness.max_images=20", "probe.epochs=5", "finetune.epochs=4", "layerwise.max_features=64")
    out, err = runs.sslscale(*words, *small, "--root", tmp_path / "runs", "--json")
    assert "warning" not in err
    metrics = runs.result(out)["metrics"]
    assert metrics["classify/test_accuracy"] > 0.5
    for name in ("probe/knn_accuracy", "probe/linear_accuracy", "probe/sgd_accuracy", "probe/recall_at_1", "probe/nmi"):
        assert 0 < metrics[name] <= 1
    assert metrics["layerwise/best_layer_accuracy"] >= metrics["layerwise/last_layer_accuracy"]
    # a classifier of these very classes goes on better than from nothing
    assert metrics["finetune_100pct/test_accuracy"] > metrics["scratch_100pct/test_accuracy"] + 0.1
    assert metrics["report/finetune_20pct_accuracy"] == metrics["finetune_20pct/test_accuracy"]
    assert metrics["robustness/mean_corruption_error"] > 0
    folder = runs.folder_of(tmp_path / "runs", runs.result(out), "layerwise/evaluate")
    layers = read_json(folder / "report.json")["layers"]
    assert [x["layer"] for x in layers] == ["stem", "blocks.0", "blocks.1", "blocks.2", "features"]
    assert (folder / "layers.png").exists()
    page = (runs.folder_of(tmp_path / "runs", runs.result(out), "report") / "report.html").read_text()
    for title in ("As a classifier", "Frozen features", "Layer by layer", "Fine-tuning", "Robustness"):
        assert title in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "DATA"), "'nowhere' is no folder, and no checkpoint of the root"),
        (("MODEL", "nowhere"), "nowhere"),
        (("MODEL", "DATA", "--protocol", "knn,lineer"), "lineer"),
        (("MODEL", "DATA", "--labels", "all"), "'all' is not a share such as 1% or 0.01"),
        (("MODEL", "DATA", "--labels", "0%", "--protocol", "finetune"), "labels"),
    ],
)
def test_a_wrong_evaluation_is_one_line(
    ran: tuple[Path, dict], digits: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    root, found = ran
    places = {"MODEL": runs.folder_of(root, found, "pretrain"), "DATA": digits}
    filled = [places.get(word, word) for word in words]
    for code in (2, 3):
        process = runs.start("eval", *filled, "--root", tmp_path / "r")
        _, err = process.communicate(timeout=60)
        if process.returncode == code:
            assert message in err and "Traceback" not in err
            return
    pytest.fail(f"exit {process.returncode}: {err}")


@pytest.mark.slow
def test_k_means_on_two_workers_gives_the_bytes_of_one_and_survives_a_kill(
    tmp_path: Path, context: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from sslscale.cluster.runner import RayRunner
    from sslscale.stages import kmeans as module

    monkeypatch.setattr(module, "_PART", 20)
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(4000, 16)) + 4 * rng.normal(size=(40, 16))[np.arange(4000) % 40]).astype(np.float16)
    (tmp_path / "features" / "labeled").mkdir(parents=True)
    for number in range(10):
        np.save(tmp_path / f"features/labeled/features-{number:06d}.npy", rows[400 * number : 400 * number + 400])
    features = Embeddings(path=str(tmp_path / "features"), num_samples={"labeled": 4000}, dim=16)
    config = KMeansConfig(k=20, num_iterations=12, tolerance=0.0)
    one = kmeans(context("one"), config, features=features)
    runner = RayRunner(tmp_path / "logs")
    killed: list[int] = []
    real = module._save

    def save(file: Path, state: dict) -> None:
        real(file, state)
        if state["step"] == 3:  # kill -9 one of the two
            import psutil

            own = psutil.Process().children(recursive=True)
            mappers = [p for p in own if "ray::_Mapper" in " ".join(p.cmdline())]
            if mappers:
                os.kill(mappers[0].pid, signal.SIGKILL)
                killed.append(mappers[0].pid)
                time.sleep(0.5)

    monkeypatch.setattr(module, "_save", save)
    try:
        two = kmeans(context("two", num_workers=2, cpus_per_worker=1), config, features=features)
    finally:
        runner.close()
        assert not ray.is_initialized()
    assert killed
    assert json.dumps(two.metrics) == json.dumps(one.metrics)
    assert (two.dir / "centroids.npy").read_bytes() == (one.dir / "centroids.npy").read_bytes()
