"""Transcripts of lines of text, and the characters that they are made of.

Class 0 is CTC's blank, class n + 1 the n-th character of the alphabet.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sslscale.data.captions import read_captions
from sslscale.data.shard import Shard
from sslscale.errors import DataError

EMPTY, UNKNOWN, LONG = "empty", "with other characters", "too long"


def normal(text: str) -> str:
    """A text in Unicode's composed form, with single spaces: a letter and its marks are one character if they can."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_transcripts(shard: Shard, member: str) -> list[str]:
    """The transcript of each line of a shard, in normal form; empty for one without. Raises DataError."""
    return [normal(text) for _, text in read_captions(shard, member)]


def read_alphabet(file: Path) -> tuple[str, ...]:
    """The characters of a text file, line ends aside; raises DataError for one that stands there twice."""
    try:
        text = unicodedata.normalize("NFC", file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as an alphabet: {error}") from None
    found = tuple(char for char in text if char not in "\r\n")
    twice = next((char for char in found if found.count(char) > 1), None)
    if twice is not None:
        raise DataError(f"{file}: the character {twice!r} stands there twice")
    return found


def why_unusable(text: str, alphabet: Sequence[str], longest: int) -> str:
    """What is wrong with a transcript; empty if nothing is."""
    if not text:
        return EMPTY
    if len(text) > longest:
        return LONG
    return "" if set(text) <= set(alphabet) else UNKNOWN


def encode(texts: Sequence[str], alphabet: Sequence[str], longest: int) -> np.ndarray:
    """Texts as uint16 (texts, longest), zeros behind the end."""
    number = {char: place + 1 for place, char in enumerate(alphabet)}
    rows = np.zeros((len(texts), longest), np.uint16)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = [number[char] for char in text]
    return rows


def decode(tokens: Sequence[int], alphabet: Sequence[str]) -> str:
    """The text of tokens, in normal form."""
    return normal("".join(alphabet[token - 1] for token in tokens if token))
