"""Where videos are: files below a folder, or members of shards: KEY.mp4, or the frames KEY.000.jpg, KEY.001.jpg, ...

Nothing here decodes a video.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sslscale.data import tar, webdatasets
from sslscale.data.items import VIDEO_SUFFIXES
from sslscale.data.sources import class_folders, class_name, image_files, is_dir, usable_key
from sslscale.errors import DataError
from sslscale.storage import mirror

SUFFIXES = VIDEO_SUFFIXES
SOUND_SUFFIXES = (".wav", ".flac")  # of a file beside the video
_IMAGES = ("jpg", "jpeg", "png", "webp")


class Place(NamedTuple):
    """Bytes: a whole file, or `size` of them at `offset` of a shard."""

    file: str
    offset: int = 0
    size: int | None = None

    def open(self) -> str | io.BytesIO:
        """What a decoder opens: a path, or the bytes."""
        return self.file if self.size is None else io.BytesIO(self.read())

    def read(self) -> bytes:
        """All of the bytes; raises DataError if they are no longer there."""
        try:
            with open(self.file, "rb") as file:
                file.seek(self.offset)
                found = file.read(-1 if self.size is None else self.size)
        except OSError as error:
            raise DataError(f"{self.file}: cannot be read: {error.strerror}") from None
        if self.size is not None and len(found) < self.size:
            raise DataError(f"{self.file}: cut inside the data of a member of {self.size:,} bytes")
        return found


class Film(NamedTuple):
    """One video: encoded, or as `frames` that are images. `sound` lies beside it; without one its track may have it."""

    key: str
    where: str
    label: str | None
    video: Place | None
    frames: tuple[Place, ...] = ()
    sound: Place | None = None


SkipFile = Callable[[str, str], None]


def of_file(path: Path, key: str = "", label: str | None = None) -> Film:
    """The video in a file, with the sound in a file of the same name beside it, if there is one."""
    beside = next((path.with_suffix(s) for s in SOUND_SUFFIXES if path.with_suffix(s).is_file()), None)
    return Film(key, str(path), label, Place(str(path)), (), None if beside is None else Place(str(beside)))


def in_folder(root: Path, skip_file: SkipFile) -> tuple[list[Film], tuple[str, ...]]:
    """The videos below a folder, and the classes: its sub-folders. Raises DataError."""
    if not is_dir(root):
        raise DataError(f"{root}: there is no such folder")
    classes = class_folders(root, SUFFIXES)
    found, used = [], set()
    others: list[tuple[str, Path]] = []
    for path in image_files(root, lambda kind, path: others.append((kind, path)), SUFFIXES):
        relative = path.relative_to(root)
        label = class_name(relative.parts[0]) if classes else None
        film = of_file(path, usable_key(relative.with_suffix("").as_posix()), label)
        found.append(film)
        used.add(film.sound.file if film.sound else "")
    for kind, path in others:
        if str(path) not in used:
            skip_file(kind, str(path))
    return found, tuple(sorted(map(class_name, classes)))


def in_shards(source: str, label: str | None, skip_file: SkipFile) -> tuple[list[Film], tuple[str, ...]]:
    """The videos of a WebDataset's shards on this machine, and the classes that the member `label` names (see
    PackConfig). Raises DataError."""
    found: list[Film] = []
    for shard in webdatasets.locate(source):
        if mirror.is_url(shard.url):
            raise DataError(f"{shard.url}: videos are packed from shards on this machine: copy them here first")
        found += _of_shard(shard.url, label, skip_file)
    twice = len(found) - len({film.key for film in found})
    if twice:
        found = [film._replace(key=f"{Path(_file(film)).stem}/{film.key}") for film in found]  # keys begin anew in each
    return found, tuple(sorted({film.label for film in found if film.label is not None}))


def _file(film: Film) -> str:
    return film.video.file if film.video is not None else film.frames[0].file


def _of_shard(file: str, label: str | None, skip_file: SkipFile) -> list[Film]:
    from sslscale.data.shard import map_file

    wanted, _, field = (label or "cls").partition(":")
    videos: dict[str, Place] = {}
    frames: dict[str, list[tuple[int, Place]]] = {}
    sounds: dict[str, Place] = {}
    labels: dict[str, str] = {}
    for member in tar.members(map_file(Path(file))[1], file):
        key, extension = tar.split_name(member.name)
        place = Place(file, member.offset, member.size)
        number, _, kind = extension.partition(".")
        if f".{extension}" in SUFFIXES:
            videos[key] = place
        elif f".{extension}" in SOUND_SUFFIXES:
            sounds[key] = place
        elif number.isdecimal() and kind in _IMAGES:
            frames.setdefault(key, []).append((int(number), place))
        elif extension == wanted:
            labels[key] = _label(place.read(), field, f"{file}: {member.name}")
        else:
            skip_file(f".{extension} members", f"{file}: {member.name}")
    found = []
    for key in sorted(videos.keys() | frames.keys()):
        own = tuple(place for _, place in sorted(frames.get(key, ())))
        video = videos.get(key) if not own else None
        found.append(Film(usable_key(key), f"{file}: {key}", labels.get(key) or None, video, own, sounds.get(key)))
    return found


def _label(raw: bytes, field: str, where: str) -> str:
    text = raw.decode("utf-8", "replace")
    if not field:
        return text.strip()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: unreadable ({error})") from None
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else str(value).strip()
