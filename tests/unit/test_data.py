"""Order, random numbers, streams and packing: the same samples on any number of workers, after any restart."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sslscale.data import pack, ready_sets, rng, sources
from sslscale.data.fingerprint import fingerprint
from sslscale.data.index import read_index
from sslscale.data.loader import Loader
from sslscale.data.order import LEAST_BLOCKS, Order
from sslscale.data.samples import open_samples
from sslscale.data.split import is_labeled, split
from sslscale.data.stream import Stream
from sslscale.data.write import Sample, write_shards
from sslscale.errors import ConfigError, DataError
from sslscale.settings.augment import AugmentConfig, RandAugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.model import ImageConfig


def test_every_epoch_is_a_permutation_and_any_cut_gives_the_same() -> None:
    order = Order([7, 30, 0, 21, 50], 3)
    numbers, epochs = order.take(0, 3 * 108)
    for epoch in range(3):
        assert sorted(numbers[epochs == epoch]) == list(range(108))
    assert numbers[:108].tolist() != numbers[108:216].tolist()
    pieces = np.concatenate([Order([7, 30, 0, 21, 50], 3).take(p, 9)[0] for p in range(0, 324, 9)])
    assert pieces.tolist() == numbers.tolist()
    assert Order([7, 30, 0, 21, 50], 4).take(0, 108)[0].tolist() != numbers[:108].tolist()


def test_large_sets_are_read_in_windows_of_shards() -> None:
    """Every sample once an epoch, few shards at a time, and each worker reads few of those."""
    sizes = [5 + number % 7 for number in range(150)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    order, total, batch, workers = Order(sizes, 3, window=160), sum(sizes), 32, 4
    assert order.windowed
    batches = [order.take(step * batch, batch) for step in range(3 * total // batch)]
    numbers, epochs = (np.concatenate(each) for each in zip(*batches, strict=True))
    for epoch in range(2):
        assert sorted(numbers[epochs == epoch]) == list(range(total))
    again = Order(sizes, 3, window=160)
    assert all((again.take(step * batch, batch)[0] == batches[step][0]).all() for step in (30, 2, 90, 31))
    window = order.window(0)
    assert 160 <= window.end < 400 and len(window.blocks) >= LEAST_BLOCKS
    inside = [np.searchsorted(starts, found, side="right") - 1 for found, _ in batches[: window.end // batch]]
    assert set(np.concatenate(inside)) == set(window.blocks.tolist())
    assert all((np.diff(shards) >= 0).all() for shards in inside)
    assert np.diff(np.concatenate([b for b, _ in batches[:5]])).std() > total / 20  # and yet shuffled
    ahead = [set(order.part(window, worker, workers).tolist()) for worker in range(workers)]
    assert set.union(*ahead) == set(window.blocks.tolist()) and max(map(len, ahead)) < len(window.blocks) / 2
    parts = [
        np.concatenate([np.array_split(shards, workers)[worker] for shards in inside]) for worker in range(workers)
    ]
    read = [np.isin(part, list(mine)).mean() for part, mine in zip(parts, ahead, strict=True)]
    assert min(read) > 0.7, read  # of what a worker reads, what it was told to make ready


def test_random_numbers_belong_to_the_sample() -> None:
    sample, epoch = torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64)
    draws = rng.uniforms(1, epoch, sample, 6)
    part = rng.uniforms(1, epoch[500:510], sample[500:510], 6)
    assert part.equal(draws[500:510])
    assert float(draws.min()) >= 0 and float(draws.max()) < 1
    assert (draws.mean(0) - 0.5).abs().max() < 0.01 and (draws.var(0) - 1 / 12).abs().max() < 0.002
    assert (torch.corrcoef(draws.T) - torch.eye(6)).abs().max() < 0.03
    assert not rng.uniforms(2, epoch, sample, 6).equal(draws)
    assert not rng.uniforms(1, epoch + 1, sample, 6).equal(draws)


def stream(folder: Path, cache: Path | None, batch_size: int = 40, **options: object) -> Stream:
    return Stream(
        "labeled",
        open_samples(folder),
        batch_size=batch_size,
        seed=0,
        image=ImageConfig(size=8),
        views=(AugmentConfig(crop="pad", padding=1, flip=True, randaugment=RandAugmentConfig(magnitude=5)),),
        cache=cache,
        cache_bytes=1 << 30,
        threads=2,
        **options,  # type: ignore[arg-type]
    )


def test_workers_see_the_parts_of_one_batch(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stream(digits / "labeled", tmp_path)
    parts = []
    for number in range(4):
        monkeypatch.setattr("sslscale.distributed.world_size", lambda: 4)
        monkeypatch.setattr("sslscale.distributed.rank", lambda number=number: number)
        mine = stream(digits / "labeled", tmp_path)
        parts.append(mine.finish(mine.load(*mine.choose(7))))
    monkeypatch.undo()
    one = whole.finish(whole.load(*whole.choose(7)))
    assert torch.cat([p.views[0] for p in parts]).equal(one.views[0])
    assert torch.cat([p.index for p in parts]).equal(one.index)
    assert one.label is not None and torch.cat([p.label for p in parts if p.label is not None]).equal(one.label)


def test_a_stream_goes_on_at_the_exact_sample(digits: Path, tmp_path: Path) -> None:
    make = lambda: {"labeled": stream(digits / "labeled", tmp_path)}  # noqa: E731
    whole = [b["labeled"] for b in Loader(make(), 12, threads=2)]
    first, state = Loader(make(), 12), {}
    for number, _ in enumerate(first, 1):
        state = first.state_dict()
        if number == 5:
            break
    second = Loader(make(), 12)
    second.load_state_dict(state)
    rest = [b["labeled"] for b in second]
    with pytest.raises(ConfigError, match="cannot go on in batches"):
        Loader({"labeled": stream(digits / "labeled", tmp_path, 20)}, 12).load_state_dict(state)
    assert all(a.index.equal(b.index) and a.views[0].equal(b.views[0]) for a, b in zip(whole[5:], rest, strict=True))
    seen = torch.cat([b.index for b in whole])[:100]
    assert sorted(seen.tolist()) == list(range(100))


def test_a_state_goes_on_with_another_number_of_workers(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Loader({"labeled": stream(digits / "labeled", tmp_path)}, 9)
    expected, state = [], {}
    for number, batch in enumerate(alone, 1):
        if number == 4:
            state = alone.state_dict()
        if number > 4:
            expected.append(batch["labeled"].views[0])
    monkeypatch.setattr("sslscale.distributed.world_size", lambda: 2)
    halves = []
    for rank in (0, 1):
        monkeypatch.setattr("sslscale.distributed.rank", lambda rank=rank: rank)
        loader = Loader({"labeled": stream(digits / "labeled", tmp_path)}, 9)
        loader.load_state_dict(state)
        halves.append([batch["labeled"].views[0] for batch in loader])
    for one, parts in zip(expected, zip(*halves, strict=True), strict=True):
        assert torch.cat(parts).equal(one)


def test_no_sample_is_lost_or_doubled_when_the_batch_does_not_divide(digits: Path) -> None:
    source = stream(digits / "labeled", None, batch_size=30)  # 100 samples: batch 4 ends one epoch and begins the next
    numbers = np.concatenate([source.choose(step)[0] for step in range(10)])
    assert all(sorted(numbers[start : start + 100]) == list(range(100)) for start in (0, 100, 200))


def test_a_batch_that_cannot_be_is_an_error(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="global batch of 101 labeled images is larger than the 100 there are"):
        stream(digits / "labeled", None, batch_size=101)
    monkeypatch.setattr("sslscale.distributed.world_size", lambda: 3)
    with pytest.raises(ConfigError, match="global batch of 2 labeled images has no part for each of 3 workers"):
        stream(digits / "labeled", None, batch_size=2)


def broken(folder: Path, bad: int, good: int) -> Path:
    items = [item.read() for item in ready_sets.digits().items[: good + bad]]
    samples = [Sample(f"k{i}", b"no" if i < bad else data, "png", 0) for i, data in enumerate(items)]
    write_shards(folder, "x", samples, ("a",), 100)
    return folder


@pytest.mark.parametrize("cached", [True, False])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, cached: bool) -> None:
    """Packing and indexing leave such images out: one that is met later is never passed over."""
    folder = broken(tmp_path / "one", 1, 149)
    with pytest.raises(DataError, match=r"x-000000\.tar: k0: undecodable.*index or pack the set again"):
        list(Loader({"labeled": stream(folder, tmp_path / "cache" if cached else None, 150)}, 1))


# --- packing ---


def test_an_image_folder_is_packed_without_a_change_of_its_bytes(image_folder: Path, tmp_path: Path) -> None:
    config = PackConfig(source=str(image_folder), labels_per_class=5, test=0.2, val=0.1, shard_size=30)
    indexes = pack.pack(config, tmp_path, threads=2)
    counts = {name: index.num_samples for name, index in indexes.items()}
    assert counts["labeled"] == 50 and sum(counts.values()) == 200
    keys: list[str] = []
    for name in indexes:
        samples = open_samples(tmp_path / name, labels=name != "unlabeled")
        keys += [samples.key(i) for i in range(len(samples))]
        shard, row = samples.places()
        for i in range(len(samples)):
            file = image_folder / f"{samples.key(i)}.png"
            assert bytes(samples.shards[int(shard[i])].encoded(int(row[i]))) == file.read_bytes()
            expected = -1 if name == "unlabeled" else int(file.parent.name)
            assert samples.labels[i] == expected
    assert len(set(keys)) == 200


def test_the_test_split_stays_when_the_seed_changes(image_folder: Path, tmp_path: Path) -> None:
    def keys(seed: int, name: str) -> set[str]:
        config = PackConfig(source=str(image_folder), labels_per_class=5, test=0.2, seed=seed)
        return {item.key for item in split(config, sources.list_source(config.source)).parts[name]}

    assert keys(0, "test") == keys(1, "test")
    assert keys(0, "labeled") != keys(1, "labeled")


def flat_copy(image_folder: Path, flat: Path) -> list[str]:
    """All digits in one folder, as 3_0013.png; returns their names."""
    flat.mkdir()
    for path in image_folder.rglob("*.png"):
        shutil.copy(path, flat / f"{path.parent.name}_{path.name}")
    return sorted(p.name for p in flat.iterdir())


def labels_of(folder: Path) -> dict[str, str]:
    """The class of each labelled key, read from the shards themselves."""
    index, samples = read_index(folder), open_samples(folder)
    return {samples.key(n): index.classes[label] for n, label in enumerate(samples.labels.tolist())}


def test_a_labels_file_gives_a_flat_folder_its_classes(image_folder: Path, tmp_path: Path) -> None:
    flat, labels = tmp_path / "flat", tmp_path / "labels.csv"
    rows = [name for name in flat_copy(image_folder, flat) if name[0] in "01"][::2][:20]
    lines = [f"{name},{'zero' if name[0] == '0' else 'one'}" for name in rows]
    labels.write_text("path,label\n" + "\n".join([*lines, "nowhere.png,zero", f"{rows[0]},zero", f"{rows[1]},"]))
    said: list[str] = []
    indexes = pack.pack(PackConfig(source=str(flat), labels=str(labels)), tmp_path / "out", say=said.append)
    assert {name: index.num_samples for name, index in indexes.items()} == {"labeled": 20, "unlabeled": 180}
    assert indexes["labeled"].classes == indexes["unlabeled"].classes == ("one", "zero")
    found = labels_of(tmp_path / "out" / "labeled")
    assert found == {Path(name).stem: "zero" if name[0] == "0" else "one" for name in rows}
    assert said[0] == (
        f"{labels}: 23 rows = 20 used + 1 not found + 2 ignored (1 a repeat of an earlier row, 1 without a label)"
    )
    assert f"{labels}:22: not found: nowhere.png" in said


def test_the_classes_of_folders_and_of_the_labels_file_are_all_classes(image_folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    names = [path.relative_to(image_folder).as_posix() for path in sorted(image_folder.rglob("*.png"))]
    first = [next(name for name in names if name.startswith(f"{digit}/")) for digit in range(10)]
    labels.write_text("path,label\n" + "".join(f"{n},{n[0]}\n" for n in first) + f"{names[1]},blurred\n")
    pack.pack(PackConfig(source=str(image_folder), labels=str(labels)), tmp_path / "out")
    assert read_index(tmp_path / "out" / "labeled").classes == (*"0123456789", "blurred")
    assert labels_of(tmp_path / "out" / "labeled")[names[1].removesuffix(".png")] == "blurred"
    labels.write_text(f"path,label\n{names[0]},sharp\n{names[1]},blurred\n")  # folders that are albums, not classes
    said: list[str] = []
    pack.pack(PackConfig(source=str(image_folder), labels=str(labels)), tmp_path / "albums", say=said.append)
    assert read_index(tmp_path / "albums" / "labeled").classes == ("blurred", "sharp")
    assert any("names none of the folders" in line for line in said)


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("path;label\n{a};x\n{b};y\n", "semicolons"),
        ("path\tlabel\n{a}\tx\n{b}\ty\n", "tabs"),
        ("Filename,Class\n{a},x\n{b},y\n", "column 'Filename' as the path and 'Class' as the label"),
        ("{a},x\n{b},y\n", "no header"),
        ("x;{a}\ny;{b}\n", "no header; column 2 as the path and 1 as the label"),
        ("id,breed,size\n{a_stem},x,3\n{b_stem},y,4\n", "column 'id' as the path and 'breed' as the label"),
        ("\ufeffpath,label\r\n{a},x\r\n{b},y\r\n", None),
    ],
)
def test_labels_files_of_other_forms_are_read(
    written: str, taken: str | None, image_folder: Path, tmp_path: Path
) -> None:
    flat, labels = tmp_path / "flat", tmp_path / "labels.csv"
    a, b = flat_copy(image_folder, flat)[:2]
    text = written.format(a=a, b=b, a_stem=Path(a).stem, b_stem=Path(b).stem)
    labels.write_bytes(text.encode())
    done = split(PackConfig(source=str(flat), labels=str(labels)), sources.list_source(str(flat)))
    assert {item.where: item.label for item in done.parts["labeled"]} == {str(flat / a): "x", str(flat / b): "y"}
    assert not taken or any(taken in note for note in done.notes)
    assert taken or len(done.notes) == 1


def test_errors_of_a_labels_file_are_reported(image_folder: Path, tmp_path: Path) -> None:
    flat, labels = tmp_path / "flat", tmp_path / "labels.csv"
    a = flat_copy(image_folder, flat)[0]
    config = PackConfig(source=str(flat), labels=str(labels))
    for text, message in {
        f"path,label\n{a},one\n{a},other\n": rf"labels\.csv:3: {a} is labelled both 'one' and 'other'",
        "path,label\nnowhere.png,a\n": r"none of its 1 rows labels an image .* line 2: nowhere\.png is not found",
        "width;height\n1;2\n": r"must name the columns path and label, .* it is: 'width;height'",
        "path,label\n": "no rows below its header",
        "": "its first line must name the columns",
        f"path,label\n{image_folder / '0'},x\n": "is not below",
        f"path,label\n,x\n{a},y\n": r"labels\.csv:2: an empty path",
    }.items():
        labels.write_text(text)
        with pytest.raises(DataError, match=message):
            split(config, sources.list_source(str(flat)))
    labels.write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        split(config, sources.list_source(str(flat)))
    labels.write_bytes(f"path,label\n{a},x\n".encode() + b"b\0.png,y\n")
    with pytest.raises(DataError, match=r"labels\.csv:3: a NUL byte"):
        split(config, sources.list_source(str(flat)))


def test_a_folder_without_labels_is_packed(image_folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat_copy(image_folder, flat)
    said: list[str] = []
    indexes = pack.pack(PackConfig(source=str(flat), test=0.2), tmp_path / "out", say=said.append)
    assert {name: index.num_samples for name, index in indexes.items()} == {"unlabeled": 200}
    assert indexes["unlabeled"].classes == ()
    assert said == ["no test split: there is no labelled image to hold out (test: 0.2)"]
    assert not is_labeled(PackConfig(source=str(flat))) and not is_labeled(PackConfig(source=str(tmp_path / "out")))
    assert is_labeled(PackConfig(source=str(image_folder)))
    with pytest.raises(DataError, match="no labelled image to keep labels_per_class=3 of"):
        pack.pack(PackConfig(source=str(flat), labels_per_class=3), tmp_path / "none")


def test_skipped_files_are_counted_by_kind(image_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(image_folder, folder)
    for name in ("0/a.HEIC", "1/b.heic", "2/c.CR2", "3/._d.jpg", "4/notes.txt", ".DS_Store", ".thumbnails/x.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "5" / "linked").symlink_to(image_folder)
    listing = sources.list_source(str(folder))
    assert len(listing.items) == 200 and listing.classes == tuple("0123456789")
    assert sum(listing.passed.values()) == 8
    text = "\n".join(listing.skipped_files())
    for part in ("2 .heic images, which cannot be read", "1 .cr2 raw images", "1 AppleDouble", "1 .txt files"):
        assert part in text
    for part in ("1 hidden files", "1 hidden folders", "1 links to folders"):
        assert part in text
    (tmp_path / "heic").mkdir()
    (tmp_path / "heic" / "a.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images there .*passed over: 1 \.heic images"):
        sources.list_source(str(tmp_path / "heic"))


def test_scikit_learns_digits_are_what_it_loads() -> None:
    import io

    from PIL import Image
    from sklearn.datasets import load_digits

    data, items = load_digits(), ready_sets.digits().items
    assert [item.label for item in items] == [str(label) for label in data.target]  # type: ignore[union-attr]
    for number in (0, 700, 1796):
        pixels = np.asarray(Image.open(io.BytesIO(items[number].read())))
        assert (pixels == (data.images[number] * (255 / 16)).round()).all()  # type: ignore[union-attr]


def test_a_csv_manifest_is_a_source(image_folder: Path) -> None:
    manifest = image_folder.parent / "manifest.csv"
    paths = sorted(image_folder.rglob("*.png"))
    lines = [f"{p.relative_to(manifest.parent)},{p.parent.name if i % 2 else ''}" for i, p in enumerate(paths)]
    manifest.write_text("path,label\n" + "\n".join(lines) + "\n")
    parts = split(PackConfig(source=str(manifest)), sources.list_source(str(manifest))).parts
    assert len(parts["labeled"]) == len(parts["unlabeled"]) == 100


def test_a_torchvision_set_is_a_source(tmp_path: Path) -> None:
    """MNIST's own files, with digits of scikit-learn in them; nothing is downloaded."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.kron(data.images[:50], np.ones((1, 3, 3)))[:, :24, :24]  # type: ignore[union-attr]
    images = np.pad(images * 15, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        head = np.array([0x803, 50, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = data.target[:50].astype(np.uint8).tobytes()  # type: ignore[union-attr]
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, 50], ">i4").tobytes() + labels)
    config = PackConfig(source=f"torchvision:MNIST:{tmp_path}", labels_per_class=2)
    indexes = pack.pack(config, tmp_path / "out")
    assert (indexes["labeled"].num_samples, indexes["unlabeled"].num_samples) == (20, 30)
    assert len(indexes["labeled"].classes) == 10
    assert fingerprint(config.source, tmp_path) != fingerprint(config.source + ":test", tmp_path)
    with pytest.raises(DataError, match="torchvision:MNIST"):
        sources.list_source(f"torchvision:MNIST:{tmp_path / 'none'}")
    with pytest.raises(DataError, match="write torchvision:NAME:ROOT"):
        sources.list_source("torchvision:NoSuchSet:x")


def test_errors_of_a_source_are_reported(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        sources.list_source(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no images there"):
        sources.list_source(str(tmp_path / "empty"))
    copy = tmp_path / "copy"
    shutil.copytree(image_folder, copy)
    (copy / "zebra").mkdir()
    with pytest.raises(DataError, match=r"zebra: a class folder without images"):
        sources.list_source(str(copy))
    (copy / "zebra").rmdir()
    with pytest.raises(DataError, match=r"class '\d' has \d+ images, fewer than labels_per_class=50"):
        pack.pack(PackConfig(source=str(copy), labels_per_class=50), tmp_path / "o1")
    victim, second = sorted((copy / "3").iterdir())[:2]
    whole = second.read_bytes()
    for bad in (victim, second):
        bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(DataError, match=rf"2 of 200 images cannot be used; .*\n.*{victim.name}.*\n.*{second.name}"):
        pack.pack(PackConfig(source=str(copy)), tmp_path / "o2")
    second.write_bytes(whole)
    with pytest.raises(DataError, match="not a usable path: File name too long"):
        sources.list_source("x" * 300)
    with pytest.raises(DataError, match="not a usable path: File name too long"):
        fingerprint("x" * 300, tmp_path)
    indexes = pack.pack(PackConfig(source=str(copy), on_bad_sample="skip"), tmp_path / "o3")
    assert indexes["labeled"].num_samples == 199
    assert victim.name in (tmp_path / "o3" / "skipped.txt").read_text()


def test_names_that_collide_as_keys_stay_apart(image_folder: Path, tmp_path: Path) -> None:
    source = next(image_folder.rglob("*.png"))
    for name in ("a b.png", "a.b.png", "a_b.png", "ä.png"):
        (tmp_path / "c").mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / "c" / name)
    items = sources.list_source(str(tmp_path / "c")).items
    assert len({item.key for item in items}) == 4


def test_a_fingerprint_follows_content_and_not_place(image_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(image_folder, one)
    shutil.copytree(image_folder, two, copy_function=shutil.copyfile)
    assert fingerprint(str(one), root) == fingerprint(str(two), root)
    victim = next(two.rglob("*.png"))
    data = bytearray(victim.read_bytes())
    data[-20] ^= 1
    victim.write_bytes(data)
    assert fingerprint(str(one), root) != fingerprint(str(two), root)


def test_resizing_is_the_only_change_of_bytes(image_folder: Path, tmp_path: Path) -> None:
    pack.pack(PackConfig(source=str(image_folder), resize=4), tmp_path)
    samples = open_samples(tmp_path / "labeled")
    assert read_index(tmp_path / "labeled").num_samples == 200
    from sslscale.data.decode import decode

    assert decode(samples.shards[0].encoded(0)).shape == (3, 4, 4)
