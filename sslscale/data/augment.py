"""Views of whole batches, made on the device that trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import torch
from torch import Tensor

from sslscale.data import geometry, ops
from sslscale.data.plan import SLOTS, Plan
from sslscale.data.transfer import constant, to_device
from sslscale.settings.augment import AugmentConfig, RandAugmentConfig
from sslscale.shapes import Bool, Float, UInt, UInt8

CHUNK_VALUES = 400_000  # of one step on a CPU: intermediate results stay in its second-level cache


def make_view(
    images: UInt[Tensor, "batch channels height width"],
    plan: Plan,
    config: AugmentConfig,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    cropped: bool = False,
) -> Float[Tensor, "batch channels h w"]:
    """Augment and normalise, channels-last, on the images' device.

    `cropped` says that the images are cut to their boxes and scaled already.
    """
    square = config.crop == "resized" or images.shape[-2:] == (size, size)
    kernels = _kernels() if images.device.type == "cpu" and square and _by_kernels(plan) else None
    if kernels is not None:
        kernel_size = config.blur.pixels(size) if config.blur else 1
        return kernels.views(images, plan, size, kernel_size, mean, std, cropped=cropped)
    shape = (size, size) if config.crop == "resized" else tuple(images.shape[-2:])
    return _normalized(
        images, shape, mean, std, lambda part: augment(images[part], plan.part(part), config, size, cropped=cropped)
    )


def augment(
    images: UInt[Tensor, "batch channels height width"],
    plan: Plan,
    config: AugmentConfig,
    size: int,
    *,
    cropped: bool = False,
) -> UInt8[Tensor, "batch channels h w"] | Float[Tensor, "batch channels h w"]:
    """One view, in the order that AugmentConfig names.

    uint8 where no operation needs more; else float in 0 .. 255, without rounding between the operations. Images of 16
    bits are floats throughout: only what counts values (equalize, posterize) rounds them to 256 levels.
    """
    deep = images.dtype == torch.uint16
    images = _values(images)

    def here(x: Tensor) -> Tensor:
        return to_device(x, images.device)

    mirrored = None if plan.mirrored is None else here(plan.mirrored)
    if plan.boxes is not None and not cropped:
        images, mirrored = geometry.resized_crop(images, here(plan.boxes), size, mirrored), None
    elif plan.shift is not None:
        x, y = here(plan.shift).unbind(1)
        images = geometry.pad_and_crop(images, x, y, config.padding)
    if mirrored is not None:
        images = geometry.flip(images, mirrored)
    if plan.colors is not None and plan.hue is not None and plan.hue_place is not None:
        rows = [torch.nonzero(plan.hue_place == place).squeeze(1) for place in range(4)]
        own = images if images.is_floating_point() else images.float()
        images = ops.color_jitter(own, here(plan.colors), [(here(r), here(plan.hue[r])) for r in rows])
    images = _some(images, plan.gray, lambda x, rows: ops.grayscale(x))
    if plan.sigma is not None and config.blur is not None:
        sigma, kernel = plan.sigma, config.blur.pixels(size)
        images = _some(images, sigma > 0, lambda x, rows: ops.gaussian_blur(x, here(sigma[rows]), kernel))
    images = _some(images, plan.solarized, lambda x, rows: ops.solarize(x, x.new_full((len(x),), 128)))
    images = _some(images, plan.equalized, lambda x, rows: ops.equalize(_round(x)).to(x.dtype))
    if plan.layers is not None and config.randaugment is not None:
        images = randaugment(images if deep else _round(images), plan.layers, config.randaugment)
    if plan.cutout is not None:
        x, y = here(plan.cutout).unbind(1)
        images = geometry.cutout(images, x, y, torch.full_like(x, round(size * config.cutout / 2)))
    if plan.erased is not None:
        images = geometry.erase(images, here(plan.erased))
    return images


def _values(images: Tensor) -> Tensor:
    """16 bits as float in 0 .. 255; other images as they are."""
    return images.float().div_(257) if images.dtype == torch.uint16 else images


def _round(images: Tensor) -> UInt8[Tensor, "batch channels height width"]:
    return images.round().to(torch.uint8) if images.is_floating_point() else images


def _some(
    images: Tensor, drawn: Bool[Tensor, " batch"] | None, operation: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Run an operation on the images that drew it; it is given them and their rows (on the CPU)."""
    if drawn is None:
        return images
    rows = torch.nonzero(drawn).squeeze(1)
    if len(rows) == 0:
        return images
    place = to_device(rows, images.device)
    if not images.is_floating_point():
        images = images.clone()  # they may be the loader's
    return images.index_copy_(0, place, operation(images[place], rows))


def _by_kernels(plan: Plan) -> bool:
    """Whether the plan asks for what `kernels` does fast, and for nothing else."""
    fast = (plan.boxes, plan.colors, plan.sigma)
    others = (plan.shift, plan.equalized, plan.layers, plan.cutout, plan.erased)
    return any(column is not None for column in fast) and all(column is None for column in others)


@functools.cache
def _kernels() -> ModuleType | None:
    try:
        from sslscale.data import kernels
    except ImportError:  # no numba: the core runs with torch alone
        return None
    return kernels


def _parts(images: Tensor, shape: Sequence[int]) -> Iterator[slice]:
    step = len(images)
    if images.device.type == "cpu":
        step = max(CHUNK_VALUES // (images.shape[1] * max(shape[0] * shape[1], images.shape[-2] * images.shape[-1])), 1)
    for start in range(0, len(images), max(step, 1)):
        yield slice(start, min(start + step, len(images)))


def normalize(
    images: UInt[Tensor, "batch channels h w"] | Float[Tensor, "batch channels h w"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Tensor, "batch channels h w"]:
    """Scale 0 .. 255, or 0 .. 65535 of 16 bits, to 0 .. 1, and that to (value - mean) / std by channel.

    Channels-last: convolutions are up to 1.7x faster."""
    return _normalized(images, images.shape[-2:], mean, std, lambda part: _values(images[part]))


def _normalized(
    images: Tensor,
    shape: Sequence[int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    view: Callable[[slice], Tensor],
) -> Float[Tensor, "batch channels h w"]:
    device = images.device
    scale = constant(tuple(1 / (255 * s) for s in std), device).view(-1, 1, 1)
    shift = constant(tuple(-m / s for m, s in zip(mean, std, strict=True)), device).view(-1, 1, 1)
    result = torch.empty(
        len(images), images.shape[1], *shape, device=device, memory_format=torch.channels_last, dtype=torch.float32
    )
    for part in _parts(images, shape):
        result[part].copy_((view(part) * scale).add_(shift))  # the copy transposes, while the part is in the cache
    return result


_Op = Callable[["Tensor", "Tensor", "Tensor", RandAugmentConfig], "Tensor"]


def _enhance(function: Callable[[Tensor, Tensor], Tensor]) -> _Op:
    return lambda images, draws, sign, c: function(images, torch.full_like(sign, c.magnitude / 10 * 1.8 + 0.1))


def _full(sign: Tensor, value: float) -> Tensor:
    return torch.full_like(sign, value)


# Where the operations that move pixels take each from, given signs, settings, height and width.
MOVES: dict[str, Callable[[Tensor, RandAugmentConfig, int, int], Tensor]] = {
    "rotate": lambda sign, c, height, width: geometry.rotation(sign * (c.magnitude / 10 * 30)),
    "shear_x": lambda sign, c, height, width: geometry.shear(sign * (c.magnitude / 10 * 0.3), height, 0),
    "shear_y": lambda sign, c, height, width: geometry.shear(sign * (c.magnitude / 10 * 0.3), width, 1),
    "translate_x": lambda sign, c, height, width: geometry.translation(
        sign * (c.magnitude / 10 * c.translate * width), torch.zeros_like(sign)
    ),
    "translate_y": lambda sign, c, height, width: geometry.translation(
        torch.zeros_like(sign), sign * (c.magnitude / 10 * c.translate * width)
    ),
}


def _moved(name: str) -> _Op:
    return lambda images, draws, sign, c: geometry.affine(images, MOVES[name](sign, c, *images.shape[-2:]))


# RandAugment (Cubuk et al. 2020, arXiv:1909.13719) as Noisy Student's authors run it: the 16 operations of their
# randaugment.py, one magnitude on a scale where 10 is AutoAugment's maximum, and no clamp above it. At magnitude 27
# rotation is 81 degrees, posterize and solarize therefore change nothing, and a translation may leave the frame.
OPERATIONS: dict[str, _Op] = {
    "autocontrast": lambda images, draws, sign, c: ops.autocontrast(images),
    "equalize": lambda images, draws, sign, c: ops.equalize(_round(images)).to(images.dtype),
    "invert": lambda images, draws, sign, c: ops.invert(images),
    "rotate": _moved("rotate"),
    "posterize": lambda images, draws, sign, c: ops.posterize(
        _round(images), torch.full_like(sign, int(c.magnitude / 10 * 4), dtype=torch.int64)
    ).to(images.dtype),
    "solarize": lambda images, draws, sign, c: ops.solarize(images, _full(sign, int(c.magnitude / 10 * 256))),
    "color": _enhance(ops.saturation),
    "contrast": _enhance(ops.contrast),
    "brightness": _enhance(ops.brightness),
    "sharpness": _enhance(ops.sharpness),
    "shear_x": _moved("shear_x"),
    "shear_y": _moved("shear_y"),
    "translate_x": _moved("translate_x"),
    "translate_y": _moved("translate_y"),
    "solarize_add": lambda images, draws, sign, c: ops.solarize_add(images, _full(sign, int(c.magnitude / 10 * 110))),
    "cutout": lambda images, draws, sign, c: geometry.cutout(
        images, draws[:, 2], draws[:, 3], _full(sign, int(_pixels(images, c.magnitude, c.cutout)))
    ),
}


def _pixels(images: Tensor, magnitude: float, share: float) -> float:
    return magnitude / 10 * share * images.shape[-1]


def moves(draws: Float[Tensor, "batch draws"], config: RandAugmentConfig, side: int) -> Float[Tensor, "batch 3 3"]:
    """Where all layers together take the pixels of a square image from: (x, y, 1), counted from its centre."""
    total = torch.eye(3).repeat(len(draws), 1, 1)
    for layer in range(config.num_ops):
        choice, sign = _drawn(draws, layer, config)
        for number, name in enumerate(config.operations):
            if name in MOVES:
                own = geometry.squared(MOVES[name](sign, config, side, side))
                total = torch.where((choice == number)[:, None, None], total @ own, total)
    return total


def _drawn(draws: Float[Tensor, "batch draws"], layer: int, config: RandAugmentConfig) -> tuple[Tensor, Tensor]:
    """Operation and sign of one layer for each image."""
    mine = draws[:, layer * SLOTS : (layer + 1) * SLOTS]
    return (mine[:, 0] * len(config.operations)).long(), torch.where(mine[:, 1] < 0.5, -1.0, 1.0)


def randaugment(
    images: UInt8[Tensor, "batch channels h w"] | Float[Tensor, "batch channels h w"],
    draws: Float[Tensor, "batch draws"],
    config: RandAugmentConfig,
) -> UInt8[Tensor, "batch channels h w"] | Float[Tensor, "batch channels h w"]:
    """Apply `num_ops` operations drawn with replacement; each operation runs on the images that drew it."""
    device = images.device
    for layer in range(config.num_ops):
        mine = draws[:, layer * SLOTS : (layer + 1) * SLOTS]
        choice, sign = _drawn(draws, layer, config)
        order = torch.argsort(choice)
        counts = torch.bincount(choice, minlength=len(config.operations)).tolist()
        result = torch.empty_like(images)
        start = 0
        for name, count in zip(config.operations, counts, strict=True):
            if count:
                rows = order[start : start + count]
                here = to_device(rows, device)
                numbers, signs = to_device(mine[rows], device), to_device(sign[rows], device)
                result[here] = OPERATIONS[name](images[here], numbers, signs, config)
            start += count
        images = result
    return images
