"""Decoded images: the cache and decoding agree, and no cache that is old, foreign, damaged or too large is believed."""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslscale.data import cache, decode
from sslscale.data.images import Images
from sslscale.data.index import read_index
from sslscale.data.loader import Loader
from sslscale.data.samples import open_samples
from sslscale.data.shards import Shards
from sslscale.data.stream import Stream
from sslscale.data.write import Sample, write_shards
from sslscale.errors import DataError
from sslscale.settings.augment import AugmentConfig, JitterConfig
from sslscale.settings.model import ImageConfig
from sslscale.storage import locks
from sslscale.storage.scratch import Local

SHAPES = [(60, 90), (120, 80), (200, 200), (75, 75), (64, 300), (1100, 1300)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 JPEGs of six shapes in two shards, cut from scikit-learn's photographs."""
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("photographs")
    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    samples = []
    for number in range(48):
        height, width = SHAPES[number % 6]
        buffer = io.BytesIO()
        left = 5 * number
        pictures[number % 2].crop((left, 10, left + 300, 410)).resize((width, height)).save(buffer, "JPEG", quality=90)
        samples.append(Sample(f"p{number}", buffer.getvalue(), "jpg", number % 3))
    write_shards(folder, "x", samples, ("a", "b", "c"), 24)
    return folder


def opened(folder: Path, place: Path | None, size: int = 24, limit: int = 1 << 30, **options) -> Images:
    shards = Shards(read_index(folder), place and Local(place))
    images = Images(shards, size, cache=place, cache_bytes=limit, threads=2, **options)
    images.make()
    return images


def every(images: Images, folder: Path) -> torch.Tensor:
    return images.fetch(*open_samples(folder).places())


def test_cache_and_decoding_give_the_same_squares(photographs: Path, tmp_path: Path) -> None:
    cached, plain = opened(photographs, tmp_path), opened(photographs, None)
    assert (cached.cached, plain.cached) == (2, 0)
    assert every(cached, photographs).equal(every(plain, photographs))
    again = opened(photographs, tmp_path)
    assert again.cached == 2 and every(again, photographs).equal(every(plain, photographs))


@pytest.mark.parametrize("short_side", [None, 64])
def test_cache_and_decoding_give_the_same_crops(photographs: Path, tmp_path: Path, short_side: int | None) -> None:
    options: dict = {"whole": True, "short_side": short_side}
    cached, plain = opened(photographs, tmp_path, **options), opened(photographs, None, **options)
    assert (cached.cached, plain.cached) == (2, 0) and cached.shape is None
    shard, row = open_samples(photographs).places()
    sizes = cached.sizes(shard, row)
    assert (sizes == plain.sizes(shard, row)).all()
    expected = [s if short_side is None else cache_shape(s, short_side) for s in SHAPES]
    assert [tuple(s) for s in sizes[:6].tolist()] == expected
    heights, widths = torch.from_numpy(sizes).unbind(1)
    boxes = [
        torch.stack([heights // 4, widths // 5, heights // 2, widths // 2], 1).float(),
        torch.stack([heights * 0, widths * 0, heights, widths], 1).float(),
    ]
    for a, b in zip(cached.crops(shard, row, boxes, [24, 12]), plain.crops(shard, row, boxes, [24, 12]), strict=True):
        assert a.equal(b)
    image = decode.decode(plain._shards[0].encoded(0))
    expected_crop = decode.resize(image[:, 15:45, 18:63], (24, 24))
    if short_side is None:
        assert cached.crops(shard[:1], row[:1], [boxes[0][:1]], [24])[0][0].equal(expected_crop)


def cache_shape(shape: tuple[int, int], short_side: int) -> tuple[int, int]:
    short = min(shape)
    return shape if short <= short_side else tuple(max(round(x * short_side / short), short_side) for x in shape)  # type: ignore[return-value]


def test_a_damaged_file_is_named_and_made_again(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = every(opened(photographs, tmp_path), photographs)
    for change in (
        lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
        lambda data: data[:-50],
        lambda data: b"",
    ):
        victim = sorted((tmp_path / "images").glob("*-fit-*"))[0]
        victim.write_bytes(change(victim.read_bytes()))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert every(opened(photographs, tmp_path), photographs).equal(right)
        assert str(victim) in caplog.text and "made again" in caplog.text


def test_a_copied_cache_is_believed_by_its_checksum(photographs: Path, tmp_path: Path) -> None:
    right = every(opened(photographs, tmp_path / "a"), photographs)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    inodes = {f.name: f.stat().st_ino for f in (tmp_path / "b" / "images").glob("*-fit-*")}
    for file in (tmp_path / "b" / "images").glob("*-fit-*"):
        os.utime(file)  # as a copy without times
    assert every(opened(photographs, tmp_path / "b"), photographs).equal(right)
    assert inodes == {f.name: f.stat().st_ino for f in (tmp_path / "b" / "images").glob("*-fit-*")}


def test_another_version_and_changed_shards_have_other_files(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(photographs, tmp_path)
    names = {f.name for f in (tmp_path / "images").glob("*-fit-*")}
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    opened(photographs, tmp_path)
    newer = {f.name for f in (tmp_path / "images").glob("*-fit-*")} - names
    assert len(newer) == 2
    folder = tmp_path / "changed"
    shutil.copytree(photographs, folder)
    tar = folder / "x-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match=r"x-000000\.tar: its SHA-256 is not the one in index\.json"):
        list(open_samples(folder, local=Local(tmp_path)).shards)


def test_a_shard_changed_in_place_is_noticed_though_it_was_checked_before(photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(photographs, folder)
    list(open_samples(folder, local=Local(tmp_path)).shards)
    assert len(list((tmp_path / "tables").iterdir())) == 2
    tar = folder / "x-000001.tar"
    stat = tar.stat()
    data = bytearray(tar.read_bytes())
    data[1500] ^= 4
    tar.write_bytes(data)
    os.utime(tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=r"x-000001\.tar"):
        list(open_samples(folder, local=Local(tmp_path)).shards)


def test_a_full_disk_means_decoding_with_one_warning(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sslscale.data.cache.os.fsync", full)
    with caplog.at_level(logging.WARNING):
        images = opened(photographs, tmp_path)
    assert images.cached == 0 and caplog.text.count("cannot be written") == 1
    assert not list((tmp_path / "images").glob("*tmp*")) and not list((tmp_path / "images").glob("*-fit-*"))
    monkeypatch.undo()
    assert every(images, photographs).equal(every(opened(photographs, None), photographs))


def test_the_limit_keeps_part_and_decodes_the_rest(photographs: Path, tmp_path: Path) -> None:
    one = 24 * 3 * 24 * 24
    images = opened(photographs, tmp_path, limit=int(1.5 * one))
    assert images.cached == 1
    assert every(images, photographs).equal(every(opened(photographs, None), photographs))
    assert opened(photographs, tmp_path / "none", limit=0).cached == 0
    assert not (tmp_path / "none" / "images").exists()


def test_the_least_recently_used_files_are_evicted(photographs: Path, tmp_path: Path) -> None:
    one = 24 * 3 * 24 * 24
    held = opened(photographs, tmp_path)  # in use by this process
    limit = int(2.5 * one)
    assert opened(photographs, tmp_path, 20, limit).cached == 0
    right = every(held, photographs)
    assert held._decoded is not None
    held._decoded.space.close()
    smaller = opened(photographs, tmp_path, 20, limit)
    assert smaller.cached == 2
    left = [f for f in (tmp_path / "images").iterdir() if "-fit-" in f.name]
    assert sum("-fit-20-" in f.name for f in left) == 2 and sum("-fit-24-" in f.name for f in left) == 1
    assert sum(f.stat().st_size for f in left) <= limit
    assert every(opened(photographs, tmp_path), photographs).equal(right)


def test_two_processes_share_the_work_of_one_cache(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = cache.write

    def counted(path: Path, *rest):
        written.append(path.name)
        return write(path, *rest)

    monkeypatch.setattr(cache, "write", counted)
    with ThreadPoolExecutor(2) as two:  # locks hold between threads as between processes
        made = list(two.map(lambda _: opened(photographs, tmp_path), range(2)))
    assert [images.cached for images in made] == [2, 2]
    assert sorted(written) == sorted(set(written)) and len(written) == 2
    assert every(made[0], photographs).equal(every(made[1], photographs))
    assert not list((tmp_path / "images").glob("*.lock"))


def test_leftovers_of_a_killed_process_are_removed(photographs: Path, tmp_path: Path) -> None:
    opened(photographs, tmp_path)
    whole = sorted((tmp_path / "images").glob("*-v*"))
    left = whole[0].with_name(f"{whole[0].name}.tmp-0123abcd")
    whole[0].rename(left)
    assert opened(photographs, tmp_path).cached == 2
    assert not left.exists() and sorted((tmp_path / "images").glob("*-v*")) == whole


def test_locking_a_removed_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last holder removes it while another has it open and waits: else two would hold two files of one name."""
    path = tmp_path / "lock"
    flock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        path.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert locks.try_lock(path) is None
    monkeypatch.undo()
    assert locks.try_lock(path) is not None


def test_a_stream_of_random_crops_is_the_same_cached_or_decoded(photographs: Path, tmp_path: Path) -> None:
    def stream(place: Path | None) -> Stream:
        return Stream(
            "labeled",
            open_samples(photographs, local=place and Local(place)),
            batch_size=20,
            seed=3,
            image=ImageConfig(size=24, short_side=60),
            views=[
                AugmentConfig(crop="resized", flip=True, jitter=JitterConfig()),
                AugmentConfig(crop="resized", scale=(0.05, 0.2), size=12, count=3),
                AugmentConfig(flip=True),
            ],
            cache=place,
            cache_bytes=1 << 30,
            threads=2,
        )

    cached, plain = (list(Loader({"x": stream(place)}, 5, threads=2)) for place in (tmp_path, None))
    for a, b in zip(cached, plain, strict=True):
        assert [v.shape[-1] for v in a["x"].views] == [24, 12, 12, 12, 24]
        assert all(v.equal(w) for v, w in zip(a["x"].views, b["x"].views, strict=True))
        assert not a["x"].views[1].equal(a["x"].views[2])


def test_small_images_of_one_shape_are_cropped_as_a_batch(tmp_path: Path, digits: Path) -> None:
    """The batch on the device and the loop over images give the same crops."""
    image, views = ImageConfig(size=8), [AugmentConfig(crop="resized", scale=(0.3, 1.0))]
    samples = open_samples(digits / "labeled")
    options: dict = {"batch_size": 50, "seed": 0, "image": image, "views": views, "cache_bytes": 1 << 30, "threads": 1}
    batch = Stream("x", samples, cache=tmp_path, **options)
    single = Stream("x", samples, cache=None, whole_batches=False, **options)
    assert batch._reader.whole_batches and not single._reader.whole_batches
    a, b = batch.finish(batch.load(*batch.choose(0))), single.finish(single.load(*single.choose(0)))
    assert a.label.equal(b.label)
    difference = (a.views[0] - b.views[0]).abs() * 0.225 * 255
    assert float(difference.max()) < 1.1  # one rounds to integers
    assert np.isfinite(difference.numpy()).all()


@pytest.mark.parametrize("side", [48, 96])
def test_crops_of_whole_batches_are_those_of_single_images(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The branch that a GPU takes, on equal-sized photographs in planes (48 pixels) and interleaved (96)."""
    monkeypatch.setattr("sslscale.data.augment._kernels", lambda: None)  # which are a CPU's
    from sklearn.datasets import load_sample_images

    picture = Image.fromarray(load_sample_images().images[0])
    samples = []
    for number in range(12):
        buffer = io.BytesIO()
        picture.crop((20 * number, 10, 20 * number + 300, 210)).resize((side + 32, side)).save(buffer, "PNG")
        samples.append(Sample(f"p{number}", buffer.getvalue(), "png", 0, shape=(side, side + 32)))
    write_shards(tmp_path / "data", "x", samples, ("a",), 12)
    found = []
    for whole in (True, False):
        stream = Stream(
            "images",
            open_samples(tmp_path / "data"),
            batch_size=12,
            seed=0,
            image=ImageConfig(size=24, mean=(0, 0, 0), std=(1, 1, 1)),
            views=(AugmentConfig(crop="resized", scale=(0.2, 1.0), flip=True, count=2),),
            cache=tmp_path / "cache",
            cache_bytes=1 << 30,
            threads=2,
            whole_batches=whole,
        )
        assert stream._reader.whole_batches == whole
        found.append(stream.finish(stream.load(*stream.choose(0))).views)
    for batch, single in zip(*found, strict=True):
        assert batch.shape == (12, 3, 24, 24)
        assert (batch - single).abs().max() < 1.5 / 255 and (batch - single).abs().mean() < 0.5 / 255
