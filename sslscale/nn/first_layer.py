"""The layer that takes an image's channels, and weights for other channels than it was trained with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sslscale.shapes import Float

_RGB = 3


def input_channels(network: nn.Module) -> int:
    """The channels of the images that a network takes: those of its first convolution, else three."""
    return next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), _RGB)


def adapted(weight: Float[Tensor, "outputs 3 h w"], channels: int) -> Float[Tensor, "outputs channels h w"]:
    """Weights for RGB as weights for so many channels, as timm adapts them: added up for one channel; for others those
    of red, green and blue again and again, times 3 / channels, so that the outputs keep their size."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    times = -(-channels // _RGB)
    return weight.repeat(1, times, 1, 1)[:, :channels] * (_RGB / channels)


def adapt(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with those of a first layer for RGB made as wide as the wanted one, if that takes other channels."""
    made = dict(weights)
    for name, own in weights.items():
        other = wanted.get(name)
        if other is None or own.ndim != 4 or other.ndim != 4 or own.shape[1] != _RGB or own.shape == other.shape:
            continue
        if own.shape[0] == other.shape[0] and own.shape[2:] == other.shape[2:]:
            made[name] = adapted(own.float(), other.shape[1]).to(own.dtype)
    return made
