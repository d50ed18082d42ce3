"""Protocols against slow transcriptions: SGD heads, retrieval, clustering, layers, the monitor, a class subset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sslscale.data.images import Images
from sslscale.data.index import read_index
from sslscale.data.reading import open_one
from sslscale.data.samples import open_samples
from sslscale.errors import ConfigError, DataError
from sslscale.evaluate import linear_sgd
from sslscale.evaluate.clustering import cluster_agreement
from sslscale.evaluate.monitor import KnnMonitor
from sslscale.evaluate.retrieval import retrieve
from sslscale.graph.artifacts import Checkpoint, Dataset
from sslscale.graph.context import RunContext
from sslscale.nn.classifier import build_backbone, build_classifier
from sslscale.nn.layers import LayerFeatures, layer_names
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.pseudo import EvaluateConfig, ScoreConfig
from sslscale.stages.evaluate import evaluate
from sslscale.storage.jsonio import canonical
from sslscale.train import checkpoint
from tests.unit.test_probes import blobs

CPU = torch.device("cpu")


def test_each_sgd_head_is_what_torchs_own_optimiser_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_sgd, "_BATCH", 32)
    features, labels = blobs(100)
    rates = (0.01, 0.3)
    heads = linear_sgd.train_heads(features, labels, 5, rates, 3, seed=4)
    for number, rate in enumerate(rates):
        layer = nn.Linear(features.shape[1], 5)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate * 32 / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
        generator = torch.Generator().manual_seed(5)
        for _ in range(3):
            order = torch.randperm(100, generator=generator)
            for start in (0, 32, 64):
                chosen = order[start : start + 32]
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(features[chosen]), labels[chosen]).backward()
                optimizer.step()
                schedule.step()
        torch.testing.assert_close(heads[:-1, number], layer.weight.detach().T, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(heads[-1, number], layer.bias.detach(), rtol=1e-4, atol=1e-6)


def test_the_sgd_probe_learns_and_says_its_rate() -> None:
    features, labels = blobs(600)
    probs, rate = linear_sgd.sgd_probe(features[:400], labels[:400], features[400:], 5, epochs=20)
    assert rate in linear_sgd.RATES
    assert (probs.argmax(1) == labels[400:]).float().mean() > 0.75
    torch.testing.assert_close(probs.sum(1), torch.ones(200))


def test_retrieval_equals_its_literal_transcription() -> None:
    features, labels = blobs(60, noise=3.0)
    found, place = retrieve(features, labels, ranks=(1, 4))
    hits, precision = {1: 0, 4: 0}, {1: 0.0, 4: 0.0}
    for i, x in enumerate(features.double()):
        cosine = {j: float(x @ y / (x.norm() * y.norm())) for j, y in enumerate(features.double()) if j != i}
        near = sorted(cosine, key=lambda j: -cosine[j])
        assert place[i].tolist() == near[:4]
        for k in (1, 4):
            same = [int(labels[j] == labels[i]) for j in near[:k]]
            hits[k] += max(same)
            precision[k] += sum(same) / k
    for k in (1, 4):
        assert found[f"recall_at_{k}"] == pytest.approx(hits[k] / 60)
        assert found[f"precision_at_{k}"] == pytest.approx(precision[k] / 60)
    assert 0 < found["recall_at_1"] < 1


def test_an_image_never_finds_itself_among_equals() -> None:
    _, place = retrieve(torch.ones(30, 4), torch.zeros(30, dtype=torch.int64), ranks=(5,))
    assert all(i not in row for i, row in enumerate(place.tolist()))


def test_nmi_ari_and_purity_of_separated_clusters() -> None:
    features, labels = blobs(500, noise=0.05)
    assert cluster_agreement(features, labels, 5) == pytest.approx({"nmi": 1, "ari": 1, "purity": 1})
    noise = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    found = cluster_agreement(noise, labels, 5)
    assert found["nmi"] < 0.05 and abs(found["ari"]) < 0.05 and 0.2 < found["purity"] < 0.4


@pytest.mark.parametrize("name", ["wrn_10_0.5", "resnet_18", "timm:resnet18", "timm:vit_tiny_patch16_224"])
def test_layers_are_pooled_to_the_size_asked_for(name: str) -> None:
    backbone, width = build_backbone(ModelConfig(name=name))
    size = 224 if "vit" in name else 32
    network = LayerFeatures(backbone, max_features=200).eval()
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        rows = network(x)
        last = backbone(x)
    assert len(network.sizes) == len(network.names) + 1 > 3
    assert rows.shape == (2, sum(network.sizes)) and network.sizes[-1] == width
    torch.testing.assert_close(rows[:, -width:], last)
    assert all(n <= max(200, w) for n, w in zip(network.sizes, [width] * len(network.sizes), strict=True))


def test_a_network_that_does_not_say_its_layers() -> None:
    with pytest.raises(ConfigError, match="Linear does not say what its layers are"):
        layer_names(nn.Linear(2, 2))


def test_the_monitor_leaves_the_network_as_it_was(digits: Path) -> None:
    samples, image = open_samples(digits / "labeled"), ImageConfig(size=8)
    images = Images(samples.shards, 8, cache=None, cache_bytes=0, threads=1)
    monitor = KnnMonitor(samples, images, image, CPU, num_images=100, seed=0)
    torch.manual_seed(0)
    network = build_classifier(ModelConfig(name="wrn_10_0.5"), 10).train()
    network.backbone.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    found = monitor(network)
    assert found == monitor(network) and 0.1 < found <= 1
    assert network.training and not network.backbone.training and network.dropout.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def save(ctx: RunContext, classes: tuple[str, ...], name: str = "wrn_10_0.5", size: int = 8) -> Checkpoint:
    torch.manual_seed(0)
    model, image = ModelConfig(name=name), ImageConfig(size=size)
    network = build_classifier(model, len(classes))
    checkpoint.save_model(ctx.path, network, checkpoint.describe_model(network, model, image, classes))
    return Checkpoint(path=str(ctx.path), num_parameters=1, step=0)


def test_a_test_set_with_some_of_the_classes(digits: Path, context: Callable[..., RunContext]) -> None:
    """ImageNet-A's way: the prediction is the most probable of the classes that the data has."""
    classes = ("other", *"9876543210", "more")
    model = save(context("model"), classes)
    data = Dataset(path=str(digits), num_samples={"test": 450}, classes=tuple("0123456789"))
    report = evaluate(context("report"), EvaluateConfig(), model=model, data=data)
    network, info = checkpoint.load_model(model.dir)
    samples = open_samples(digits / "test")
    images = Images(samples.shards, 8, cache=None, cache_bytes=0, threads=1, evaluation_crop=1.0)
    from sslscale.evaluate.outputs import network_outputs

    logits = network_outputs(network, info.image, images, *samples.places(), batch_size=100, device=CPU).numpy()
    right = 0
    for row, label in zip(logits, samples.labels, strict=True):
        allowed = {name: row[classes.index(name)] for name in "0123456789"}
        right += max(allowed, key=lambda name: allowed[name]) == str(label)
    assert report.metrics["test_accuracy"] == pytest.approx(right / len(samples))
    named = tuple((d, f"n0{d}") for d in "0123456789")
    other = save(context("named"), tuple(f"n0{d}" for d in reversed("0123456789")))
    with pytest.raises(
        DataError, match=r"does not know 10 of the 10 classes .*: 0, 1, 2, \.\.\.; name them by a class map"
    ):
        evaluate(context("unmapped"), EvaluateConfig(), model=other, data=data)
    found = evaluate(context("mapped"), EvaluateConfig(class_map=named), model=other, data=data)
    assert found.metrics["test_samples"] == 450


def test_outputs_that_are_not_finite_are_told(digits: Path) -> None:
    samples = open_samples(digits / "test")
    images = Images(samples.shards, 8, cache=None, cache_bytes=0, threads=1, evaluation_crop=1.0)
    network = build_classifier(ModelConfig(name="wrn_10_0.5"), 10)
    network.get_parameter("head.weight").data[3, 0] = torch.nan
    from sslscale.evaluate.outputs import network_outputs

    with pytest.raises(DataError, match="outputs are not finite for 450 of 450 images"):
        network_outputs(network, ImageConfig(size=8), images, *samples.places(), batch_size=100, device=CPU)


def test_outputs_in_bf16_are_near_those_in_fp32(digits: Path) -> None:
    samples = open_samples(digits / "test")
    images = Images(samples.shards, 8, cache=None, cache_bytes=0, threads=1, evaluation_crop=1.0)
    torch.manual_seed(0)
    network = build_classifier(ModelConfig(name="wrn_10_0.5"), 10)
    from sslscale.evaluate.outputs import network_outputs

    found = [
        network_outputs(
            network, ImageConfig(size=8), images, *samples.places(), batch_size=100, device=CPU, precision=precision
        )
        for precision in ("fp32", "bf16")
    ]
    assert found[1].dtype == torch.float32 and not torch.equal(found[0], found[1])
    assert (found[0] - found[1]).abs().max() < 0.05 * found[0].abs().max()
    assert canonical(ScoreConfig()) == {k: v for k, v in canonical(ScoreConfig()).items() if k != "precision"}
    assert canonical(ScoreConfig(precision="bf16"))["precision"] == "bf16"  # keys made before there was one stay


@pytest.mark.parametrize(("size", "kept"), [(8, 1), (80, 0)])
def test_a_stage_that_looks_once_keeps_small_images_alone(
    size: int,
    kept: int,
    digits: Path,
    context: Callable[..., RunContext],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSLSCALE_SCRATCH", str(tmp_path / "scratch"))
    ctx = context("score")
    open_one(ctx, read_index(digits / "unlabeled"), 0, ImageConfig(size=size))
    assert len(list(ctx.local.folder.glob("images/*-fit-*"))) == kept


def test_shares_of_the_labels_are_balanced_nested_and_drawn_by_the_seed(digits: Path) -> None:
    samples = open_samples(digits / "labeled")
    tenth, half = samples.share(0.1, 3), samples.share(0.5, 3)
    assert np.bincount(tenth.labels).tolist() == [1] * 10 and np.bincount(half.labels).tolist() == [5] * 10

    def keys(some: object) -> set[str]:
        return {some.key(n) for n in range(len(some))}  # type: ignore[attr-defined, arg-type]

    assert keys(tenth) < keys(half) < keys(samples)
    assert keys(samples.share(0.1, 4)) != keys(tenth)
    assert sum(half.block_sizes) == len(half) == 50
    assert len(dataclasses.replace(samples).share(0.001, 0)) == 10  # one of each class at least
