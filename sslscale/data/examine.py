"""What an index has to know of a shard that others wrote: found by reading all of it once, where it lies."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslscale.data import decode, tar
from sslscale.data.shard import Shard, map_file, scan
from sslscale.data.shards import shard_name
from sslscale.data.webdatasets import Located, read_stats
from sslscale.errors import DataError
from sslscale.settings.pixels import RGB, PixelConfig
from sslscale.storage import jsonio, mirror
from sslscale.storage.scratch import Local

_VERSION = 1  # of what is found
_CHUNK = 32  # images that a thread looks at in one go
_JPEG = b"\xff\xd8\xff"  # the one kind that is decoded at a fraction of its size


@dataclass(frozen=True)
class Facts:
    """One shard, read once.

    `labels` are numbers in `names`, int32 (images,), -1 for none; `digests` 64 bits of each key's hash. `shape` is the
    height and width of all images, if they have one. `bad` says of rows why their image cannot be used. `passed` counts
    the members that are no image and no label.
    """

    sha256: str
    bytes: int
    labels: np.ndarray
    digests: np.ndarray
    names: tuple[str, ...]
    shape: tuple[int, int] | None
    bad: Mapping[int, str]
    passed: Mapping[str, int]
    stats: Mapping[str, int]
    first_key: str = ""

    def save(self, file: Path) -> None:
        """Write them as one file, in one rename."""
        rest = {name: value for name, value in asdict(self).items() if name not in ("labels", "digests")}
        buffer = io.BytesIO()
        np.savez(buffer, labels=self.labels, digests=self.digests, rest=np.frombuffer(json.dumps(rest).encode(), "u1"))
        file.parent.mkdir(parents=True, exist_ok=True)
        data = buffer.getvalue()
        jsonio.write_bytes(file, data + hashlib.sha256(data).digest())

    @classmethod
    def load(cls, file: Path) -> Facts | None:
        """Read them; None if they are not there or damaged."""
        try:
            data = file.read_bytes()
            if hashlib.sha256(data[:-32]).digest() != data[-32:]:
                return None
            with np.load(io.BytesIO(data[:-32]), allow_pickle=False) as arrays:
                rest: dict[str, Any] = json.loads(arrays["rest"].tobytes())
                shape = tuple(rest.pop("shape") or ())
                return cls(
                    labels=arrays["labels"],
                    digests=arrays["digests"],
                    names=tuple(rest.pop("names")),
                    shape=(shape[0], shape[1]) if shape else None,
                    bad={int(row): why for row, why in rest.pop("bad").items()},
                    **rest,
                )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def facts_name(shard: Located, label: str | None, pixels: PixelConfig = RGB) -> str:
    """The name of the file that keeps a shard's facts: another if the shard or what is asked of it changes."""
    asked = [label, _VERSION] if pixels == RGB else [label, _VERSION, pixels.name]
    return f"{jsonio.digest([shard.url, shard.size, shard.stamp, *asked], 24)}.facts"


def examine(
    shard: Located, label: str | None, local: Local, pool: ThreadPoolExecutor, pixels: PixelConfig = RGB
) -> Facts:
    """Read one shard: its checksum, its samples, their labels, and whether every image can be decoded.

    A shard in a store is fetched to this machine's disk. Raises DataError for one that is damaged, or is no longer what
    was listed.
    """
    path, fetched = Path(shard.url), f"{jsonio.digest([shard.url, shard.stamp], 32)}.tar"
    if mirror.is_url(shard.url):
        path = local.fetch(shard.url, fetched, shard.size)
    _, data = map_file(path)
    if len(data) != shard.size:
        raise DataError(
            f"{shard.url}: {len(data):,} bytes, {shard.size:,} when it was listed: it changes; index it later"
        )
    if not shard.size:
        raise DataError(f"{shard.url}: an empty file")
    found = scan(Path(shard.url), data, lenient=True)
    texts, passed = _labels(found, data, label)
    names = sorted({text for text in texts if text is not None})
    number = {name: place for place, name in enumerate(names)}
    chunks = [range(start, min(start + _CHUNK, len(found))) for start in range(0, len(found), _CHUNK)]
    looked = [
        result for each in pool.map(lambda rows: [_look(found, row, pixels) for row in rows], chunks) for result in each
    ]
    bad = {row: result for row, result in enumerate(looked) if isinstance(result, str)}
    shapes = {result for result in looked if not isinstance(result, str)}
    stats = read_stats(shard) if shard.has_stats else {}
    if stats.get("successes", len(found)) != len(found):
        raise DataError(
            f"{shard.url}: {len(found):,} images, but img2dataset's statistics beside it say {stats['successes']:,}: "
            "download it again, or remove the statistics"
        )
    checksum = hashlib.sha256(data).hexdigest()
    if mirror.is_url(shard.url):
        local.rename(fetched, shard_name(checksum))  # as who trains on it will ask for it
    return Facts(
        sha256=checksum,
        bytes=len(data),
        labels=np.array([-1 if text is None else number[text] for text in texts], np.int32),
        digests=found.rows["digest"].copy(),
        names=tuple(names),
        shape=shapes.pop() if len(shapes) == 1 else None,
        bad=bad,
        passed=passed,
        stats=stats,
        first_key=found.keys[0] if len(found) else "",
    )


def _look(shard: Shard, row: int, pixels: PixelConfig) -> tuple[int, int] | str:
    """Height and width of an image, or why it cannot be used. Decoded as small as can be, yet all of its data."""
    data = shard.encoded(row)
    try:
        image = decode.decode(data, reduce=8, pixels=pixels)
        height, width = decode.dimensions(data) if data[:3] == _JPEG else image.shape[-2:]
    except DataError as error:
        return f"{shard.key(row)}: {error}"
    return height, width


def _labels(shard: Shard, data: memoryview, label: str | None) -> tuple[list[str | None], dict[str, int]]:
    """The class of each sample as text, None for none; and how many members of each other kind there are."""
    wanted, _, field = (label or "cls").partition(":")
    members: dict[str, tar.Member] = {}
    for member in tar.members(data, str(shard.path)):
        key, extension = tar.split_name(member.name)
        if extension == wanted:
            members[key] = member
    passed = Counter(shard.ignored)
    if wanted != "none":
        passed.pop(wanted, None)
    texts = []
    for key in shard.keys:
        member = members.get(key)
        text = None
        if member is not None:
            raw = bytes(data[member.offset : member.offset + member.size])
            text = _field(shard, key, raw, field) if wanted == "json" else raw.decode("utf-8", "replace").strip()
        texts.append(text or None)
    return texts, {name if " " in name else f".{name}": n for name, n in passed.items()}


def _field(shard: Shard, key: str, raw: bytes, field: str) -> str | None:
    """A field, or a.b for one inside another, of a sample's JSON."""
    try:
        value = json.loads(raw)
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    except ValueError as error:
        raise DataError(f"{shard.path}: {key}.json: unreadable ({error})") from None
    return None if value is None else str(value).strip()
