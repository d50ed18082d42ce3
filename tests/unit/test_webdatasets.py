"""Others' WebDatasets are a source: written here by webdataset itself, with other member names, braces, damage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import webdataset
from webdataset.writer import TarWriter

from sslscale.data import sources, split
from sslscale.data.fingerprint import fingerprint
from sslscale.data.pack import pack
from sslscale.data.samples import open_samples
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig

IMAGES = sources.digits().items[:60]


def write(folder: Path, *, labels: bool = True, shards: int = 3) -> Path:
    """Shards as img2dataset writes them: KEY.jpg, KEY.txt, KEY.json, here with KEY.cls too."""
    folder.mkdir(parents=True)
    for number in range(shards):
        with TarWriter(str(folder / f"{number:05d}.tar"), encoder=False) as writer:
            for item in IMAGES[20 * number : 20 * number + 20]:
                sample = {"__key__": item.key.replace("/", "-"), "PNG": item.read(), "txt": b"a digit", "json": b"{}"}
                writer.write({**sample, "cls": str(item.label).encode()} if labels else sample)
    return folder


def test_shards_named_by_braces_or_wildcards_are_listed(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    braces = sources.list_source(f"webdataset:{folder}/{{00000..00002}}.tar")
    stars = sources.list_source(f"webdataset:{folder}/*.tar")
    assert [item.key for item in braces.items] == [item.key for item in stars.items] and len(braces.items) == 60
    assert [item.label for item in braces.items] == [item.label for item in IMAGES]
    assert [item.read() for item in braces.items] == [item.read() for item in IMAGES]
    assert braces.classes == tuple("0123456789")
    assert dict(braces.passed) == {".txt": 60, ".json": 60}


def test_they_are_packed_with_every_image_and_label(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    config = PackConfig(source=f"webdataset:{folder}/*.tar", shard_size=25)
    assert split.is_labeled(config)
    pack(config, tmp_path / "ours", threads=1)
    ours = open_samples(tmp_path / "ours" / "labeled")
    assert Counter(ours.labels.tolist()) == Counter(int(str(item.label)) for item in IMAGES)
    theirs = webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False)  # pyright: ignore[reportAttributeAccessIssue]
    keys = {sample["__key__"] for sample in theirs}
    assert {ours.key(number) for number in range(len(ours))} == keys


def test_shards_without_labels_are_unlabelled(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs", labels=False)
    config = PackConfig(source=f"webdataset:{folder}/*.tar")
    assert not split.is_labeled(config)
    pack(config, tmp_path / "ours", threads=1)
    assert (tmp_path / "ours" / "unlabeled" / "index.json").is_file()


def test_their_identity_is_their_content(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    second = tmp_path / "b"
    second.mkdir()
    for file in first.iterdir():
        (second / file.name).write_bytes(file.read_bytes())
    same = [fingerprint(f"webdataset:{folder}/*.tar", tmp_path) for folder in (first, second)]
    assert same[0] == same[1]
    (second / "00002.tar").unlink()
    assert fingerprint(f"webdataset:{second}/*.tar", tmp_path) != same[0]


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    with pytest.raises(DataError, match=r"there is no shard .*00003\.tar"):
        sources.list_source(f"webdataset:{folder}/{{00000..00003}}.tar")
    with pytest.raises(DataError, match=r"there is no shard .*x\*\.tar"):
        sources.list_source(f"webdataset:{folder}/x*.tar")
    (folder / "00003.tar").write_bytes((folder / "00000.tar").read_bytes())
    with pytest.raises(DataError, match=r"stands in .*00000\.tar too"):
        sources.list_source(f"webdataset:{folder}/*.tar")
    (folder / "00003.tar").unlink()
    cut = folder / "00001.tar"
    cut.write_bytes(cut.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"00001\.tar: cut at byte"):
        sources.list_source(f"webdataset:{folder}/*.tar")
    cut.write_bytes(b"")
    with pytest.raises(DataError, match=r"00001\.tar: an empty file"):
        sources.list_source(f"webdataset:{folder}/*.tar")
    with pytest.raises(DataError, match="its braces cannot be expanded"):
        sources.list_source("webdataset:/data/{a,b.tar")


def test_nothing_is_dropped_in_silence(tmp_path: Path) -> None:
    def listed(*samples: dict[str, object]) -> sources.Listing:
        with TarWriter(str(tmp_path / "x.tar"), encoder=False) as writer:
            for sample in samples:
                writer.write(sample)
        return sources.list_source(f"webdataset:{tmp_path}/x.tar")

    image = IMAGES[0].read()
    found = listed({"__key__": "a b", "png": image}, {"__key__": "a_b", "png": image}, {"__key__": "c", "cls": b"1"})
    assert len({item.key for item in found.items}) == 2 and dict(found.passed) == {".cls": 1}
    with pytest.raises(DataError, match=r"'a\.png' comes twice"):
        listed({"__key__": "a", "png": image}, {"__key__": "b", "png": image}, {"__key__": "a", "png": image})
