"""Small pictures of images in shards, for pages that hold everything themselves."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sslscale.data.decode import shown
from sslscale.data.index import Index, read_index
from sslscale.data.shard import Shard
from sslscale.data.shards import open_shard
from sslscale.storage.scratch import Local

_MOST_OPEN = 8


class Thumbnails:
    """Reads images of one split by their number, scaled into a square of `side` pixels."""

    def __init__(self, split: Path, local: Local, side: int = 72):
        self.index: Index = read_index(split)
        self._local, self._side = local, side
        self._open: OrderedDict[int, Shard] = OrderedDict()

    def key(self, number: int) -> str:
        """The key of an image."""
        shard, row = self._place(number)
        return shard.key(row)

    def image(self, number: int) -> Image.Image:
        """One image as a square, its short side cut to the centre."""
        shard, row = self._place(number)
        upright = Image.fromarray(shown(shard.encoded(row), self.index.pixels).permute(1, 2, 0).contiguous().numpy())
        kind = Image.Resampling.NEAREST if max(upright.size) < self._side // 2 else Image.Resampling.BICUBIC
        return ImageOps.fit(upright, (self._side, self._side), kind)

    def uri(self, number: int) -> str:
        """One image as a data URI."""
        return data_uri(self.image(number))

    def _place(self, number: int) -> tuple[Shard, int]:
        place = int(np.searchsorted(self.index.starts, number, side="right")) - 1
        shard = self._open.get(place)
        if shard is None:
            shard = self._open[place] = open_shard(self.index, place, self._local)
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(place)
        return shard, int(number - self.index.starts[place])


def data_uri(image: Image.Image, quality: int = 78) -> str:
    """An image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
