"""What a method reads, declared once: its streams, the fields of their samples, and the views made of each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# labeled: the labelled images, or those of a `clusters` input. unlabeled: the training images beside them, whatever is
# known of them. all: every training image. pseudo: the images of a `pseudo` or `selection` input.
# classified: the labelled images of another data set, the `classified` input.
Source = Literal["labeled", "unlabeled", "all", "pseudo", "classified"]

# label: the class, int, -1 where it is not known. soft_label: class probabilities. features: of another network, from
# the `features` input. teacher_logits: likewise, there if the stage is given them instead of a `teacher`. text: tokens
# of the caption, from the `captions` input; images without a usable caption are left out of the stream. sound:
# the log-mel spectrogram of the clip, from the `sound` input; clips without sound are left out.
# transcript: the characters of a line of text, from the `transcripts` input; lines without a usable one are left out.
# video: a number that all clips of a video have in common, int64.
# Of images with objects: boxes, float (n, most, 4) as x0, y0, x1, y1 on the view, filled up with zeros; box_label,
# int64 (n, most), the class, -1 for none, -2 for crowds; masks, uint8 (n, most, size, size); semantic, int64 (n, size,
# size), the class + 1 of each pixel, 0 for none, 255 for ignored; placement, float (n, 4): view = image * the first two
# - the last two.
Field = Literal[
    "label", "soft_label", "features", "teacher_logits", "text", "sound", "video", "transcript",
    "boxes", "box_label", "masks", "semantic", "placement",
]  # fmt: skip
OBJECT_FIELDS = ("boxes", "box_label", "masks", "semantic", "placement")


@dataclass(frozen=True)
class ViewSpec:
    """`count` augmented views of each sample, made as `views.NAME` of the training says, or else as its `augment`.

    A `required` view must be named in `views`; an `optional` one is left out unless it is.
    """

    name: str
    count: int = 1
    required: bool = False
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """One stream of samples: where they come from, how many for each of `batch_size`, and what a batch holds of them.

    The name also seeds the order of the samples and their augmentation. The epochs of a training are those of the
    method's first stream.
    """

    name: str
    source: Source
    ratio: int = 1
    fields: tuple[Field, ...] = ()
    clips: bool = False  # a sample is a clip of a video: its frames are augmented alike
    views: tuple[ViewSpec, ...] = (ViewSpec("view"),)
