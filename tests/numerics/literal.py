"""What the literal transcriptions of semi-supervised losses share: logits known beforehand, and lists for tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sslscale.data.batch import Batch
from sslscale.methods.method import ClassifierMethod, Losses, StepInfo, build_method
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.method import SemiSupervised
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import TrainConfig

K, LABELED, UNLABELED, IMAGES = 5, 4, 12, 40


class Fixed(nn.Module):
    """Stands where the network does and gives logits known beforehand: images are their own logits."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.dropout, self.head = nn.Flatten(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, :]


def made(recipe: SemiSupervised, network: nn.Module | None = None) -> ClassifierMethod:
    torch.manual_seed(0)
    method = build_method(recipe, ModelConfig(name="wrn_10_0.5"), K)
    assert isinstance(method, ClassifierMethod)
    strong = any(view.required for stream in recipe.streams for view in stream.views)
    config = TrainConfig(
        method=recipe,
        model=ModelConfig(name="wrn_10_0.5"),
        image=ImageConfig(size=8),
        views={"strong": AugmentConfig()} if strong else {},
        num_steps=10,
        seed=3,
    )
    method.prepare({"labeled": 20, "unlabeled": IMAGES}, config)
    method.network = network or Fixed()  # type: ignore[assignment]
    return method.train()


def batches(views: int, seed: int = 0, scale: float = 3.0) -> dict[str, Batch]:
    g = torch.Generator().manual_seed(seed)
    image = lambda count: (scale * torch.randn(count, K, generator=g))[:, None, None, :].expand(-1, 3, 1, -1)  # noqa: E731
    index = torch.randperm(IMAGES, generator=g)[:UNLABELED]
    label = torch.randint(0, K, (LABELED,), generator=g)
    return {
        "labeled": Batch((image(LABELED), image(LABELED)), torch.arange(LABELED), {"label": label}),
        "unlabeled": Batch(tuple(image(UNLABELED) for _ in range(views)), index),
    }


def rows(view: Tensor) -> list[list[float]]:
    return view[:, 0, 0, :].double().tolist()


def softmax(z: list[float], temperature: float = 1.0) -> list[float]:
    values = [math.exp(x / temperature) for x in z]
    return [v / sum(values) for v in values]


def entropy(target: list[float], z: list[float]) -> float:
    """H(target, softmax(z))."""
    return -sum(t * math.log(p) for t, p in zip(target, softmax(z), strict=True))


def hot(label: int) -> list[float]:
    return [float(k == label) for k in range(K)]


def supervised(batch: Mapping[str, Batch]) -> float:
    labeled = batch["labeled"]
    found = [entropy(hot(y), z) for z, y in zip(rows(labeled.views[0]), labeled.label.tolist(), strict=True)]
    return sum(found) / len(found)


def largest(p: list[float]) -> int:
    return max(range(K), key=lambda k: p[k])


def run(method: ClassifierMethod, batch: Mapping[str, Batch], progress: float = 0.5, step: int = 5) -> Losses:
    method.before_step(StepInfo(step, progress, 2.0))
    return method(batch)
