"""k-means by parts against Lloyd's algorithm written out, and the stage around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sslscale.errors import DataError
from sslscale.graph.artifacts import Embeddings
from sslscale.graph.context import RunContext
from sslscale.settings.features import KMeansConfig
from sslscale.stages import kmeans as stage_module
from sslscale.stages.kmeans import kmeans
from sslscale.train import kmeans as algorithm

CPU = torch.device("cpu")


def blobs(count: int = 700, dim: int = 6, centres: int = 9, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, dim)) * 4
    return (middle[np.arange(count) % centres] + rng.normal(size=(count, dim))).astype(np.float16)


def literal(rows: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """One iteration of Lloyd in float64, a row at a time; no cluster may be empty."""
    labels, inertia = [], 0.0
    for row in rows.astype(np.float64):
        distance = [((row - c) ** 2).sum() for c in centroids.astype(np.float64)]
        labels.append(int(np.argmin(distance)))
        inertia += min(distance)
    found = np.array(labels)
    return np.stack([rows[found == k].astype(np.float64).mean(0) for k in range(len(centroids))]), found, inertia


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("k", [7, 33])
def test_an_iteration_is_lloyds(k: int, normalize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithm, "CHUNK", 64)
    features = blobs()
    rows = features.astype(np.float64)
    if normalize:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    first = rows[:k].astype(np.float32)
    total = algorithm.partial([features[:300], features[300:]], first, normalize=normalize, device=CPU)
    ours, split = algorithm.update(first, total, spherical=False)
    theirs, labels, inertia = literal(rows, first)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert total.inertia == pytest.approx(inertia, rel=1e-4) and split == 0
    np.testing.assert_array_equal(algorithm.assign(features, first, normalize=normalize, device=CPU), labels)
    assert total.counts.tolist() == np.bincount(labels, minlength=k).tolist()


def test_empty_clusters_take_half_of_the_largest() -> None:
    rows = np.repeat(np.array([[1.0, 0.0], [0.0, 1.0]], np.float16), [30, 10], axis=0)
    far = np.array([[1.0, 0.1], [0.1, 1.0], [9.0, 9.0]], np.float32)
    total = algorithm.partial([rows], far, normalize=False, device=CPU)
    new, split = algorithm.update(far, total, spherical=False)
    assert split == 1
    assert np.linalg.norm(new[2] - [1, 0]) < 0.01 and not np.array_equal(new[2], new[0])


def test_minibatch_centroids_are_means_of_all_they_were_given() -> None:
    rows = blobs()
    centroids, seen = rows[:5].astype(np.float32), np.zeros(5, np.int64)
    given: list[list[np.ndarray]] = [[] for _ in range(5)]
    for start in range(0, 600, 100):
        part = rows[start : start + 100]
        for row, label in zip(part, algorithm.assign(part, centroids, normalize=False, device=CPU), strict=True):
            given[label].append(row.astype(np.float64))
        total = algorithm.partial([part], centroids, normalize=False, device=CPU)
        centroids, _ = algorithm.update(centroids, total, spherical=False, seen=seen)
    np.testing.assert_allclose(centroids, [np.mean(g, 0) for g in given], rtol=1e-4, atol=1e-4)
    assert seen.tolist() == [len(g) for g in given]


def test_spherical_centroids_have_length_one() -> None:
    rows = blobs()
    total = algorithm.partial([rows], rows[:8].astype(np.float32), normalize=True, device=CPU)
    new, _ = algorithm.update(rows[:8].astype(np.float32), total, spherical=True)
    np.testing.assert_allclose(np.linalg.norm(new, axis=1), 1, rtol=1e-5)


def test_plus_plus_starts_nearer_than_chance() -> None:
    rows = blobs(900, centres=30).astype(np.float32)
    inertia = {}
    for init in ("sample", "k-means++"):
        found = []
        for seed in range(8):
            first = algorithm.first_centroids(rows, 30, init=init, generator=np.random.default_rng(seed))
            assert len(np.unique(first, axis=0)) == 30
            found.append(algorithm.partial([rows], first, normalize=False, device=CPU).inertia)
        inertia[init] = np.mean(found)
    assert inertia["k-means++"] < 0.7 * inertia["sample"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(value: float) -> None:
    rows = blobs()
    rows[9, 2] = value
    first = rows[10:14].astype(np.float32)
    with pytest.raises(DataError, match="row 9: a feature is not a finite number"):
        algorithm.partial([rows], first, normalize=True, device=CPU)
    with pytest.raises(DataError, match="row 9"):
        algorithm.assign(rows, first, normalize=False, device=CPU)


def embeddings(folder: Path, rows: np.ndarray, size: int = 100) -> Embeddings:
    (folder / "labeled").mkdir(parents=True)
    for number, start in enumerate(range(0, len(rows), size)):
        np.save(folder / "labeled" / f"features-{number:06d}.npy", rows[start : start + size])
    return Embeddings(path=str(folder), num_samples={"labeled": len(rows)}, dim=rows.shape[1])


def labels_of(path: Path) -> np.ndarray:
    return np.concatenate([np.load(f) for f in sorted((path / "labeled").glob("clusters-*.npy"))])


CONFIG = KMeansConfig(k=12, num_iterations=15, tolerance=0.0)


def test_the_stage_resumes_to_the_same_bytes(
    tmp_path: Path, context: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "_PART", 10)  # several parts
    features = embeddings(tmp_path / "features", blobs(1000))
    whole = kmeans(context("whole"), CONFIG, features=features)
    assert 0 < whole.metrics["iterations"] <= 15 and whole.k == 12

    class Killed(Exception):
        pass

    saves = []
    real = stage_module._save

    def save(file: Path, state: dict) -> None:
        real(file, state)
        saves.append(state["step"])
        if len(saves) == 3:
            raise Killed

    monkeypatch.setattr(stage_module, "_save", save)
    with pytest.raises(Killed):
        kmeans(context("resumed"), CONFIG, features=features)
    monkeypatch.setattr(stage_module, "_save", real)
    again = kmeans(context("resumed"), CONFIG, features=features)
    assert saves == [1, 2, 3]
    assert again.metrics == whole.metrics
    assert (again.dir / "centroids.npy").read_bytes() == (whole.dir / "centroids.npy").read_bytes()
    np.testing.assert_array_equal(labels_of(again.dir), labels_of(whole.dir))


def test_the_stage_on_fewer_distinct_images_than_clusters(tmp_path: Path, context: Callable[..., RunContext]) -> None:
    rows = np.repeat(np.eye(5, 4, dtype=np.float16)[:4] + 1, 25, axis=0)
    found = kmeans(context("few"), CONFIG, features=embeddings(tmp_path / "features", rows))
    assert found.k == 4 and found.metrics["empty"] == 8
    labels = labels_of(found.dir)
    assert set(labels) == {0, 1, 2, 3} and all(len(set(labels[n : n + 25])) == 1 for n in range(0, 100, 25))
    assert np.load(found.dir / "centroids.npy").shape == (4, 4)


def test_more_clusters_than_images_and_the_absent_split(tmp_path: Path, context: Callable[..., RunContext]) -> None:
    features = embeddings(tmp_path / "features", blobs(10))
    with pytest.raises(DataError, match="k 12 is more than the 10 images; lower k"):
        kmeans(context("many"), CONFIG, features=features)
    with pytest.raises(DataError, match="no features of the splits test"):
        kmeans(context("split"), dataclasses.replace(CONFIG, splits=("test",)), features=features)


@pytest.mark.parametrize("changes", [{"minibatch": 0.3}, {"spherical": True}, {"init": "k-means++"}])
def test_the_stage_by_other_ways_finds_the_same_blobs(
    tmp_path: Path, context: Callable[..., RunContext], changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.metrics import normalized_mutual_info_score

    monkeypatch.setattr(stage_module, "_PART", 10)
    rows = blobs(2000, dim=24, centres=6)
    config = dataclasses.replace(CONFIG, k=6, **{"init": "k-means++", **changes})
    found = kmeans(context("stage"), config, features=embeddings(tmp_path / "features", rows))
    assert normalized_mutual_info_score(np.arange(2000) % 6, labels_of(found.dir)) > 0.9
