"""Settings of lines of text: their transcripts, and how a recogniser is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require


@dataclass(frozen=True, kw_only=True)
class TranscriptConfig:
    """Where the transcript of a line is, and which characters there are.

    `member` is the file beside the image in its shard: txt (KEY.txt), or json:FIELD. Transcripts are taken in Unicode's
    composed form (NFC), in which a letter and its marks are one character, with single spaces. `alphabet: data` takes
    the characters of the labelled lines; a FILE.txt lists them, each once, line ends aside. A labelled line that is
    empty, has other characters or more than `longest` is unusable: `on_unusable` raises an error or skips it. Both are
    counted.
    """

    member: str = "txt"
    alphabet: str = "data"
    longest: int = 48
    on_unusable: Literal["error", "skip"] = "error"
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        named = self.member == "txt" or (self.member.startswith("json:") and len(self.member) > len("json:"))
        require(named, "member", f"txt or json:FIELD, not {self.member!r}")
        known = self.alphabet == "data" or self.alphabet.endswith(".txt")
        require(known, "alphabet", f"data or a FILE.txt, not {self.alphabet!r}")
        require(self.longest >= 1, "longest", "must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How a recogniser is judged on the lines of a split.

    CER is the edit distance over the characters of the transcripts, both summed over all lines; WER the same of words;
    `exact` the share of lines without an error. Intervals are of `resamples` bootstrap samples of the lines.
    """

    split: str = "test"
    member: str = "txt"
    ignore_case: bool = False
    resamples: int = 1000
    shown: int = 12
    batch_size: int = field(default=128, metadata={"identity": False})
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.resamples >= 100, "resamples", "must be 100 or more")
        require(self.batch_size > 0, "batch_size", "must be positive")
