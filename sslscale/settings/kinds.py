"""What methods for samples other than single images declare: captions, clips, sound, lines of text, objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sslscale.config import require
from sslscale.settings.detection import DetectorConfig
from sslscale.settings.method import STRONG, WEAK, MethodSettings
from sslscale.settings.sound import SoundTowerConfig
from sslscale.settings.streams import Field, StreamSpec, ViewSpec
from sslscale.settings.text import PREFIX, TextConfig, open_clip_config

if TYPE_CHECKING:
    from sslscale.settings.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class ImageText(MethodSettings):
    """Methods that learn from images and their captions.

    With `equal_captions: positive` all images of a batch whose captions are the same text belong to that text; the
    papers take each pair alone for a match. `gradient_cache` is the number of parts in which a batch goes through the
    towers, so that the activations of one part alone are in memory: the loss is that of the whole batch, at the cost
    of one more forward pass (Gao et al. 2021, arXiv:2101.06983). Batch norm sees a part.
    """

    text: TextConfig = TextConfig()
    equal_captions: Literal["negative", "positive"] = "negative"
    gradient_cache: int = 1

    def __post_init__(self) -> None:
        require(self.gradient_cache >= 1, "gradient_cache", "must be 1 or more")

    @property
    def rgb_only(self) -> bool:
        """It does."""
        return True

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """One stream, `images`, with the tokens of their captions."""
        return (StreamSpec(name="images", source="all", fields=("text",)),)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares all pairs of a batch; gradient_cache takes them through the towers in parts"

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Why the method cannot train this network."""
        if not model.name.startswith(PREFIX):
            return None
        if self.text != TextConfig():
            return f"{model.name} has a text tower of its own: leave method.text out"
        own = open_clip_config(model.name.removeprefix(PREFIX))["vision_cfg"].get("image_size", 224)
        return None if own == size else f"{model.name} takes images of {own} pixels, not of {size}"


class Clips(MethodSettings):
    """Methods that read clips of videos, labels unread."""

    @property
    def rgb_only(self) -> bool:
        """It does."""
        return True

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """One stream, `images`, whose samples are clips."""
        return (StreamSpec(name="images", source="all", clips=True),)


@dataclass(frozen=True, kw_only=True)
class FrameWindows(Clips):
    """Methods that learn from the order of a few frames of a clip.

    Of each clip a window of five frames a < b < c < d < e is taken: b and d at most `spread` frames apart, c at least
    `gap` from both, a and e outside, `gap` to 2 * `gap` away. Windows are drawn by their motion. Windows whose a or e
    looks like c are drawn only if there are no others: frames differ by `distinct` times the clip's mean motion. The
    features of three frames, side by side, go through a linear layer, or with `hidden` through two with a ReLU between:
    a linear one cannot compare frames that a small network has not compared.
    """

    spread: int = 8
    gap: int = 2
    distinct: float = 0.5
    hidden: int = 0

    def __post_init__(self) -> None:
        require(self.gap >= 1, "gap", "must be 1 or more")
        require(self.spread >= 2 * self.gap, "spread", f"must be 2 * gap or more: {2 * self.gap}")
        require(self.distinct >= 0, "distinct", "must be 0 or more")
        require(self.hidden >= 0, "hidden", "must be 0 (a linear layer) or more")


@dataclass(frozen=True, kw_only=True)
class ImageSound(Clips):
    """Methods that learn from frames and their sound.

    The sound tower hears a `window` of so many frames' time. `gain` is the largest random change of loudness, as a
    share of the amplitude.
    """

    sound: SoundTowerConfig = SoundTowerConfig()
    window: int = 8
    gain: float = 0.1

    def __post_init__(self) -> None:
        require(self.window >= 1, "window", "must be 1 frame or more")
        require(0 <= self.gain < 1, "gain", "must lie in [0, 1)")

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """One stream, `images`, whose samples are clips, with their sound's spectrogram and their video's number."""
        return (StreamSpec(name="images", source="all", fields=("sound", "video"), clips=True),)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "foreign sounds are those of other clips of the batch"


@dataclass(frozen=True, kw_only=True)
class LabeledLines(MethodSettings):
    """Methods that learn to read lines of text. With `ema` above 0 the result is a running average of the weights."""

    ema: float = 0.0

    @property
    def compares_columns(self) -> bool:
        """Whether the loss of unlabelled lines compares columns, which an attention decoder does not have."""
        return False

    def __post_init__(self) -> None:
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    @property
    def rgb_only(self) -> bool:
        """It does."""
        return True

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """`labeled`, lines with their transcripts."""
        return (StreamSpec(name="labeled", source="labeled", fields=("transcript",), views=(WEAK,)),)

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Why the method cannot train this network."""
        if not model.name.startswith("crnn_"):
            return f"{self.name} reads lines of text: take crnn_1, or crnn_WIDTH with a share of its channels"
        if self.compares_columns and model.name.startswith("crnn_attention_"):
            return f"{self.name} compares CTC's columns: take crnn_WIDTH, or text_uda with consistency: sequence"
        return None if size == 32 else "image.size: a crnn takes lines of 32 pixels height, with image.width"


@dataclass(frozen=True, kw_only=True)
class UnlabeledLines(LabeledLines):
    """Methods that learn to read from lines without transcripts as well: `unlabeled_ratio` for each labelled one, their
    loss times `unlabeled_weight`, which rises from 0 to its full value in the first share `ramp` of the training."""

    unlabeled_ratio: int = 1
    unlabeled_weight: float = 1.0
    ramp: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.unlabeled_ratio >= 1, "unlabeled_ratio", "must be 1 or more")
        require(self.unlabeled_weight >= 0, "unlabeled_weight", "must be 0 or more")
        require(0 <= self.ramp <= 1, "ramp", "must lie in [0, 1]")

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of an unlabelled line."""
        return WEAK, STRONG

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """`labeled` and `unlabeled`."""
        own = StreamSpec(name="unlabeled", source="unlabeled", ratio=self.unlabeled_ratio, views=self.unlabeled_views)
        return *super().streams, own


@dataclass(frozen=True, kw_only=True)
class ComparedColumns(UnlabeledLines):
    """Methods that compare CTC's columns of two weak views of an unlabelled line."""

    @property
    def compares_columns(self) -> bool:
        """They do."""
        return True

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """Two weak views."""
        return (ViewSpec("weak", 2),)


@dataclass(frozen=True, kw_only=True)
class Scenes(MethodSettings):
    """Methods that learn from images with annotated objects. With `ema` above 0 the result is a running average of the
    weights."""

    detector: DetectorConfig = DetectorConfig()
    ema: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    @property
    def fields(self) -> tuple[Field, ...]:
        """What is known of the images."""
        if self.detector.semantic:
            return ("semantic",)
        return ("boxes", "box_label", "masks") if self.detector.instances else ("boxes", "box_label")

    @property
    def rgb_only(self) -> bool:
        """It does."""
        return True

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """`labeled`, images with their annotations."""
        return (StreamSpec(name="labeled", source="labeled", fields=self.fields),)

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Why the method cannot train this network."""
        if model.name.startswith("crnn_"):
            return f"{model.name} reads lines of text: take a network for images"
        return None if size % 32 == 0 else "image.size: detectors take images of a multiple of 32 pixels"
