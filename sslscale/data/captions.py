"""Captions of the images of shards, and the tokens that were made of them: one file beside each shard.

FOLDER/SPLIT/features-%06d.npy is uint16 (samples, context), all zeros for an image without a usable caption;
FOLDER/SPLIT/usable.npy is bool (images of the split,).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sslscale.data.features import Features
from sslscale.data.shard import Shard, members_named
from sslscale.errors import DataError
from sslscale.storage import sums

USABLE = "usable.npy"
USED, UNUSABLE = "used", ("missing", "empty", "not_utf8")


class Captions(Features):
    """Tokens of captions, read as features are."""

    def take(self, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """These rows as int64 (n, context)."""
        found = np.empty((len(shard), self.dim), np.int64)
        for number in np.unique(shard):
            mine = shard == number
            found[mine] = self.file(int(number))[row[mine]]
        return found


def usable(folder: Path, splits: Sequence[str]) -> np.ndarray:
    """Which images have a usable caption, bool (images,), in the shards' order."""
    return np.concatenate([np.load(sums.checked(folder / split / USABLE), allow_pickle=False) for split in splits])


def read_captions(shard: Shard, member: str) -> list[tuple[str, str]]:
    """What the caption of each sample of a shard is, USED or one of UNUSABLE, and its text.

    `member` is CaptionConfig's. Raises DataError for JSON that is damaged.
    """
    kind, _, field = member.partition(":")
    members, data = members_named(shard, kind)
    found = {key: bytes(data[one.offset : one.offset + one.size]) for key, one in members.items()}
    return [_caption(found.get(key), field, f"{shard.path}: {key}.{kind}") for key in shard.keys]


def _caption(raw: bytes | None, field: str, where: str) -> tuple[str, str]:
    if raw is None:
        return "missing", ""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "not_utf8", ""
    if field:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where}: unreadable ({error})") from None
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is None:
            return "missing", ""
        text = str(value)
    text = " ".join(text.split())
    return (USED, text) if text else ("empty", "")
