"""Settings of networks and of the images they take, and what a checkpoint says of both."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sslscale.config import require
from sslscale.config.build import build
from sslscale.config.document import Document
from sslscale.errors import ConfigError, DataError
from sslscale.settings.detection import DetectorConfig
from sslscale.settings.pixels import PixelConfig
from sslscale.settings.sound import SoundInfo
from sslscale.settings.text import TextConfig
from sslscale.storage import jsonio, sums

FORMAT = "sslscale-checkpoint/1"
FILES = ("model.json", "model.safetensors")  # of every checkpoint


_LARGEST = 65_535  # pixels of an image's side, as JPEG has it


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The images that a network is given: side in pixels, the share of the short side that evaluation keeps, mean and
    std.

    `short_side` scales larger images down once, before any random crop, so that they can be decoded once and kept.
    Small crops that are enlarged again lose some sharpness. Without it, crops are cut from the images at full
    resolution.

    With `width` the images are lines of text: scaled to a height of `size`, narrower if they were wider than `width`
    then, and filled up on the right with the colour of their border.

    `channels`, `bits` and `range` are those of PixelConfig: 8-bit RGB unless they are set. Images of other channels
    need a mean and a std for each, as shares of the range; `sslscale init` measures them.
    """

    size: int
    width: int | None = field(default=None, metadata={"new": True})
    crop: float = 1.0
    short_side: int | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: int = field(default=3, metadata={"new": True})
    bits: Literal[8, 16] = field(default=8, metadata={"new": True})
    range: tuple[float, float] | None = field(default=None, metadata={"new": True})

    def __post_init__(self) -> None:
        require(0 < self.size <= _LARGEST, "size", f"must lie between 1 and {_LARGEST:,} pixels")
        require(self.short_side is None or self.short_side >= self.size, "short_side", "must not be below size")
        require(self.width is None or self.width > 0, "width", "must be positive")
        require(self.width is None or self.short_side is None, "short_side", "is not for lines (width)")
        require(0 < self.crop <= 1, "crop", "must lie between 0 and 1")
        require(all(s > 0 for s in self.std), "std", "must be positive")
        count = self.pixels.channels
        for name in ("mean", "std"):
            text = f"must be {count} number{'s' * (count != 1)}, one a channel (`sslscale init` measures them)"
            require(len(getattr(self, name)) == count, name, text)

    @property
    def pixels(self) -> PixelConfig:
        """How the images are decoded."""
        return PixelConfig(channels=self.channels, bits=self.bits, range=self.range)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network by name, with its regularisation.

    `wrn_DEPTH_WIDTH` is a wide residual network for small images (WIDTH may be a fraction: wrn_10_0.5); with
    `stem_stride` 2 its first layer halves the side, for about a quarter of the time. `resnet_DEPTH` is a ResNet of
    depth 18, 34, 50, 101 or 152; `resnet_DEPTH_WIDTH` multiplies all channels by WIDTH; `small_images` gives it a stem
    for 32 pixels. `resnext_DEPTH_CARDINALITYxWIDTH` is a ResNeXt for small images with Mish and batch norms of momentum
    .001, as FixMatch's PyTorch implementations have it: resnext_28_4x4 for CIFAR-10, resnext_29_8x64 for CIFAR-100.
    `timm:NAME` is any model of timm, `open_clip:NAME` the image tower of any of open_clip's.
    `crnn_WIDTH` reads lines of text (Shi et al. 2015, arXiv:1507.05717), all its channels multiplied by WIDTH;
    `crnn_attention_WIDTH` has an attention decoder instead of CTC.
    `vit_SIZE_PATCH` is a vision transformer of size tiny, small, base, large or WIDTHxDEPTH. Its positions are learned
    for a `grid` of patches (image side / PATCH) and resized for other images; its features are the class token or the
    mean of the patches (`pool`).

    `dropout` is applied to the features before the classifier. `survival` is the probability of keeping the last
    residual block; it falls linearly from 1 at the first block (Huang et al. 2016, arXiv:1603.09382).
    """

    name: str
    dropout: float = 0.0
    survival: float = 1.0
    small_images: bool = False
    stem_stride: Literal[1, 2] = 1
    grid: int = 14  # of a ViT, as the next four
    registers: int = 0
    layer_scale: float | None = None
    pool: Literal["cls", "mean"] = "cls"
    distillation_token: bool = False  # a second token with a classifier of its own, for DeiT
    channels: int = field(default=3, metadata={"new": True, "hidden": True})  # of the images: see `fitted`

    def __post_init__(self) -> None:
        require(0 <= self.dropout < 1, "dropout", "must lie in [0, 1)")
        require(0 < self.survival <= 1, "survival", "must lie in (0, 1]")
        resnet = re.fullmatch(r"resnet_(18|34|50|101|152)(_\d+(\.\d+)?)?", self.name)
        require(resnet is not None or not self.small_images, "small_images", "is for resnet_DEPTH alone")
        halved = self.stem_stride != 1 and not self.name.startswith("wrn_")
        require(not halved, "stem_stride", "is for wrn_DEPTH_WIDTH alone")
        resnext = re.fullmatch(r"resnext_(\d+)_(\d+)x(\d+)", self.name)
        plain = resnet is None and resnext is None
        require(plain or self.survival == 1, "survival", f"is not for {self.name}: take timm:resnet...")
        require(self.grid > 0, "grid", "must be positive")
        require(self.registers >= 0, "registers", "must be 0 or more")
        vit = re.fullmatch(r"vit_(tiny|small|base|large|(\d+)x(\d+))_(\d+)", self.name)
        if vit is not None:
            divides = vit[2] is None or (int(vit[2]) > 0 and int(vit[2]) % 32 == 0 and int(vit[3]) > 0)
            require(divides and int(vit[4]) > 0, "name", f"{self.name!r}: the width is a multiple of 32")
            return
        own = self.registers == 0 and self.layer_scale is None and self.pool == "cls" and self.grid == 14
        own = own and not self.distillation_token
        require(own, "name", "grid, registers, layer_scale, pool and distillation_token are for vit_SIZE_PATCH alone")
        if resnext is not None and int(resnext[1]) >= 11 and (int(resnext[1]) - 2) % 9 in (0, 8):  # 11, 20, 28, 29
            require(int(resnext[2]) > 0 and int(resnext[3]) > 0, "name", f"{self.name!r}: a cardinality or width of 0")
            return
        crnn = re.fullmatch(r"crnn_(attention_)?\d+(\.\d+)?", self.name)
        if resnet is None and crnn is None and not self.name.startswith(("timm:", "open_clip:")):
            wide = re.fullmatch(r"wrn_(\d+)_(\d+(\.\d+)?)", self.name)
            valid = wide is not None and (int(wide[1]) - 4) % 6 == 0 and int(wide[1]) >= 10 and float(wide[2]) > 0
            known = (
                "wrn_DEPTH_WIDTH (depth 10, 16, 22, 28, ...), resnet_DEPTH (18, 34, ...), vit_SIZE_PATCH, timm:NAME, "
            )
            known += "resnext_DEPTH_CARDINALITYxWIDTH, open_clip:NAME, crnn_WIDTH, crnn_attention_WIDTH"
            require(valid, "name", f"{self.name!r} is none of {known}")

    def fitted(self, image: ImageConfig) -> ModelConfig:
        """The same network for these images: its first layer takes their channels."""
        return self if self.channels == image.channels else dataclasses.replace(self, channels=image.channels)

    @property
    def patch(self) -> int | None:
        """Pixels on a side of a vision transformer's patches; None of another network."""
        return int(self.name.rpartition("_")[2]) if self.name.startswith("vit_") else None


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What model.json says: how to build the network, and what to feed it.

    Without `head` it is a backbone alone, or with `text` an image and a text tower, or with `sound` an image and a
    sound tower. With `decoder` it is a recogniser of lines, whose classes are characters; with `detector` a detector or
    a segmentation network. With `cosine_dim` its classifier compares images with classes in a space of so many
    dimensions.
    """

    model: ModelConfig
    image: ImageConfig
    classes: tuple[str, ...]
    num_parameters: int
    head: bool = True
    text: TextConfig | None = None
    sound: SoundInfo | None = None
    decoder: Literal["ctc", "attention"] | None = None
    detector: DetectorConfig | None = None
    cosine_dim: int | None = None
    members: int = 1  # networks whose logits are averaged

    def __post_init__(self) -> None:
        for name in ("members", "cosine_dim"):
            if (getattr(self, name) or 1) < 1:
                raise ValueError(f"{name}: must be 1 or more, not {getattr(self, name)}")
        object.__setattr__(self, "model", self.model.fitted(self.image))


def parse_info(data: dict[str, Any], where: str = "model.json") -> ModelInfo:
    """What the content of a model.json says; raises ConfigError."""
    return build(ModelInfo, Document(where, {name: value for name, value in data.items() if name != "format"}))


def read_info(folder: Path) -> ModelInfo:
    """What a checkpoint folder holds; raises DataError."""
    try:
        return parse_info(jsonio.read_json(sums.checked(folder / "model.json")), str(folder / "model.json"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder}: no checkpoint there (it has no model.json)") from None
    except (ConfigError, AttributeError, ValueError) as error:
        raise DataError(f"{folder / 'model.json'}: unreadable ({error})") from None
