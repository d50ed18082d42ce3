"""One worker's part of a global batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from sslscale import distributed
from sslscale.errors import ConfigError
from sslscale.shapes import Float, Int

if TYPE_CHECKING:
    from sslscale.settings.streams import Field


@dataclass(frozen=True)
class Batch:
    """This worker's part of one stream's global batch.

    `views` are normalised float images (batch, 3, size, size), or clips of them (batch, frames, 3, size, size). `index`
    holds the samples' numbers in the stream, on the device; `global_numbers` those of all workers, in the workers'
    order, on the host. `fields` has what the stream's specification names, one row a sample.
    """

    views: tuple[Float[Tensor, "batch *frames channels _ _"], ...]
    index: Int[Tensor, " batch"]
    fields: Mapping[Field, Tensor] = field(default_factory=dict)
    global_numbers: Int[Tensor, " global_batch"] | None = None

    def __getitem__(self, name: Field) -> Tensor:
        """One field; raises ConfigError if the method's stream does not declare it."""
        if name not in self.fields:
            raise ConfigError(f"the batch has no field {name!r}: declare it in `fields` of the method's StreamSpec")
        return self.fields[name]

    @property
    def label(self) -> Int[Tensor, " batch"]:
        """Classes, -1 where they are not known."""
        return self["label"]

    @property
    def soft_label(self) -> Float[Tensor, "batch classes"]:
        """Class probabilities, those of a teacher."""
        return self["soft_label"]

    @property
    def features(self) -> Float[Tensor, "batch dim"]:
        """What another network computed for each image."""
        return self["features"]

    @property
    def text(self) -> Int[Tensor, "batch context"]:
        """Tokens of the captions, zeros behind the end."""
        return self["text"]

    @property
    def transcript(self) -> Int[Tensor, "batch longest"]:
        """Characters of the transcripts, 1 for the first of the alphabet, zeros behind the end."""
        return self["transcript"]

    @property
    def boxes(self) -> Float[Tensor, "batch most 4"]:
        """Boxes on the view: x0, y0, x1, y1 in pixels, zeros behind the last."""
        return self["boxes"]

    @property
    def box_label(self) -> Int[Tensor, "batch most"]:
        """The classes of the boxes, -1 where there is none, -2 for crowds."""
        return self["box_label"]

    @property
    def semantic(self) -> Int[Tensor, "batch size size"]:
        """The class + 1 of each pixel, 0 for none, 255 for those that are ignored."""
        return self["semantic"]

    @property
    def sound(self) -> Float[Tensor, "batch mels times"]:
        """Log-mel spectrograms of the clips, of as many times a frame in all clips."""
        return self["sound"]

    @property
    def global_index(self) -> Int[Tensor, " global_batch"]:
        """The numbers of all workers' samples, on the host. A batch that no loader made gathers them."""
        return distributed.gather(self.index).cpu() if self.global_numbers is None else self.global_numbers

    @property
    def host_index(self) -> Int[Tensor, " batch"]:
        """`index` on the host."""
        every = self.global_index
        return every[distributed.rows(len(self.index))]
