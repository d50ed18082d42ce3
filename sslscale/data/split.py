"""Which images of a source are labelled, unlabelled, held out for validation and for test. Knows no torch."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sslscale.data import annotations, sources, videos, webdatasets
from sslscale.data.labels import read_labels
from sslscale.data.sources import Item, Listing
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig
from sslscale.storage import jsonio

LINE = "line"  # the class of lines that have a transcript


class Split(NamedTuple):
    """The images of each split in the order of their shards, the classes, and what is to be told of them."""

    parts: dict[str, list[Item]]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


class Contents(NamedTuple):
    """How many images each split has, and the classes."""

    num_samples: dict[str, int]
    classes: tuple[str, ...]

    @property
    def labeled(self) -> bool:
        """Whether there is any labelled image to learn from."""
        return self.num_samples.get("labeled", 0) > 0


def split(config: PackConfig, listing: Listing) -> Split:
    """Decide each image's split. The test and val splits do not depend on the seed; the labelled subset does.

    The classes are those of the class folders and those of the labels file. A source without any label has
    unlabelled images alone. Raises DataError.
    """
    items, classes = listing.items, listing.classes
    notes = [f"{config.source}: {listing.taken}"] if listing.taken else []
    notes += listing.skipped_files()
    if config.labels is not None:
        items, classes, told = _label_by_file(config, listing)
        notes += told
    if annotated(config.source):
        return _split_annotated(config, listing, notes)
    items = [*items, *_more(config)]
    parts: dict[str, list[Item]] = {}
    for name, share in (("test", config.test), ("val", config.val)):
        if isinstance(share, str):
            parts[name], classes = _held(config, name, share, classes)
        elif share and not any(item.label is not None for item in items):
            notes.append(f"no {name} split: there is no labelled image to hold out ({name}: {share:g})")
        elif share:
            items, parts[name] = _hold_out(items, share, name)
    labeled = _choose(config, items, classes)
    chosen = {item.key for item in labeled}
    parts["labeled"] = labeled
    parts["unlabeled"] = [item for item in items if item.key not in chosen]
    if not labeled and config.labels_per_class:
        raise DataError(
            f"{config.source}: no labelled image to keep labels_per_class={config.labels_per_class} of; give class "
            "folders or a labels file, or leave labels_per_class out"
        )
    if labeled:
        named = {item.label for item in labeled}
        for label in classes:
            if label not in named:
                raise DataError(
                    f"{config.source}: class {label!r} has no labelled image left for training; label one, or leave "
                    "the class out"
                )
    ordered = {name: sorted(items, key=_place) for name, items in sorted(parts.items()) if items}
    return Split(ordered, classes, tuple(notes))


def annotated(source: str) -> bool:
    """Whether a source's images have annotated objects instead of classes."""
    return source.startswith(annotations.PREFIXES)


def _split_annotated(config: PackConfig, listing: Listing, notes: list[str]) -> Split:
    """Images with annotated objects are labelled, whatever the number of their objects; none has a class of its own."""
    classes = listing.classes
    parts: dict[str, list[Item]] = {}
    items = listing.items
    for name, share in (("test", config.test), ("val", config.val)):
        if isinstance(share, str):
            held = _listing_of(config, share)
            if not all(item.objects is not None for item in held.items) or held.classes != classes:
                raise DataError(f"{share}: {name} images need annotations of the classes of {config.source}")
            notes.append(f"{share}: {held.taken}")
            parts[name] = held.items
        elif share:
            chosen = sorted(items, key=lambda item: _order(item.key, name))[: max(round(len(items) * share), 1)]
            keys = {item.key for item in chosen}
            items, parts[name] = [item for item in items if item.key not in keys], chosen
    parts["labeled"] = [item for item in items if item.objects is not None]
    parts["unlabeled"] = [*(item for item in items if item.objects is None), *_more(config)]
    ordered = {name: sorted(mine, key=_place) for name, mine in sorted(parts.items()) if mine}
    return Split(ordered, classes, tuple(notes))


def _listing_of(config: PackConfig, share: str) -> Listing:
    return listing(config, share if annotated(share) else sources.resolve(config.source, share))


def _more(config: PackConfig) -> list[Item]:
    """The images of `unlabeled`, in a folder of keys of their own."""
    if config.unlabeled is None:
        return []
    found = sources.folder(Path(config.unlabeled)).items
    return [item._replace(key=sources.usable_key(f"unlabeled/{item.key}"), label=None) for item in found]


@lru_cache(maxsize=8)
def contents(config: PackConfig) -> Contents | None:
    """What packing would give, or what is packed already; None where listing it takes long.

    Raises DataError as packing does.
    """
    if config.source.startswith(("torchvision:", webdatasets.PREFIX, *annotations.PREFIXES)) or config.video:
        return None
    if sources.is_packed(config.source):
        found = {}
        for name in sources.SPLITS:
            file = sources.local_path(config.source) / name / "index.json"
            if file.is_file():
                try:
                    index = jsonio.read_json(file)
                    index = jsonio.unsealed(index) if jsonio.SUM in index else index
                    found[name] = (int(index["num_samples"]), tuple(index["classes"]))
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{file}: unreadable index ({error})") from None
        classes = next((classes for _, classes in found.values()), ())
        return Contents({name: count for name, (count, _) in found.items()}, classes)
    done = split(config, listing(config, config.source, config.captions))
    return Contents({name: len(items) for name, items in done.parts.items()}, done.classes)


def is_labeled(config: PackConfig) -> bool:
    """Whether a source has labelled images to learn from, as far as can be told at little cost; else True."""
    if config.labels_per_class == 0:
        return False
    if config.labels is not None or config.source == "digits" or config.source.startswith("torchvision:"):
        return True
    if annotated(config.source):
        return False  # no image has a class
    if config.source.startswith(webdatasets.PREFIX):
        return webdatasets.has_labels(config.source, config.label)
    if not sources.is_packed(config.source):
        path = Path(config.source)
        if path.suffix != ".csv":
            suffixes = videos.SUFFIXES if config.video is not None else sources.SUFFIXES
            return not sources.is_dir(path) or bool(sources.class_folders(path, suffixes))
    found = contents(config)
    return found is None or found.labeled


def has_test(config: PackConfig) -> bool:
    """Whether there is a test split."""
    if config.test is None and sources.is_packed(config.source):
        return (sources.local_path(config.source) / "test" / "index.json").is_file()
    return config.test is not None


def _transcribed(found: Listing) -> Listing:
    """Lines of text: those with a transcript are labelled."""
    items = []
    for item in found.items:
        text = item.caption() if item.caption is not None else None
        items.append(item._replace(label=LINE if text is not None and text.strip() else None))
    return found._replace(items=items, classes=(LINE,))


def _label_by_file(config: PackConfig, listing: Listing) -> tuple[list[Item], tuple[str, ...], list[str]]:
    """The images with the labels of the file alone, the classes of both, and what is to be told."""
    assert config.labels is not None
    root = Path(config.source)
    known = [item for item in listing.items if item.where != config.labels]
    found = read_labels(Path(config.labels), root if sources.is_dir(root) else root.parent, known)
    labeled = [item._replace(label=found.of.get(item.key)) for item in listing.items]
    notes = found.account()
    folders = set(listing.classes)
    if folders and not folders & found.classes:
        notes.append(
            f"{config.labels} names none of the folders of {config.source} as a class: the classes are the file's"
        )
        folders = set()
    return labeled, tuple(sorted(folders | found.classes)), notes


def _held(config: PackConfig, name: str, share: str, classes: tuple[str, ...]) -> tuple[list[Item], tuple[str, ...]]:
    """The images of a folder that is the test or the val split, and the classes: its own if the source has none."""
    place = sources.resolve(config.source, share)
    alike = place.endswith(".csv") == config.source.endswith(".csv")  # a folder beside a CSV has no captions
    held = listing(config, place, config.captions if alike else None)
    classes = classes or held.classes
    unknown = sorted({item.label for item in held.items if item.label} - set(classes))
    if unknown:
        raise DataError(f"{share}: the class {unknown[0]!r} is not a class of {config.source}")
    if any(item.label is None for item in held.items):
        raise DataError(f"{share}: its images have no classes; {name} images need labels")
    return held.items, classes


def _choose(config: PackConfig, items: list[Item], classes: tuple[str, ...]) -> list[Item]:
    """The images that keep their label."""
    if config.labels_per_class is None:
        return [item for item in items if item.label is not None]
    labeled = []
    by_class = _units_of(items)
    for label in classes:
        mine = by_class.get(label, {})
        if len(mine) < config.labels_per_class:
            raise DataError(
                f"{config.source}: class {label!r} has {len(mine)} {'videos' if config.video else 'images'}, "
                f"fewer than labels_per_class={config.labels_per_class}"
            )
        for unit in sorted(mine, key=lambda u: _order(u, f"label{config.seed}"))[: config.labels_per_class]:
            labeled += mine[unit]
    return labeled


def _hold_out(items: list[Item], share: float, name: str) -> tuple[list[Item], list[Item]]:
    """Hold out a share of each class's labelled images, the same ones whatever the seed; of videos, whole ones."""
    held: set[str] = set()
    for mine in _units_of(items).values():
        chosen = sorted(mine, key=lambda u: _order(u, name))[: max(round(len(mine) * share), 1)]
        held.update(item.key for unit in chosen for item in mine[unit])
    return [i for i in items if i.key not in held], [i for i in items if i.key in held]


def _units_of(items: list[Item]) -> dict[str, dict[str, list[Item]]]:
    """By class, what is in a split together: each labelled image, or all frames of a video."""
    found: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        if item.label is not None:
            found.setdefault(item.label, {}).setdefault(item.group or item.key, []).append(item)
    return found


def _place(item: Item) -> tuple[bytes, str]:
    """Where an image stands among the others of its split: anywhere, but the frames of a clip in their order."""
    return _order(item.key.rpartition("/")[0] if item.group else item.key, "shard"), item.key


def _order(key: str, salt: str) -> bytes:
    return hashlib.sha256(f"{salt}:{key}".encode()).digest()


def listing(config: PackConfig, source: str, captions: str | None = None) -> Listing:
    """What a source holds; raises DataError."""
    if annotated(source):
        return annotations.list_annotated(source)
    if config.video is None:
        found = sources.list_source(source, captions)
        return _transcribed(found) if config.lines else found
    return videos.list_videos(source, config)
