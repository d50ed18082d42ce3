"""CSV files that name images and their classes: found out how they are written, and every row accounted for."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sslscale.errors import DataError

if TYPE_CHECKING:
    from sslscale.data.sources import Item

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
PATHS = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "img",
    "image_id",
    "id",
)
LABELS = ("label", "labels", "class", "class_name", "classname", "category", "target", "species", "breed", "tag")
_SHOWN = 5  # rows of each kind that are listed


class Row(NamedTuple):
    """One row of a table, with its line in the file. `label` is empty for an image without one."""

    line: int
    path: str
    label: str


class Table(NamedTuple):
    """The rows of a CSV file, and how it was read if it is not written as `path,label`."""

    rows: list[Row]
    taken: str


def read_table(path: Path, is_image: Callable[[str], bool], *, labels: bool = True) -> Table:
    """Read a CSV file with a column of image paths and a column of classes; raises DataError.

    The delimiter may be a comma, a semicolon, a tab or a bar. The columns are found by their names, or without a header
    by `is_image`, if there are two of them. Without `labels` the column of classes may be missing.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in sorted(DELIMITERS, key=first.count, reverse=True):
        cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
        found = _columns(cells, is_image, labels)
        if found is not None:
            break
    else:
        raise DataError(
            f"{path}: its first line must name the columns path and label, for instance 'path,label'; it is: "
            f"{first[:120]!r}"
        )
    place, label, header = found
    rows = []
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    for number, row in enumerate(line for line in reader if any(cell.strip() for cell in line)):
        if number == 0 and header:
            continue
        name = row[place].strip() if place < len(row) else ""
        if not name:
            raise DataError(f"{path}:{reader.line_num}: an empty path")
        rows.append(Row(reader.line_num, name, row[label].strip() if label is not None and label < len(row) else ""))
    if not rows:
        raise DataError(f"{path}: no rows below its header")
    plain = (
        delimiter == ","
        and header
        and (cells[place].lower(), label is None or cells[label].lower())
        in (
            ("path", "label"),
            ("path", True),
        )
    )
    names = (
        f"column {cells[place]!r} as the path" + ("" if label is None else f" and {cells[label]!r} as the label")
        if header
        else f"no header; column {place + 1} as the path and {2 - place} as the label"
    )
    return Table(rows, "" if plain else f"read with {DELIMITERS[delimiter]}, {names}")


def _columns(cells: list[str], is_image: Callable[[str], bool], labels: bool) -> tuple[int, int | None, bool] | None:
    """Places of the path and of the label, and whether the first line is a header; None if that is not plain."""
    names = [cell.lower().replace(" ", "_") for cell in cells]
    place = _one(names, PATHS)
    label = _one(names, LABELS)
    if place is not None and (label is not None or (not labels and len(cells) == 1)):
        return place, label, True
    if len(cells) == 2:
        images = [number for number, cell in enumerate(cells) if is_image(cell)]
        if len(images) == 1:
            return images[0], 1 - images[0], False
    return None


def _one(names: list[str], known: tuple[str, ...]) -> int | None:
    """The place of the first of the `known` names, if it is there once."""
    for name in known:
        if names.count(name) == 1:
            return names.index(name)
    return None


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
