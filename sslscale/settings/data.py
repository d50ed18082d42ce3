"""Settings of packing and of reading images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sslscale.config import require
from sslscale.errors import ConfigError
from sslscale.settings.model import ImageConfig
from sslscale.settings.pixels import RGB, PixelConfig
from sslscale.storage import jsonio


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """How videos are cut into clips: `frames` of each, `fps` of them a second of the video, whatever its own rate.

    With `sound` the sound of each clip is packed too, as KEY.wav of one channel and so many samples a second: that of
    a file NAME.wav or NAME.flac beside the video, or else of the video's own track. Frames that are images are taken as
    they are, `fps` a second.
    """

    frames: int = 16
    fps: float = 8.0
    sound: int | None = field(default=None, metadata={"new": True})

    def __post_init__(self) -> None:
        require(self.frames > 1, "frames", "must be 2 or more")
        require(self.fps > 0, "fps", "must be positive")
        require(self.sound is None or self.sound >= 1000, "sound", "must be 1000 Hz or more")


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Which images to use, which of them are labelled, and how they are split.

    `source` is a folder of class folders, a folder that `sslscale data pack` wrote, a CSV manifest (path,label),
    `torchvision:NAME:ROOT[:SPLIT]`, `webdataset:SHARDS` (paths or URLs with braces and wildcards), or `digits`. Results
    are identified by the content of the source, not by its location.

    `coco:ANNOTATIONS.json:IMAGES` and `voc:FOLDER[:SET]` are images with annotated objects, which are packed beside
    them as KEY.objects.json; `val` and `test` are such sources too, or shares. Boxes that cannot be used are left out
    and counted. `unlabeled` is a folder of more images, whose labels are not known.

    The shards of a WebDataset are indexed and read where they lie; with `resize` they are packed anew. `label` names
    the member that has a sample's class: cls, txt, json:FIELD, or none; null is cls, where there is one.
    `captions` packs a caption beside each image, as KEY.txt: of a folder `txt`, the text file beside the image; of a
    CSV the name of its column. WebDatasets keep their own (see CaptionConfig). `labels_per_class: 0` hides all labels.
    With `video` the source is a folder of videos, or a WebDataset of them, KEY.mp4 (webm, avi, mov, mkv) or the frames
    KEY.000.jpg, KEY.001.jpg and so on. Their clips are packed frame by frame, as JPEG of `resize` pixels; a video's
    clips are all in one split, and shares count videos.
    With `lines` the images are lines of text, and their captions transcripts: those that have one are labelled, of the
    one class `line`, so that `labels_per_class` keeps so many of them. The other transcripts are not packed.
    `pixels` are what the images are decoded to, by default what `image` of the training says (channels, bits, range).
    `prefix_keys` puts the name of its shard before every key, for sets that count in each shard from 0.
    """

    source: str = field(metadata={"identity": False})
    labels: str | None = field(default=None, metadata={"identity": False})  # CSV of the few labelled paths
    labels_per_class: int | None = None  # keep so many labels of each class and hide the rest
    # a fraction, or a folder of class folders (whose content, not place, is then part of the identity)
    unlabeled: str | None = field(default=None, metadata={"identity": False})
    val: float | str | None = field(default=None, metadata={"identity": False})
    test: float | str | None = field(default=None, metadata={"identity": False})
    # beside the shards lie the classes of unlabelled images whose class is known: the log then tells how often
    # pseudo-labels are right; no method ever sees them
    keep_hidden_labels: bool = False
    shard_size: int = 1000
    resize: int | None = None  # short side, for images larger than that; the only case of re-encoding
    on_bad_sample: Literal["error", "skip"] = "error"  # skip leaves out 1 % at most, and lists them in skipped.txt
    label: str | None = None
    prefix_keys: bool = False
    captions: str | None = field(default=None, metadata={"new": True})
    video: VideoConfig | None = field(default=None, metadata={"new": True})
    lines: bool = field(default=False, metadata={"new": True})
    pixels: PixelConfig | None = field(default=None, metadata={"new": True})
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        for name in ("val", "test"):
            share = getattr(self, name)
            require(not isinstance(share, float) or 0 < share < 1, name, "must lie between 0 and 1")
        require(self.labels_per_class is None or self.labels_per_class >= 0, "labels_per_class", "must be 0 or more")
        require(self.shard_size > 0, "shard_size", "must be positive")
        if self.source.startswith("webdataset:"):
            text = "is for sources that are packed; of a WebDataset captions.member names the captions"
            require(self.captions is None, "captions", text)
        require(
            not self.lines or self.captions is not None, "captions", "names the transcripts of the lines, such as txt"
        )
        if self.source.startswith(("coco:", "voc:")):
            for name in ("labels", "labels_per_class", "captions", "resize", "video"):
                require(getattr(self, name) is None, name, "is not for annotated images (coco:, voc:)")
        outside = self.source.startswith("webdataset:") or self.video is not None
        require(self.unlabeled is None or not outside, "unlabeled", "is not for a WebDataset or videos")
        require(not self.lines or self.labels is None, "labels", "are of images with classes; lines have transcripts")
        known = self.label is None or self.label in ("cls", "txt", "none") or self.label.startswith("json:")
        require(known, "label", f"cls, txt, json:FIELD or none, not {self.label!r}")
        require(self.resize is None or self.resize > 0, "resize", "must be positive")

    @property
    def decoded(self) -> PixelConfig:
        """What the images are decoded to."""
        return self.pixels or RGB

    def seen_by(self, images: Iterable[ImageConfig], *, seed: int) -> PackConfig:
        """The settings for trainings on these images, drawn by the seed; raises ConfigError if their pixels differ."""
        found = {image.pixels for image in images} | ({self.pixels} if self.pixels is not None else set())
        if len(found) > 1:
            one, other, *_ = sorted(map(str, found))
            raise ConfigError(f"image: all trainings on one data set take the same images, not {one} and {other}")
        (pixels,) = found or {RGB}
        return dataclasses.replace(self, seed=seed, pixels=None if pixels == RGB else pixels)


def count_labeled(source: str) -> int:
    """How many labelled images a folder of shards holds; raises ConfigError if it holds none."""
    index = Path(source) / "labeled" / "index.json"
    try:
        return jsonio.read_json(index)["num_samples"]
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"{source}: has no shards of labelled images; see `sslscale data pack`") from None
