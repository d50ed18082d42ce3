"""Where images come from: an image folder, a CSV manifest, a torchvision data set, scikit-learn's digits.

Each source is listed as items (a key, a label or none, and how to get the bytes), so that splitting and labelling
are the same for all. Nothing here decodes an image or knows torch.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sslscale.data import ready_sets, tables
from sslscale.data.items import VIDEO_SUFFIXES, Item, Listing
from sslscale.errors import DataError
from sslscale.storage import mirror

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SUFFIXES = (*PICTURES, ".npy")  # arrays are images where no pictures are
SPLITS = ("labeled", "unlabeled", "val", "test")
HIDDEN = "hidden_labels.npy"
PACKED = ("index.json", "labels.npy", "rows.npy", HIDDEN)  # what a split has beside its shards
_HEIF = (".heic", ".heif", ".avif", ".jxl", ".jp2")
_RAW = (".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f")


def list_source(source: str, captions: str | None = None) -> Listing:
    """List `digits`, `torchvision:NAME:ROOT[:SPLIT]`, a .csv or a folder; raises DataError.

    `captions` are those of PackConfig.
    """
    if mirror.is_url(source):
        raise DataError(f"{source}: no packed images there; pack them where they lie: sslscale data pack SRC {source}")
    path = Path(source)
    if captions is not None and (source == "digits" or source.startswith("torchvision:")):
        raise DataError(f"{source}: has no captions: leave data.captions out")
    if source == "digits":
        return ready_sets.digits()
    if source.startswith("torchvision:"):
        return ready_sets.torchvision_set(source)
    if path.suffix == ".csv":
        return manifest(path, captions)
    if captions not in (None, "txt"):
        raise DataError(f"{source}: captions beside the images of a folder are txt files, not {captions!r}")
    return folder(path, captions is not None)


def is_packed(source: str) -> bool:
    """Whether the source is a folder that `sslscale data pack` wrote."""
    return any((local_path(source) / split / "index.json").is_file() for split in ("labeled", "unlabeled"))


def local_path(source: str) -> Path:
    """A source's folder; of a URL one that mirrors its shards, of which only the indexes are here at first."""
    if not mirror.is_url(source):
        is_dir(Path(source))  # or a name that is too long fails where nobody expects it
    names = [f"{split}/{name}" for split in SPLITS for name in PACKED]
    return mirror.local(source, ["index.json", *names])


def resolve(source: str, share: str) -> str:
    """Where a split's folder is: inside the source, or a path of its own."""
    inside = Path(source) / share
    return str(inside) if inside.is_dir() else share


def folder(root: Path, captions: bool = False) -> Listing:
    """Images below a folder. With sub-folders and no loose images, each sub-folder is a class.

    With `captions` the text file beside an image, of the same name, holds its caption.
    """
    if not is_dir(root):
        raise DataError(f"{root}: there is no such folder")
    passed: Counter[str] = Counter()
    example: dict[str, str] = {}

    def skip_file(kind: str, path: Path) -> None:
        if captions and path.suffix == ".txt":
            return
        passed[kind] += 1
        example.setdefault(kind, str(path))

    classes = class_folders(root)
    items = []
    for path in image_files(root, skip_file):
        relative = path.relative_to(root)
        label = class_name(relative.parts[0]) if classes else None
        item = _file_item(path, relative, label)
        items.append(item._replace(caption=partial(_beside, str(caption_file(path)))) if captions else item)
    arrays = [item for item in items if item.suffix == ".npy"]
    if len(arrays) < len(items):
        for item in arrays:
            skip_file(".npy files", Path(item.where))
        items = [item for item in items if item.suffix != ".npy"]
    listing = Listing(unique(items), tuple(sorted(set(map(class_name, classes)))), passed, example)
    more = "".join(f"; {line}" for line in listing.skipped_files())
    if not items:
        videos = any(f"{suffix} files" in passed for suffix in VIDEO_SUFFIXES)
        more += "; videos are cut into clips with data.video, or data pack --frames" if videos else ""
        raise DataError(f"{root}: no images there ({', '.join(SUFFIXES)}){more}")
    empty = sorted(set(listing.classes) - {item.label for item in items if item.label})
    if empty:
        raise DataError(f"{root / empty[0]}: a class folder without images; remove it or fill it{more}")
    return listing


def class_folders(root: Path, suffixes: tuple[str, ...] = PICTURES) -> list[str]:
    """The sub-folders of a folder that are classes: all of them, or none if an image lies beside them."""
    with os.scandir(root) as entries:
        found = [(entry.name, entry.is_dir()) for entry in entries if not _hidden(entry.name)]
    if any(not is_folder and name.lower().endswith(suffixes) for name, is_folder in found):
        return []
    return sorted(name for name, is_folder in found if is_folder)


def class_name(folder_name: str) -> str:
    """A folder's name as a class: in Unicode's composed form, which macOS does not give."""
    return unicodedata.normalize("NFC", folder_name)


def is_dir(path: Path) -> bool:
    """Whether there is such a folder; raises DataError for a path that the system refuses."""
    try:
        return path.is_dir()
    except OSError as error:
        raise DataError(f"{str(path)[:80]}...: not a usable path: {error.strerror}") from None


def caption_file(image: Path) -> Path:
    """The text file with the caption of an image."""
    return image.with_suffix(".txt")


def _beside(path: str) -> bytes | None:
    try:
        return read_file(path)
    except FileNotFoundError:
        return None


def manifest(path: Path, captions: str | None = None) -> Listing:
    """A CSV with a column of paths (relative to the CSV) and one of labels (empty for an unlabelled image).

    Without a column of labels all images are unlabelled. `captions` names the column that has them.
    """
    rows, taken, texts = _manifest(path, captions)
    missing = [(line, file) for line, file, _ in rows if not file.is_file()]
    if missing:
        line, file = missing[0]
        more = f", as are {len(missing) - 1:,} more of its {len(rows):,} images" if len(missing) > 1 else ""
        raise DataError(f"{path}:{line}: there is no image {file}{more}")
    items = []
    for _, file, label in rows:
        relative = file.relative_to(path.parent) if file.is_relative_to(path.parent) else Path(*file.parts[1:])
        items.append(_file_item(file, relative, label or None))
    if texts is not None:
        items = [i._replace(caption=partial(_encoded, text)) for i, text in zip(items, texts, strict=True)]
    return Listing(unique(items), tuple(sorted({item.label for item in items if item.label})), taken=taken)


def manifest_rows(path: Path, captions: str | None = None) -> tuple[list[tuple[int, Path, str]], str]:
    """Line, image and label of each row of a manifest, and how it was read; raises DataError."""
    return _manifest(path, captions)[:2]


def _manifest(path: Path, captions: str | None = None) -> tuple[list[tuple[int, Path, str]], str, list[str] | None]:
    """The same with the text of each row in the column that is named."""
    known = lambda name: (path.parent / name).is_file()  # noqa: E731
    table = tables.read_table(path, known, labels=False, extra=captions)
    texts = None if captions is None else [row.extra for row in table.rows]
    return [(row.line, path.parent / row.path, class_name(row.label)) for row in table.rows], table.taken, texts


def _encoded(text: str) -> bytes | None:
    return text.encode() if text else None


def image_files(
    root: Path,
    skip_file: Callable[[str, Path], None] = lambda kind, path: None,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> Iterator[Path]:
    """The images below a folder, or the files of other `suffixes`, in the order of their names; `skip_file` hears of
    all others."""
    for parent, folders, files in os.walk(root):
        for name in sorted(folders):
            if _hidden(name):
                skip_file("hidden folders", Path(parent, name))
            elif os.path.islink(os.path.join(parent, name)):
                skip_file("links to folders, which are not followed", Path(parent, name))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for name in sorted(files):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(parent, name)
            else:
                skip_file(_kind(name), Path(parent, name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _kind(name: str) -> str:
    """What a file is that is no image that can be read."""
    suffix = Path(name).suffix.lower()
    if name.startswith("._"):
        return "AppleDouble files (._*)"
    if suffix in _HEIF:
        return f"{suffix} images, which cannot be read: convert them to JPEG or PNG"
    if suffix in _RAW:
        return f"{suffix} raw images, which cannot be read: develop them to JPEG or TIFF"
    if name.startswith(".") or name in ("Thumbs.db", "desktop.ini"):
        return "hidden files"
    return f"{suffix} files" if suffix else "files without a suffix"


def _file_item(path: Path, relative: Path, label: str | None) -> Item:
    key = usable_key(relative.with_suffix("").as_posix())
    return Item(key, str(path), path.suffix.lower(), label, partial(read_file, str(path)))


def read_file(path: str) -> bytes:
    """The bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


def usable_key(name: str) -> str:
    """A key made of a name: letters, digits, _, - and / alone, and not too long for a tar."""
    key = re.sub(r"[^A-Za-z0-9_\-/]", "_", name).strip("/") or "image"
    return key if len(key) <= 180 else f"{key[:150]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def unique(items: list[Item]) -> list[Item]:
    """Give files whose names differ only in what a key cannot hold (a.jpg and a.png) keys of their own."""
    seen: set[str] = set()
    result = []
    for item in items:
        key = item.key
        if key in seen:
            key = f"{key}-{hashlib.sha256(item.where.encode()).hexdigest()[:8]}"
        seen.add(key)
        result.append(item._replace(key=key))
    return result
