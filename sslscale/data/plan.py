"""What happens to each image of a batch, drawn from its own random numbers.

These stay on the CPU, so that which images an operation runs on is known without waiting for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sslscale.data import geometry
from sslscale.settings.augment import AugmentConfig, JitterConfig
from sslscale.shapes import Bool, Float, Int

SLOTS = 5  # numbers that one RandAugment layer draws: operation, sign, cutout's x and y, one to spare
_FIXED = 5  # pad-and-crop's x and y, flip, the last cutout's x and y
_REST = 12  # jitter: whether, 4 factors, 4 for the order; grayscale, solarize, equalize
_BLUR, _ERASE = 2, 1 + geometry.ERASE_DRAWS


def num_draws(config: AugmentConfig) -> int:
    """How many random numbers one view of one image needs."""
    return _layout(config)[""].stop


def _layout(config: AugmentConfig) -> dict[str, slice]:
    layers = config.randaugment.num_ops if config.randaugment else 0
    counts = {
        "fixed": _FIXED,
        "randaugment": layers * SLOTS,
        "crop": {"resized": geometry.CROP_DRAWS, "scale": 2}.get(config.crop, 0),
        "rest": _REST,
        "blur": _BLUR if config.blur else 0,
        "erase": _ERASE if config.erase else 0,
        "": 0,
    }
    layout, start = {}, 0
    for name, count in counts.items():
        layout[name] = slice(start, start + count)
        start += count
    return layout


@dataclass(frozen=True)
class Plan:
    """What happens to each image of a batch: one row an image, on the CPU. None where nothing can happen."""

    boxes: Float[Tensor, "batch 4"] | None  # top, left, height, width
    shift: Float[Tensor, "batch 2"] | None  # pad-and-crop's x and y
    mirrored: Bool[Tensor, " batch"] | None
    colors: Float[Tensor, "batch 4 3"] | None  # see ops.color_jitter
    hue: Float[Tensor, " batch"] | None
    hue_place: Int[Tensor, " batch"] | None  # which of the 4 passes turns the hue; -1 for none
    gray: Bool[Tensor, " batch"] | None
    sigma: Float[Tensor, " batch"] | None  # of the blur; 0 for none
    solarized: Bool[Tensor, " batch"] | None
    equalized: Bool[Tensor, " batch"] | None
    layers: Float[Tensor, "batch draws"] | None  # RandAugment's
    cutout: Float[Tensor, "batch 2"] | None
    erased: Float[Tensor, "batch 4"] | None

    def part(self, rows: slice) -> Plan:
        """The plan of some of the images."""
        return Plan(*(None if (column := getattr(self, f.name)) is None else column[rows] for f in fields(self)))


def make_plan(
    draws: Float[Tensor, "batch draws"],
    config: AugmentConfig,
    size: int,
    height: Int[Tensor, " batch"] | int,
    width: Int[Tensor, " batch"] | int,
    across: int | None = None,
) -> Plan:
    """Turn each image's random numbers into the parameters of its view; images are height x width, views size x size,
    or size x `across`.

    The same draws always give the same plan.
    """
    layout = _layout(config)
    fixed, rest = draws[:, layout["fixed"]], draws[:, layout["rest"]]
    boxes = sigma = erased = colors = hue = hue_place = None
    if config.crop == "resized":
        boxes = geometry.crop_boxes(draws[:, layout["crop"]], height, width, config.scale, config.ratio)
    if config.jitter is not None:
        colors, hue, hue_place = _plan_jitter(rest[:, :9], config.jitter)
    if config.blur is not None:
        chance, place = draws[:, layout["blur"]].unbind(1)
        low, high = config.blur.sigma
        sigma = (low + (high - low) * place) * (chance < config.blur.p)
    if config.erase:
        mine = draws[:, layout["erase"]]
        erased = geometry.erase_boxes(mine[:, 1:], size, across or size) * (mine[:, :1] < config.erase)
    return Plan(
        boxes=boxes,
        shift=fixed[:, :2] if config.crop == "pad" else None,
        mirrored=fixed[:, 2] < 0.5 if config.flip else None,
        colors=colors,
        hue=hue,
        hue_place=hue_place,
        gray=rest[:, 9] < config.grayscale if config.grayscale else None,
        sigma=sigma,
        solarized=rest[:, 10] < config.solarize if config.solarize else None,
        equalized=rest[:, 11] < config.equalize if config.equalize else None,
        layers=draws[:, layout["randaugment"]] if config.randaugment else None,
        cutout=fixed[:, 3:5] if config.cutout else None,
        erased=erased,
    )


def plan_scale(draws: Float[Tensor, "batch draws"], config: AugmentConfig) -> Float[Tensor, "batch 3"]:
    """For crop: scale, each image's factor, and where it is cut, x and y in [0, 1)."""
    layout = _layout(config)
    if config.crop != "scale":
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(draws), 3)
    low, high = config.factors
    factor = low + (high - low) * draws[:, layout["crop"]][:, :1]
    return torch.cat([factor, draws[:, layout["fixed"]][:, :2]], 1)


def policy_seeds(draws: Float[Tensor, "batch draws"], config: AugmentConfig) -> list[int]:
    """For autoaugment, a seed for each image."""
    return (draws[:, _layout(config)["crop"]][:, 1] * (1 << 24)).long().tolist()


def _plan_jitter(draws: Float[Tensor, "batch 9"], config: JitterConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The three coefficients of each of 4 passes, the turn of the hue, and the pass that turns it."""
    drawn = draws[:, 0] < config.p
    factors = torch.ones(len(draws), 4)  # brightness, contrast, saturation; the hue has no factor
    for column, strength in enumerate((config.brightness, config.contrast, config.saturation)):
        low = max(1 - strength, 0.0)
        factors[:, column] = torch.where(drawn, low + (1 + strength - low) * draws[:, 1 + column], 1.0)
    order = torch.argsort(draws[:, 5:9], dim=1)
    factor = factors.gather(1, order)
    rest = 1 - factor
    colors = torch.stack([factor, rest * (order == 2), rest * (order == 1)], 2)
    place = torch.where(drawn & (config.hue > 0), (order == 3).to(torch.int8).argmax(1), -1)
    return colors, config.hue * (2 * draws[:, 4] - 1), place
