"""CTAugment: the rates against a literal transcription of the authors' code, the operations against PIL."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from sslscale.data.ctaugment import BINS, CTAugment, Policy, apply
from tests.unit.test_ops import photographs

IMAGES = photographs()
NAMES = list(BINS)


class Literal:
    """CTAugment of the authors' ctaugment.py, with its random numbers handed in."""

    def __init__(self, th: float = 0.8, decay: float = 0.99):
        self.decay, self.th = decay, th
        self.rates = {k: [np.ones(n) for n in bins if n > 1] for k, bins in BINS.items()}

    def rate_to_p(self, rate: np.ndarray) -> np.ndarray:
        p = rate + (1 - self.decay)
        p = p / p.max()
        p[p < self.th] = 0
        return p

    def update(self, name: str, levels: list[float], closeness: float) -> None:
        for p, rate in zip(levels, self.rates[name], strict=False):
            place = int(p * len(rate) * 0.999)
            rate[place] = rate[place] * self.decay + closeness * (1 - self.decay)


def test_rates_and_chances_follow_the_authors_code() -> None:
    ours, theirs = CTAugment(), Literal()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        policy = ours.policy(torch.rand(16, ours.num_draws, generator=generator), probe=True)
        closeness = torch.rand(16, generator=generator) ** 4
        ours.update(policy, closeness)
        for image in range(16):
            for layer in range(2):
                name = NAMES[int(policy.operation[image, layer])]
                theirs.update(name, policy.level[image, layer].tolist(), float(closeness[image]))
    weights = ours.weights()
    for number, (name, rates) in enumerate(theirs.rates.items()):
        for parameter, rate in enumerate(rates):
            expected = theirs.rate_to_p(rate)
            np.testing.assert_allclose(ours.rates[number, parameter, : len(rate)], rate, rtol=1e-4, err_msg=name)
            np.testing.assert_allclose(weights[number, parameter, : len(rate)], expected / expected.sum(), atol=2e-4)
    assert float(weights.min()) == 0  # some bins are below the threshold by now
    policy = ours.policy(torch.rand(40_000, ours.num_draws, generator=generator), probe=False)
    number = NAMES.index("rotate")
    drawn = (policy.level[policy.operation == number][:, 0] * 17).long()
    share = torch.bincount(drawn, minlength=17) / len(drawn)
    assert (share - weights[number, 0, :17]).abs().max() < 0.02
    again = CTAugment()
    again.load_state_dict(ours.state_dict())
    assert again.weights().equal(weights)


AFFINE = Image.Transform.AFFINE
PIL: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda x, v: Image.blend(x, ImageOps.autocontrast(x), v),
    "blur": lambda x, v: Image.blend(x, x.filter(ImageFilter.BLUR), v),
    "brightness": lambda x, v: ImageEnhance.Brightness(x).enhance(0.1 + 1.9 * v),
    "color": lambda x, v: ImageEnhance.Color(x).enhance(0.1 + 1.9 * v),
    "contrast": lambda x, v: ImageEnhance.Contrast(x).enhance(0.1 + 1.9 * v),
    "equalize": lambda x, v: Image.blend(x, ImageOps.equalize(x), v),
    "invert": lambda x, v: Image.blend(x, ImageOps.invert(x), v),
    "identity": lambda x, v: x,
    "posterize": lambda x, v: ImageOps.posterize(x, 1 + int(v * 7.999)),
    "rotate": lambda x, v: x.rotate(int(np.round((2 * v - 1) * 45))),
    "sharpness": lambda x, v: ImageEnhance.Sharpness(x).enhance(0.1 + 1.9 * v),
    "shear_x": lambda x, v: x.transform(x.size, AFFINE, (1, (2 * v - 1) * 0.3, 0, 0, 1, 0)),
    "shear_y": lambda x, v: x.transform(x.size, AFFINE, (1, 0, 0, (2 * v - 1) * 0.3, 1, 0)),
    "smooth": lambda x, v: Image.blend(x, x.filter(ImageFilter.SMOOTH), v),
    "solarize": lambda x, v: ImageOps.solarize(x, int(v * 255.999)),
    "translate_x": lambda x, v: x.transform(x.size, AFFINE, (1, 0, (2 * v - 1) * 0.3, 0, 1, 0)),
    "translate_y": lambda x, v: x.transform(x.size, AFFINE, (1, 0, 0, 0, 1, (2 * v - 1) * 0.3)),
}


@pytest.mark.parametrize("name", PIL)
def test_operations_equal_the_authors_by_pil(name: str) -> None:
    levels = torch.rand(48, generator=torch.Generator().manual_seed(3))
    policy = Policy(
        torch.full((48, 1), NAMES.index(name)), levels[:, None, None].expand(-1, 1, 2), torch.zeros(48, 1, 2)
    )
    ours = apply(IMAGES, policy)
    theirs = []
    for image, level in zip(IMAGES, levels.tolist(), strict=True):
        picture = PIL[name](Image.fromarray(image.permute(1, 2, 0).numpy()), level)
        theirs.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    difference = (ours.int() - torch.stack(theirs).int()).abs().float()
    moves = name.startswith(("rotate", "shear"))  # a point between two pixels may go to either
    assert difference.mean() < (2.0 if moves else 1.0)
    assert (difference > 2).float().mean() < (0.05 if moves else 0.005)


def test_cutout_and_rescale_do_what_they_say() -> None:
    level = torch.full((48, 1, 2), 0.8)
    cut = apply(IMAGES, Policy(torch.full((48, 1), NAMES.index("cutout")), level, torch.full((48, 1, 2), 0.5)))
    assert (cut[:, :, 10:22, 10:22] == 127).all() and cut[:, :, :9].equal(IMAGES[:, :, :9])
    scaled = apply(IMAGES, Policy(torch.full((48, 1), NAMES.index("rescale")), level, torch.zeros(48, 1, 2)))
    expected = torch.nn.functional.interpolate(IMAGES[:, :, 6:26, 6:26].float(), size=(32, 32), mode="bilinear")
    assert (scaled - expected).abs().mean() < 6
