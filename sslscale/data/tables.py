"""CSV files with a column of image paths and one of classes, however plainly they are written."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sslscale.errors import DataError

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


class Row(NamedTuple):
    """One row of a table, with its line in the file. `label` is empty for an image without one.

    `extra` is the cell of one more column that was asked for.
    """

    line: int
    path: str
    label: str
    extra: str = ""


class Table(NamedTuple):
    """The rows of a CSV file, and how it was read if it is not written as `path,label`."""

    rows: list[Row]
    taken: str


def read_table(path: Path, is_image: Callable[[str], bool], *, labels: bool = True, extra: str | None = None) -> Table:
    """Read a CSV file with a column of image paths and a column of classes; raises DataError.

    The delimiter may be a comma, a semicolon, a tab or a bar. The columns are found by their names, or without a header
    by `is_image`, if there are two of them. Without `labels` the column of classes may be missing. `extra` names one
    more column to read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    if "\0" in text:
        raise DataError(f"{path}:{text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL byte: is this a text file?")
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in sorted(DELIMITERS, key=first.count, reverse=True):
        cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
        found = _columns(cells, is_image, labels, extra)
        if found is not None:
            break
    else:
        if extra is not None and extra not in first:
            raise DataError(f"{path}: has no column {extra!r}; its first line is {first[:120]!r}")
        raise DataError(
            f"{path}: its first line must name the columns path and label, for instance 'path,label'; it is: "
            f"{first[:120]!r}"
        )
    place, label, header = found
    if extra is not None and (not header or extra not in cells):
        raise DataError(f"{path}: has no column {extra!r}; its first line is {first[:120]!r}")
    third = cells.index(extra) if extra is not None else None
    rows = []
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    for number, row in enumerate(line for line in reader if any(cell.strip() for cell in line)):
        if number == 0 and header:
            continue
        name = row[place].strip() if place < len(row) else ""
        if not name:
            raise DataError(f"{path}:{reader.line_num}: an empty path")
        of_label, of_extra = (
            row[column].strip() if column is not None and column < len(row) else "" for column in (label, third)
        )
        rows.append(Row(reader.line_num, name, of_label, of_extra))
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


def _columns(
    cells: list[str], is_image: Callable[[str], bool], labels: bool, extra: str | None
) -> tuple[int, int | None, bool] | None:
    """Places of the path and of the label, and whether the first line is a header; None if that is not plain."""
    names = [cell.lower().replace(" ", "_") for cell in cells]
    place = _one(names, PATHS)
    label = _one(names, LABELS)
    if place is not None and (label is not None or (not labels and len(cells) == 1 + (extra in cells))):
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
