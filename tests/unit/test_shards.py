"""Shards: deterministic to write, distrustful to read, open to plain webdataset."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sslscale.data import check, ready_sets, shard, shards, tar
from sslscale.data.index import Index, ShardInfo, read_index, write_index
from sslscale.data.samples import open_samples
from sslscale.data.write import Sample, write_shard, write_shards
from sslscale.errors import DataError

IMAGES = [item.read() for item in ready_sets.digits().items[:6]]


def samples(count: int = 6, first: int = 0) -> list[Sample]:
    soft = np.full(10, 0.1, np.float32)
    return [Sample(f"a/{first + i:04d}", IMAGES[i], "png", i % 3, soft) for i in range(count)]


def write(folder: Path, count: int = 6) -> Index:
    return write_shards(folder, "x", samples(count), ("p", "q", "r"), 3)


def test_the_same_samples_make_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1"), write(tmp_path / "2")
    assert one.shards == two.shards
    opened = open_samples(tmp_path / "1")
    assert len(opened) == 6
    assert opened.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert [opened.key(i) for i in range(6)] == [f"a/{i:04d}" for i in range(6)]
    assert bytes(opened.shards[1].encoded(0)) == IMAGES[3]
    soft = opened.field("soft_label", np.arange(6))
    assert soft is not None and soft.shape == (6, 10) and np.allclose(soft, 0.1)


def test_plain_webdataset_reads_what_we_write(tmp_path: Path) -> None:
    import webdataset.compat

    write(tmp_path)
    urls = sorted(str(p) for p in tmp_path.glob("*.tar"))
    read = list(webdataset.compat.WebDataset(urls, shardshuffle=False))
    assert [s["__key__"] for s in read] == [f"a/{i:04d}" for i in range(6)]
    assert [s["png"] for s in read] == IMAGES
    assert [s["cls"] for s in read] == [b"0", b"1", b"2"] * 2
    assert np.allclose(np.load(io.BytesIO(read[0]["soft.npy"]), allow_pickle=False), 0.1)


def test_what_webdataset_and_tarfile_write_is_read(tmp_path: Path) -> None:
    import webdataset.writer

    long = "deep/" + "k" * 150
    with webdataset.writer.TarWriter(str(tmp_path / "w.tar"), encoder=False) as writer:  # PAX headers with times
        for i, image in enumerate(IMAGES):
            writer.write({"__key__": f"{long}{i}", "png": image, "cls": b"1"})
    for name, format in (("w.tar", None), ("g.tar", tarfile.GNU_FORMAT), ("p.tar", tarfile.PAX_FORMAT)):
        if format is not None:
            with tarfile.open(tmp_path / name, "w", format=format) as file:
                for i, image in enumerate(IMAGES):
                    info = tarfile.TarInfo(f"{long}{i}.png")
                    info.size = len(image)
                    file.addfile(info, io.BytesIO(image))
        found = shard.scan(tmp_path / name, memoryview((tmp_path / name).read_bytes()))
        assert found.keys == [f"{long}{i}" for i in range(6)]
        assert [bytes(found.encoded(i)) for i in range(6)] == IMAGES


def shard_bytes() -> bytes:
    members = [[(f"{sample.key}.png", bytes(sample.image)), (f"{sample.key}.cls", b"1")] for sample in samples(4)]
    return archive([member for pair in members for member in pair])


def archive(members: list[tuple[str, bytes]]) -> bytes:
    """A tar file, by the standard library."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_any_truncation_is_detected() -> None:
    data = shard_bytes()
    *_, last = tar.members(data, "")
    end = last.offset + tar.BLOCK  # of the last member, which is small; the end-of-archive mark follows
    cuts = [*range(0, end + 1, tar.BLOCK), *range(1, end + tar.BLOCK, 97)]
    for cut in cuts:
        with pytest.raises(DataError):
            list(tar.members(data[:cut], "x.tar"))


def test_any_flipped_byte_is_detected(tmp_path: Path) -> None:
    data = bytearray(shard_bytes())
    whole = [m.name for m in tar.members(bytes(data), "x")]
    headers = []
    position = 0
    while any(data[position : position + tar.BLOCK]):
        headers.append(position)
        size = int(data[position + 124 : position + 135], 8)
        position += tar.BLOCK + -(-size // tar.BLOCK) * tar.BLOCK
    silent = []
    for start in headers:
        for offset in range(tar.BLOCK):
            data[start + offset] ^= 0x10
            try:
                if [m.name for m in tar.members(bytes(data), "x")] != whole:
                    silent.append(start + offset)
            except DataError:
                pass
            data[start + offset] ^= 0x10
    assert not silent
    index = write(tmp_path)
    file = tmp_path / index.shards[0].file
    good = file.read_bytes()
    for offset in range(0, len(good), 53):
        bad = bytearray(good)
        bad[offset] ^= 1
        file.write_bytes(bad)
        with pytest.raises(DataError, match=index.shards[0].file):
            shards.open_shard(index, 0)


def test_truncated_grown_swapped_or_missing_shards_are_named(tmp_path: Path) -> None:
    index = write(tmp_path)
    first, second = (tmp_path / s.file for s in index.shards)
    good = first.read_bytes()
    for change, message in (
        (lambda: first.write_bytes(good[:-2048]), "bytes, but its index says"),
        (lambda: first.write_bytes(good + bytes(512)), "bytes, but its index says"),
        (lambda: first.write_bytes(second.read_bytes()), "changed after packing|bytes, but"),
        (lambda: first.write_bytes(b""), "bytes, but its index says"),
        (first.unlink, "cannot be opened"),
    ):
        change()
        with pytest.raises(DataError, match=message):
            list(open_samples(tmp_path).shards)


def repack(folder: Path, members: list[tuple[str, bytes]]) -> None:
    """A folder of one shard with these members and a truthful index."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    data = archive(members)
    (folder / "x-000000.tar").write_bytes(data)
    count = sum(name.endswith(".png") for name, _ in members)
    info = ShardInfo("x-000000.tar", count, len(data), hashlib.sha256(data).hexdigest())
    write_index(folder, [info], ("p", "q", "r"))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("k.png", IMAGES[0]), ("k.cls", b"3")], "k: label '3' is not one of the 3 classes 0 to 2"),
        ([("k.png", IMAGES[0]), ("k.cls", b"-1")], "k: label '-1' is not one of"),
        ([("k.png", IMAGES[0]), ("k.cls", b"cat")], "k: label 'cat' is not one of"),
        ([("k.png", IMAGES[0])], "k: has no label"),
        ([("k.png", IMAGES[0]), ("k.cls", b"1"), ("k.png", IMAGES[1])], "the key 'k' comes twice"),
        ([("k.png", IMAGES[0]), ("k.cls", b"1"), ("z.png", IMAGES[1]), ("z.cls", b"1"), ("k.cls", b"2")], "'k' comes"),
        ([("k.cls", b"1")], "k: a label without an image"),
        ([("../../etc/x.png", IMAGES[0])], "not a usable key"),
        ([("/abs/y.png", IMAGES[0])], "not a usable key"),
        ([("sp ace.png", IMAGES[0])], "not a usable key"),
    ],
)
def test_bad_samples_are_named_by_shard_and_key(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    repack(tmp_path / "s", members)
    with pytest.raises(DataError, match=message) as caught:
        open_samples(tmp_path / "s")
    assert "x-000000.tar" in str(caught.value)


def test_the_same_key_in_two_shards_is_named(tmp_path: Path) -> None:
    infos = []
    for number in range(2):
        infos.append(write_shard(tmp_path / f"x-{number:06d}.tar", samples(2)))
    write_index(tmp_path, infos, ("p", "q", "r"))
    with pytest.raises(DataError, match=r"x-000001\.tar: the key 'a/0000' stands in another shard too"):
        open_samples(tmp_path)


def test_links_and_pickles_in_a_shard_stay_bytes(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        link = tarfile.TarInfo("evil.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
        for name in ("k.png", "k.pyd", "k.pkl", "k.pth"):
            info = tarfile.TarInfo(name)
            info.size = len(IMAGES[0])
            file.addfile(info, io.BytesIO(IMAGES[0]))
    found = shard.scan(tmp_path / "x.tar", memoryview((tmp_path / "x.tar").read_bytes()))
    assert found.keys == ["k"]
    assert found.ignored == {"pyd": 1, "pkl": 1, "pth": 1}


def test_check_reports_every_fault_and_leaks_into_the_test_split(digits: Path, tmp_path: Path) -> None:
    said: list[str] = []
    report = check.check(digits, threads=2, say=said.append)
    assert report["problems"] == [] and report["splits"]["labeled"]["images"] == 100
    shutil.copytree(digits, tmp_path / "d")
    sets = tmp_path / "d"
    (sets / "unlabeled" / "unlabeled-000001.tar").write_bytes(b"cut")
    leaked = shards.open_shard(read_index(digits / "labeled"), 0)
    shutil.rmtree(sets / "test")
    bad = Sample("broken", b"\x89PNG not", "png", 0)
    write_shards(sets / "test", "test", [leaked.sample(0)._replace(key="t", label=1), bad], tuple("0123456789"), 10)
    problems = check.check(sets, threads=2, say=said.append)["problems"]
    assert any("unlabeled-000001.tar" in p and "index says" in p for p in problems)
    assert any("broken" in p and "undecodable" in p for p in problems)
    assert any("the same image as labeled/" in p for p in problems)
    assert len(problems) == 3


def problems(folder: Path) -> list[str]:
    found = check.check(folder, threads=2, say=lambda line: None)
    assert all(
        "(no label)" not in split["classes"] and split["images"] >= split["unlabeled"]
        for split in found["splits"].values()
    )
    return found["problems"]


def test_check_finds_a_labelled_split_without_labels(digits: Path, tmp_path: Path) -> None:
    assert problems(digits) == []
    shutil.copytree(digits, tmp_path / "data")
    folder = tmp_path / "data" / "labeled"
    index = read_index(folder)
    shard = shards.open_shard(index, 0)
    bare = [shard.sample(row) for row in range(len(shard))]
    shutil.rmtree(folder)
    write_shards(folder, "labeled", bare, index.classes, 100)
    found = problems(tmp_path / "data")
    assert len(found) == 2
    assert "100 of 100 images of a labelled split have no label" in found[0] and "has no image" in found[1]
    shutil.rmtree(folder)
    write_shards(folder, "labeled", bare, (), 100)
    found = problems(tmp_path / "data")
    assert any("without classes" in line for line in found) and any("same classes" in line for line in found)


def test_check_finds_what_a_stopped_packing_left(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "data")
    (tmp_path / "data" / "unlabeled" / "index.json").unlink()
    assert problems(tmp_path / "data") == [
        f"{tmp_path / 'data' / 'unlabeled'}: half-written: 5 shards without an index.json; remove it and pack again"
    ]
    for split in ("labeled", "test"):
        (tmp_path / "data" / split / "index.json").unlink()
    assert len(problems(tmp_path / "data")) == 3
    shutil.copytree(digits / "labeled", tmp_path / "alone")
    shutil.copy(digits / "test" / "test-000000.tar", tmp_path / "alone" / "more-000000.tar")
    (tmp_path / "alone" / "x.tar.tmp-12345678").write_bytes(b"half")
    assert ["is not in index.json" in line or "left by a packing" in line for line in problems(tmp_path / "alone")] == [
        True,
        True,
    ]


def test_a_flipped_byte_of_an_index_is_an_error(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits / "labeled", tmp_path / "data")
    whole = (tmp_path / "data" / "index.json").read_bytes()
    assert json.loads(whole)["format"] == "sslscale-shards/3"
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        (tmp_path / "data" / "index.json").write_bytes(flipped)
        try:
            again = read_index(tmp_path / "data")
        except DataError:
            continue
        assert json.loads(flipped) == json.loads(whole), place  # white space alone
        assert again.num_samples == 100
    old = {key: value for key, value in json.loads(whole).items() if key != "sha256"} | {"format": "sslscale-shards/1"}
    (tmp_path / "data" / "index.json").write_text(json.dumps(old))  # packed before the index had a sum
    assert read_index(tmp_path / "data").num_samples == 100
