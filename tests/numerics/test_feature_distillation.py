"""Feature distillation's loss, and which features reach which image."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sslscale.data.index import read_index
from sslscale.data.joined import open_described
from sslscale.data.stream import Stream
from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.methods.feature_distillation.method import feature_distance
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.features import ExtractConfig
from sslscale.settings.model import ImageConfig
from sslscale.stages.extract import extract
from tests.unit.test_evaluation import save


def test_the_loss_is_the_squared_distance_of_unit_vectors() -> None:
    torch.manual_seed(0)
    p, f = torch.randn(9, 5) * 3, torch.randn(9, 5)
    for mine, a, b in zip(feature_distance(p, f), p.double().tolist(), f.double().tolist(), strict=True):
        x, y = (math.sqrt(sum(v * v for v in vector)) for vector in (a, b))
        assert float(mine) == pytest.approx(sum((u / x - v / y) ** 2 for u, v in zip(a, b, strict=True)), rel=1e-5)
    eye = torch.eye(4)
    assert feature_distance(eye, 7 * eye).abs().max() < 1e-6  # the same direction
    torch.testing.assert_close(feature_distance(eye, -eye), torch.full((4,), 4.0))
    torch.testing.assert_close(feature_distance(eye, eye.roll(1, 0)), torch.full((4,), 2.0))


def test_features_are_those_of_the_image_they_come_with(digits: Path, context: Callable[..., RunContext]) -> None:
    model = save(context("model"), tuple("0123456789"))
    counts = {split: read_index(digits / split).num_samples for split in ("labeled", "unlabeled", "test")}
    data = Dataset(path=str(digits), num_samples=counts, classes=tuple("0123456789"))
    found = extract(context("features"), ExtractConfig(), model=model, data=data)
    assert found.num_samples == counts and found.dim == 32
    splits = ("labeled", "unlabeled")
    stream = Stream(
        "images",
        open_described(digits, found.dir, splits),
        batch_size=50,
        seed=0,
        image=ImageConfig(size=8),
        views=(AugmentConfig(),),
        fields=("features",),
        cache=None,
        cache_bytes=0,
        threads=1,
    )
    from sslscale.train.checkpoint import load_backbone

    backbone, _ = load_backbone(model.dir)
    for step in (0, 7):
        batch = stream.finish(stream.load(*stream.choose(step)))
        assert batch.features is not None
        with torch.inference_mode():
            torch.testing.assert_close(batch.features, backbone(batch.views[0]), rtol=2e-3, atol=2e-3)
    again = extract(context("features"), ExtractConfig(), model=model, data=data)  # all files are there: none is redone
    assert again == found
    np.save(found.dir / "unlabeled" / "features-000000.npy", np.zeros((3, 32), np.float16))
    with pytest.raises(DataError, match="its features are not those of the images"):
        open_described(digits, found.dir, splits)


def test_a_network_that_diverged_is_named(digits: Path, context: Callable[..., RunContext]) -> None:
    from safetensors.torch import load_file, save_file

    model = save(context("model"), tuple("0123456789"))
    file = model.dir / "model.safetensors"
    weights = load_file(file)
    weights["backbone.norm.weight"][:] = 1e9
    save_file(weights, file)
    data = Dataset(path=str(digits), num_samples={"labeled": 100}, classes=tuple("0123456789"))
    with pytest.raises(DataError, match=r"its features are not finite as float16 .* has the training of .* diverged"):
        extract(context("features"), ExtractConfig(), model=model, data=data)
