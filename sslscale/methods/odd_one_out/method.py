"""Odd-one-out networks (O3N, arXiv:1611.06646)."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor, nn

from sslscale.errors import ConfigError
from sslscale.methods.frames import take
from sslscale.methods.method import Losses, Picture
from sslscale.methods.odd_one_out import OddOneOut
from sslscale.methods.pretext import PretextMethod, Task, classify, hashed
from sslscale.shapes import Float, Int


class OddTask(Task):
    """Sub-clips, their features, and which of them is the odd one."""

    num_draws = 3
    orders: Tensor

    def __init__(self, settings: OddOneOut, width: int):
        super().__init__()
        self.settings = settings
        plain = tuple(range(settings.length))
        odd = [order for order in permutations(plain) if order not in (plain, plain[::-1])]
        self.register_buffer("orders", torch.tensor(odd), persistent=False)
        parts = settings.length if settings.encoding == "frames" else 1
        self.encode = nn.Sequential(nn.Linear(parts * width, settings.hidden), nn.ReLU())
        fused = settings.hidden * (settings.questions if settings.fusion == "concatenation" else 1)
        self.head = nn.Sequential(
            nn.Linear(fused, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, settings.questions)
        )

    def questions(
        self, frames: int, draws: Float[Tensor, "batch draws"]
    ) -> tuple[Int[Tensor, "batch questions length"], Int[Tensor, " batch"]]:
        """The frames of each sub-clip, as they are shown, and the number of the odd one; raises ConfigError."""
        own = self.settings
        starts = frames - (own.length - 1) * own.stride
        if starts < own.questions:
            least = own.questions + (own.length - 1) * own.stride
            raise ConfigError(
                f"method.questions: clips of {frames} frames hold no {own.questions} different sub-clips: pack clips "
                f"of {least} frames or more (data.video.frames)"
            )
        start = hashed(draws[:, 0], starts).argsort(1)[:, : own.questions]
        place = torch.arange(own.length, device=draws.device) * own.stride
        odd = (draws[:, 1] * own.questions).long()
        order = self.orders[(draws[:, 2] * len(self.orders)).long()]
        is_odd = torch.arange(own.questions, device=draws.device) == odd[:, None]
        shown = torch.where(is_odd[..., None], order[:, None] * own.stride, place)
        return start[..., None] + shown, odd

    def features(
        self,
        backbone: nn.Module,
        view: Float[Tensor, "batch frames 3 h w"],
        chosen: Int[Tensor, "batch questions length"],
    ) -> Float[Tensor, "batch questions hidden"]:
        """What the network makes of each sub-clip."""
        flat = chosen.flatten(1)
        if self.settings.encoding == "frames":
            every = backbone(view.flatten(0, 1)).unflatten(0, (len(view), -1))  # sub-clips share frames
            return self.encode(take(every, flat).unflatten(1, chosen.shape[1:]).flatten(2))
        gray = take(view.mean(2), flat).unflatten(1, chosen.shape[1:])
        differences = gray[:, :, 1:] - gray[:, :, :-1]
        return self.encode(backbone(differences.flatten(0, 1))).unflatten(0, chosen.shape[:2])

    def fuse(self, features: Float[Tensor, "batch questions hidden"]) -> Float[Tensor, "batch fused"]:
        """Features side by side, or the sum of v_i - v_j over all i < j."""
        if self.settings.fusion == "concatenation":
            return features.flatten(1)
        count = features.shape[1]
        share = count - 1 - 2 * torch.arange(count, device=features.device)
        return (features * share[:, None]).sum(1)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, backbone: nn.Module, view: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        chosen, odd = self.questions(view.shape[1], draws)
        features = self.features(backbone, view, chosen)
        return classify(self.head(self.fuse(features)), odd, features[:, 0])

    def pictures(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, backbone: nn.Module, view: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Picture]:
        chosen, odd = self.questions(view.shape[1], draws)
        said = self.head(self.fuse(self.features(backbone, view, chosen))).argmax(1).tolist()
        rows = []
        for number, (truth, answer) in enumerate(zip(odd.tolist(), said, strict=True)):
            other = (truth + 1) % self.settings.questions
            shown = self.pixels(take(view[number : number + 1], chosen[number, [other, truth]].reshape(1, -1)))[0]
            words = f"sub-clip {other + 1} in order, {truth + 1} out of order; said {answer + 1}"
            rows.append(Picture(list(shown), words))
        return rows


class OddOneOutMethod(PretextMethod):
    """A backbone and a classifier of sub-clips."""

    kind = OddTask
