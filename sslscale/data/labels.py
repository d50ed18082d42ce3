"""A labels file: which image of a source has which class, and what became of each of its rows."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sslscale.data.sources import Item
from sslscale.data.tables import Row, read_table
from sslscale.errors import DataError

_SHOWN = 5  # rows of each kind that are listed


@dataclass
class Labels:
    """What a labels file says of the images of a source. `of` gives the class of an image by its key."""

    file: str
    of: dict[str, str]
    num_rows: int
    taken: str = ""
    not_found: list[Row] = field(default_factory=list)
    ignored: dict[str, list[Row]] = field(default_factory=dict)  # by reason

    @property
    def classes(self) -> set[str]:
        """The classes that are named."""
        return set(self.of.values())

    def account(self) -> list[str]:
        """Lines that tell what became of every row; the numbers add up."""
        ignored = sum(map(len, self.ignored.values()))
        reasons = ", ".join(f"{len(rows):,} {reason}" for reason, rows in self.ignored.items())
        lines = [f"{self.file}: {self.taken}"] if self.taken else []
        lines.append(
            f"{self.file}: {self.num_rows:,} rows = {len(self.of):,} used + {len(self.not_found):,} not found + "
            f"{ignored:,} ignored{f' ({reasons})' if reasons else ''}"
        )
        for reason, rows in {"not found": self.not_found, **self.ignored}.items():
            lines += [f"{self.file}:{row.line}: {reason}: {row.path}" for row in rows[:_SHOWN]]
            if len(rows) > _SHOWN:
                lines.append(f"... and {len(rows) - _SHOWN:,} more {reason}")
        return lines


def read_labels(file: Path, root: Path, items: Iterable[Item]) -> Labels:
    """The classes that a CSV file gives to images of a source; raises DataError if it uses none of its rows.

    A path is relative to `root` or to the CSV file, or absolute; the suffix may be left out where one image alone
    fits. A row whose image is not there, or that says nothing new, is kept with the reason.
    """
    by_path: dict[str, Item] = {}
    by_stem: dict[str, list[Item]] = {}
    base = root if root.is_dir() else root.parent
    for item in items:
        where = _normal(item.where)
        by_path[where] = item
        for stem in {_stem(where), Path(where).name, Path(where).stem}:
            by_stem.setdefault(stem, []).append(item)
    prefixes = [_normal(base), _normal(base.resolve()), _normal(file.parent), _normal(file.parent.resolve())]

    def find(name: str) -> Item | None:
        name = unicodedata.normalize("NFC", name)
        for candidate in (name, *(f"{prefix}/{name.removeprefix('./')}" for prefix in prefixes)):
            if (found := by_path.get(_normal(candidate))) is not None:
                return found
        fits = by_stem.get(name) or by_stem.get(_stem(_normal(base / name))) or []
        return fits[0] if len(fits) == 1 else None

    table = read_table(file, lambda name: find(name) is not None)
    labels = Labels(str(file), {}, len(table.rows), table.taken)
    for row in table.rows:
        item = find(row.path)
        if item is None:
            there = next((p for p in (Path(row.path), base / row.path, file.parent / row.path) if _exists(p)), None)
            if there is None:
                labels.not_found.append(row)
            else:
                inside = there.resolve().is_relative_to(base.resolve())
                reason = "of a type that is not read" if inside else f"not below {root}"
                labels.ignored.setdefault(reason, []).append(row)
        elif not row.label:
            labels.ignored.setdefault("without a label", []).append(row)
        elif item.key not in labels.of:
            labels.of[item.key] = unicodedata.normalize("NFC", row.label)
        elif labels.of[item.key] != unicodedata.normalize("NFC", row.label):
            raise DataError(f"{file}:{row.line}: {row.path} is labelled both {labels.of[item.key]!r} and {row.label!r}")
        else:
            labels.ignored.setdefault("a repeat of an earlier row", []).append(row)
    if not labels.of:
        why, row = (
            ("is not found", labels.not_found[0])
            if labels.not_found
            else next((f"is {reason}", rows[0]) for reason, rows in labels.ignored.items())
        )
        raise DataError(
            f"{file}: none of its {len(table.rows):,} rows labels an image of {root}; the first: line {row.line}: "
            f"{row.path} {why}; paths are relative to {root} or to the CSV file"
        )
    return labels


def _normal(path: str | Path) -> str:
    """A path in one spelling: absolute, NFC (macOS writes NFD)."""
    return unicodedata.normalize("NFC", str(Path(path).absolute()))


def _stem(path: str) -> str:
    return str(Path(path).with_suffix("")) if Path(path).name else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False
