"""Settings of networks and of the images they take."""

from __future__ import annotations

from dataclasses import dataclass

from sslscale.config import require


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What a network is fed: the side in pixels, the share of the short side that evaluation keeps, mean and std.

    `short_side` scales larger images down once, before any random crop: so they are decoded once and kept, at some
    loss where a small crop is enlarged again. Without it crops are cut from the images at full resolution.
    """

    size: int
    crop: float = 1.0
    short_side: int | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        require(self.size > 0, "size", "must be positive")
        require(self.short_side is None or self.short_side >= self.size, "short_side", "must not be below size")
        require(0 < self.crop <= 1, "crop", "must lie between 0 and 1")
        require(all(s > 0 for s in self.std), "std", "must be positive")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network by name, with the noise that lies inside it.

    `wrn_DEPTH_WIDTH` is a wide residual network for small images (WIDTH may be broken: wrn_10_0.5); `timm:NAME` is any
    model of timm. `dropout` acts on the features before the classifier; `survival` is the chance that the last
    residual block is kept, falling to it linearly from 1 at the first (Huang et al. 2016, arXiv:1603.09382).
    """

    name: str
    dropout: float = 0.0
    survival: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.dropout < 1, "dropout", "must lie in [0, 1)")
        require(0 < self.survival <= 1, "survival", "must lie in (0, 1]")
        if not self.name.startswith("timm:"):
            kind, _, rest = self.name.partition("_")
            depth, _, width = rest.partition("_")
            valid = kind == "wrn" and depth.isdigit() and width.replace(".", "", 1).isdigit()
            require(
                valid and (int(depth) - 4) % 6 == 0 and int(depth) >= 10 and float(width) > 0,
                "name",
                f"{self.name!r} is neither wrn_DEPTH_WIDTH (depth 10, 16, 22, 28, ...) nor timm:NAME",
            )
