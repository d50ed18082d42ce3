"""CTAugment (Berthelot et al. 2020, arXiv:1911.09785, section 3.2; constants of google-research/fixmatch): random
operations whose strengths are learned while training, from how well the network still knows a distorted labelled image.

Each parameter of each operation has bins; a bin's rate is a running mean of that closeness. Strong views draw bins in
proportion to their rates, and only those above a threshold; probes draw any strength.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.data import geometry, ops
from sslscale.data.transfer import to_device
from sslscale.shapes import Float, Int, UInt8

# operation -> bins of its first and second parameter; 1 where it has none
BINS: dict[str, tuple[int, int]] = {
    "autocontrast": (17, 1), "blur": (17, 1), "brightness": (17, 1), "color": (17, 1), "contrast": (17, 1),
    "cutout": (17, 1), "equalize": (17, 1), "invert": (17, 1), "identity": (1, 1), "posterize": (8, 1),
    "rescale": (17, 6), "rotate": (17, 1), "sharpness": (17, 1), "shear_x": (17, 1), "shear_y": (17, 1),
    "smooth": (17, 1), "solarize": (17, 1), "translate_x": (17, 1), "translate_y": (17, 1),
}  # fmt: skip
_NAMES = tuple(BINS)
_SLOTS = 7  # numbers that one layer draws: operation; bin and place in it, twice; cutout's x and y
FILL = 127  # cutout's; empty pixels are black, as PIL leaves them


@dataclass(frozen=True)
class Policy:
    """What happens to each image: `operation` numbers BINS, `level` are its two parameters in [0, 1)."""

    operation: Int[Tensor, "batch depth"]
    level: Float[Tensor, "batch depth 2"]
    place: Float[Tensor, "batch depth 2"]  # cutout's x and y


class CTAugment:
    """The rates, which policies are drawn from. On the CPU; the same on every worker that is told the same."""

    def __init__(self, *, depth: int = 2, threshold: float = 0.8, decay: float = 0.99):
        self.depth, self.threshold, self.decay = depth, threshold, decay
        self.rates = torch.ones(len(BINS), 2, max(max(bins) for bins in BINS.values()))
        self._bins = torch.tensor(list(BINS.values()))
        self._real = torch.arange(self.rates.shape[2]) < self._bins[:, :, None]

    @property
    def num_draws(self) -> int:
        """How many uniform numbers a policy needs for one image."""
        return self.depth * _SLOTS

    def weights(self) -> Float[Tensor, "operations 2 bins"]:
        """Chances of the bins: rate + 1 - decay as a share of the largest, 0 below the threshold, normalised."""
        p = (self.rates + (1 - self.decay)) * self._real
        p = p / p.amax(2, keepdim=True)
        p = torch.where(p < self.threshold, 0.0, p)
        return p / p.sum(2, keepdim=True)

    def policy(self, draws: Float[Tensor, "batch draws"], *, probe: bool) -> Policy:
        """Draw operations and levels: by the rates, or anywhere with `probe`."""
        mine = draws.view(len(draws), self.depth, _SLOTS)
        operation = (mine[..., 0] * len(BINS)).long()
        within = mine[..., [2, 4]]
        if probe:
            return Policy(operation, within, mine[..., 5:])
        edges = self.weights().cumsum(2)[operation]
        pick = mine[..., [1, 3]][..., None]
        number = (pick * edges[..., -1:] >= edges).sum(3)
        number = torch.minimum(number, self._bins[operation] - 1)
        return Policy(operation, (number + within) / self._bins[operation], mine[..., 5:])

    def update(self, policy: Policy, closeness: Float[Tensor, " batch"]) -> None:
        """Take up what probes showed, image by image: rate = decay * rate + (1 - decay) * closeness.

        `closeness` is 1 - |p - y|_1 / 2 of the prediction for the probe and its label. All workers must pass the
        images of all workers, in one order.
        """
        bins = self._bins[policy.operation]
        number = (policy.level * bins * 0.999).long()
        for image, value in enumerate(closeness.tolist()):
            for layer in range(self.depth):
                for parameter in range(2):
                    place = int(policy.operation[image, layer]), parameter, int(number[image, layer, parameter])
                    self.rates[place] = self.rates[place] * self.decay + value * (1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        """The rates."""
        return {"rates": self.rates.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from these rates."""
        self.rates = state["rates"].clone()


def apply(
    images: UInt8[Tensor, "batch channels height width"], policy: Policy
) -> UInt8[Tensor, "batch channels height width"]:
    """Run each layer; an operation runs once, on all images that drew it."""
    for layer in range(policy.operation.shape[1]):
        chosen = policy.operation[:, layer]
        result = torch.empty_like(images)
        for number in chosen.unique().tolist():
            rows = torch.nonzero(chosen == number).squeeze(1)
            here = to_device(rows, images.device)
            level, place = (to_device(x[rows, layer], images.device) for x in (policy.level, policy.place))
            result[here] = _run(_NAMES[number], images[here], level[:, 0], level[:, 1], place)
        images = result
    return images


def _run(name: str, images: Tensor, level: Tensor, second: Tensor, place: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    signed = 2 * level - 1
    match name:
        case "autocontrast" | "equalize" | "invert":
            return _blend(images, getattr(ops, name)(images), level)
        case "blur":  # PIL's BLUR: the border of a square of 5 x 5
            kernel = torch.ones(5, 5)
            kernel[1:4, 1:4] = 0
            return _blend(images, _filter(images, kernel / 16), level)
        case "smooth":
            kernel = torch.ones(3, 3)
            kernel[1, 1] = 5
            return _blend(images, _filter(images, kernel / 13), level)
        case "brightness" | "contrast" | "sharpness":
            return getattr(ops, name)(images, 0.1 + 1.9 * level)
        case "color":
            return ops.saturation(images, 0.1 + 1.9 * level)
        case "cutout":
            half = (1 + (level * min(height, width) * 0.499).long()) // 2
            return geometry.cutout(images, place[:, 0], place[:, 1], half, fill=FILL)
        case "posterize":
            return ops.posterize(images, 1 + (level * 7.999).long())
        case "solarize":
            return ops.solarize(images, (level * 255.999).floor())
        case "rescale":  # the sixth filter is PIL's nearest; the others are bilinear here
            cut = 0.25 * level
            box = torch.stack([cut * height, cut * width, height * (1 - 2 * cut), width * (1 - 2 * cut)], 1)
            nearest = (second * 5.99).long() == 5
            matrix = torch.zeros(len(images), 2, 3, device=images.device)
            matrix[:, 0, 0] = matrix[:, 1, 1] = 1 - 2 * cut
            plain = geometry.affine(images, matrix, 0)
            smooth = geometry.resized_crop(images, box, height).round_().to(images.dtype)
            return torch.where(nearest.view(-1, 1, 1, 1), plain, smooth)
        case "rotate":
            return geometry.rotate(images, (signed * 45).round(), 0)
        case "shear_x":
            return geometry.shear_x(images, signed * 0.3, 0)
        case "shear_y":
            return geometry.shear_y(images, signed * 0.3, 0)
        case "translate_x":  # 0.3 of a pixel, no more: so the authors' code has it, and so it does nearly nothing
            return geometry.translate(images, -signed * 0.3, torch.zeros_like(level), 0)
        case "translate_y":
            return geometry.translate(images, torch.zeros_like(level), -signed * 0.3, 0)
    return images


def _blend(images: Tensor, other: Tensor, level: Tensor) -> Tensor:
    share = level.view(-1, 1, 1, 1)
    return (images * (1 - share) + other * share).clamp_(0, 255).to(torch.uint8)


def _filter(images: Tensor, kernel: Tensor) -> Tensor:
    """A PIL filter: the border that the kernel does not reach stays."""
    reach = len(kernel) // 2
    out = images.to(torch.float32, copy=True)
    count = images.shape[1]
    weight = to_device(kernel, images.device).expand(count, 1, *kernel.shape)
    out[:, :, reach:-reach, reach:-reach] = F.conv2d(images.float(), weight, groups=count).add_(0.5).floor_()
    return out
