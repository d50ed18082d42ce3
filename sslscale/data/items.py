"""One image of a source, and everything that a source holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mov", ".mkv")


class Item(NamedTuple):
    """One image of a source. `where` names it for people; `label` is the class's name or None."""

    key: str
    where: str
    suffix: str
    label: str | None
    read: Callable[[], bytes]
    caption: Callable[[], bytes | None] | None = None
    sound: Callable[[], bytes | None] | None = None  # of the clip that begins with this frame, as WAV
    objects: Callable[[tuple[int, int]], bytes] | None = None  # given the image's height and width
    group: str = ""  # the video that a frame is of: all of it is in one split


class Listing(NamedTuple):
    """Everything a source holds, with its classes in the order of their label.

    `passed` counts the files that were passed over by their kind; `example` names one of each kind.
    """

    items: list[Item]
    classes: tuple[str, ...]
    passed: Mapping[str, int] = MappingProxyType({})
    example: Mapping[str, str] = MappingProxyType({})
    taken: str = ""  # how a CSV manifest was read, if it is not plain

    def skipped_files(self) -> list[str]:
        """A line for each kind of file that was passed over."""
        return [
            f"passed over: {count:,} {kind} (for instance {self.example[kind]})"
            for kind, count in sorted(self.passed.items())
        ]


def account(images: int, counts: Counter[str], first: Mapping[str, str]) -> str:
    """What became of all annotations, in one line."""
    usual = ("objects", "without objects", "crowd")
    text = f"{images:,} images ({counts['without objects']:,} without objects), {counts['objects']:,} objects"
    text += f", {counts['crowd']:,} crowds or doubtful ones, which are ignored"
    for kind in sorted(kind for kind in counts if kind not in usual and counts[kind]):
        text += f"; left out: {counts[kind]:,} {kind} (such as {first[kind]})"
    return text
