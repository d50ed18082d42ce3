"""Classifiers of timm's making, their weights included, as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sslscale.errors import ConfigError, DataError
from sslscale.nn.classifier import Classifier, build_classifier
from sslscale.settings.model import ModelConfig
from sslscale.settings.pixels import RGB
from sslscale.settings.teacher import TimmConfig


def from_timm(config: TimmConfig, classes: tuple[str, ...]) -> tuple[Classifier, ModelConfig]:
    """A backbone with a linear classifier, whose outputs are the `classes` in their order, and how to build it again.

    Raises DataError for weights that do not fit, ConfigError for a model that does not know the classes, or is no
    backbone with one linear classifier.
    """
    if config.image.pixels != RGB:
        raise ConfigError(f"teacher: timm's classifiers take 8-bit RGB images, not {config.image.pixels}")
    theirs = _load(config, len(_listed(config) or classes))
    head = _head(config, theirs)
    rows = _rows(config, theirs, head.out_features, classes)
    model = ModelConfig(name=f"timm:{config.name}")
    network = build_classifier(model, len(rows))
    prefix = next(name for name, module in theirs.named_modules() if module is head)
    weights = {n: w for n, w in theirs.state_dict().items() if not n.startswith(f"{prefix}.")}
    network.backbone.load_state_dict(weights)
    network.head.load_state_dict({n: w[rows] for n, w in head.state_dict().items()}, strict=False)
    if head.bias is None:
        nn.init.zeros_(network.head.get_parameter("bias"))
    _compare(config, theirs, network, rows)
    return network, model


def _listed(config: TimmConfig) -> list[str] | None:
    if config.classes is None:
        return None
    return [line.strip() for line in Path(config.classes).read_text(encoding="utf-8").splitlines() if line.strip()]


def _load(config: TimmConfig, num_classes: int) -> nn.Module:
    """The model as timm makes it, with the weights of the file or the published ones."""
    import timm
    from timm.models import load_state_dict

    name = config.name
    if not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ConfigError(f"teacher: timm has no model {name!r}; it has, among others, {', '.join(near)}")
    if config.weights is None:
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        published: Any = timm.get_pretrained_cfg(name) if name in known or "." not in name else None
        if published is None or not published.has_weights:
            others = f", but of {', '.join(known[:3])}" if known else ""
            raise ConfigError(f"teacher: timm publishes no weights of {name}{others}: give teacher.weights a file")
        if (tuple(published.mean), tuple(published.std)) != (config.image.mean, config.image.std):
            own = f"image.mean {published.mean} and std {published.std}"
            raise ConfigError(f"teacher: {name} was trained with {own}: set them so")
        try:
            return timm.create_model(name, pretrained=True).eval()
        except Exception as error:  # of the hub's and of sockets, of many kinds
            raise DataError(
                f"teacher: the weights of {name} cannot be fetched ({error}); give a file of them"
            ) from None
    try:
        weights = load_state_dict(config.weights)
    except Exception as error:  # zip, pickle, safetensors and timm have theirs
        raise DataError(f"{config.weights}: cannot be read as weights of {name}: {error}") from None
    blank: Any = timm.create_model(name, num_classes=1)
    key = f"{blank.pretrained_cfg['classifier']}.weight"
    found = len(weights[key]) if key in weights else num_classes
    network = timm.create_model(name, num_classes=found)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{config.weights}: the weights do not fit timm's {name}: {error}") from None
    return network.eval()


def _head(config: TimmConfig, network: Any) -> nn.Linear:
    head = network.get_classifier()
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"teacher: timm's {config.name} has no single linear classifier but {type(head).__name__}")
    return head


def _rows(config: TimmConfig, network: nn.Module, outputs: int, classes: tuple[str, ...]) -> list[int]:
    """Where each of the data's classes is among the model's outputs."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    names = _listed(config)
    subset = infer_imagenet_subset(network) if names is None else None
    if subset is not None:
        known = list(ImageNetInfo(subset).label_names())
        names = known if set(classes) <= set(known) else None
    names = list(classes) if names is None else names
    if len(names) != outputs:
        raise ConfigError(
            f"teacher: {config.name} tells {outputs:,} classes apart, and {len(names):,} are named; name all, in the "
            "order of its outputs, in a text file with a class in each line, and give that as teacher.classes"
        )
    missing = [name for name in classes if name not in names]
    if missing:
        raise ConfigError(f"teacher: {config.name} does not know the data's class {missing[0]!r} ({len(missing)} so)")
    return [names.index(name) for name in classes]


def _compare(config: TimmConfig, theirs: nn.Module, ours: nn.Module, rows: list[int]) -> None:
    """Raise ConfigError unless both say the same of noise: some models of timm do more than features and one layer."""
    size = config.image.size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        with torch.no_grad():
            expected, found = theirs(images)[:, rows], ours.eval()(images)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"teacher: {config.name} does not take images of {size} pixels: {error}") from None
    if not torch.allclose(expected, found, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise ConfigError(f"teacher: timm's {config.name} is no backbone with one linear classifier on its features")
