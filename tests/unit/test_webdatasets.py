"""Others' WebDatasets, read where they lie: written here by webdataset itself, with other names, fields, damage."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image
from webdataset.writer import TarWriter

from sslscale.cli.main import main
from sslscale.data import build, examine, ready_sets, sources, split
from sslscale.data.fingerprint import fingerprint
from sslscale.data.index import Index, read_index
from sslscale.data.indexing import examine_here
from sslscale.data.samples import open_samples
from sslscale.data.webdatasets import locate
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig
from sslscale.storage.scratch import Local

IMAGES = ready_sets.digits().items[:60]
Change = Callable[[int, dict[str, Any]], dict[str, Any] | None]


def write(folder: Path, change: Change = lambda number, sample: sample, shards: int = 3) -> Path:
    """Shards as img2dataset writes them: KEY.png, KEY.txt, KEY.json, here with KEY.cls too."""
    folder.mkdir(parents=True)
    for number in range(shards):
        with TarWriter(str(folder / f"{number:05d}.tar"), encoder=False) as writer:
            for place, item in enumerate(IMAGES[20 * number : 20 * number + 20]):
                rest = {"txt": f"a {item.label}".encode(), "json": json.dumps({"a": {"kind": item.label}}).encode()}
                sample = {"__key__": item.key.replace("/", " "), "PNG": item.read(), **rest}
                changed = change(20 * number + place, {**sample, "cls": str(item.label).encode()})
                if changed is not None:
                    writer.write(changed)
    return folder


def without(*names: str) -> Change:
    return lambda number, sample: {name: value for name, value in sample.items() if name not in names}


def indexed(source: str, out: Path, said: list[str] | None = None, **settings: Any) -> dict[str, Index]:
    config = PackConfig(source=f"webdataset:{source}", **settings)
    out.mkdir(parents=True, exist_ok=True)
    local = Local(out / "local")
    say = said.append if said is not None else print
    run = examine_here(config, local, 2)
    return build.build(config, out, out.parent / "parts", threads=2, say=say, run=None, examine=run)


def read(folder: Path, labels: bool = True) -> list[tuple[str, bytes, int]]:
    samples = open_samples(folder, labels=labels)
    shard, row = samples.places()
    return [
        (samples.key(n), bytes(samples.shards[s].encoded(r)), int(samples.labels[n]))
        for n, (s, r) in enumerate(zip(shard.tolist(), row.tolist(), strict=True))
    ]


def test_they_are_indexed_where_they_lie(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    said: list[str] = []
    found = indexed(f"{folder}/{{00000..00002}}.tar", tmp_path / "ours", said)
    assert list(found) == ["labeled"] and found["labeled"].classes == tuple("0123456789")
    assert not list((tmp_path / "ours").rglob("*.tar"))
    expected = [(item.key.replace("/", " "), item.read(), int(str(item.label))) for item in IMAGES]
    assert read(tmp_path / "ours" / "labeled") == expected
    theirs = webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False)  # pyright: ignore[reportAttributeAccessIssue]
    assert [sample["__key__"] for sample in theirs] == [key for key, _, _ in expected]
    assert {info.shape for info in found["labeled"].shards} == {(8, 8)}
    assert any("passed over: 60 .txt" in line for line in said) and any("60 .json" in line for line in said)
    stars = indexed(f"{folder}/*.tar", tmp_path / "stars")
    assert stars["labeled"].shards == found["labeled"].shards


@pytest.mark.parametrize(
    ("label", "classes"), [("txt", [f"a {n}" for n in range(10)]), ("json:a.kind", [str(n) for n in range(10)])]
)
def test_labels_come_from_the_member_that_is_named(tmp_path: Path, label: str, classes: list[str]) -> None:
    folder = write(tmp_path / "theirs", without("cls"))
    found = indexed(f"{folder}/*.tar", tmp_path / "ours", label=label)["labeled"]
    assert list(found.classes) == classes
    assert found.labels.tolist() == [int(str(item.label)) for item in IMAGES]
    assert split.is_labeled(PackConfig(source=f"webdataset:{folder}/*.tar", label=label))


def test_without_labels_all_are_unlabelled(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs", without("cls"))
    source = f"webdataset:{folder}/*.tar"
    assert not split.is_labeled(PackConfig(source=source)) and split.is_labeled(PackConfig(source=source, label="txt"))
    assert not split.is_labeled(PackConfig(source=source, label="none"))
    assert list(indexed(f"{folder}/*.tar", tmp_path / "ours")) == ["unlabeled"]
    assert (open_samples(tmp_path / "ours" / "unlabeled", labels=False).labels == -1).all()


def test_splits_share_shards_without_a_copy(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    found = indexed(
        f"{folder}/*.tar", tmp_path / "ours", labels_per_class=2, test=0.2, val=0.1, keep_hidden_labels=True
    )
    parts = {name: read(tmp_path / "ours" / name, labels=name != "unlabeled") for name in found}
    keys = [key for part in parts.values() for key, _, _ in part]
    assert sorted(keys) == sorted(item.key.replace("/", " ") for item in IMAGES) and len(set(keys)) == 60
    truth = {item.key.replace("/", " "): (item.read(), int(str(item.label))) for item in IMAGES}
    assert all(truth[key] == (image, label) for name in ("labeled", "val", "test") for key, image, label in parts[name])
    assert Counter(label for _, _, label in parts["labeled"]) == dict.fromkeys(range(10), 2)
    assert all(label == -1 and truth[key][0] == image for key, image, label in parts["unlabeled"])
    hidden = np.load(tmp_path / "ours" / "unlabeled" / sources.HIDDEN)
    assert hidden.tolist() == [truth[key][1] for key, _, _ in parts["unlabeled"]]
    other = indexed(f"{folder}/*.tar", tmp_path / "seed", labels_per_class=2, test=0.2, val=0.1, seed=5)
    assert read(tmp_path / "seed" / "test") == parts["test"] and read(tmp_path / "seed" / "labeled") != parts["labeled"]
    assert set(other) == set(found)


def test_a_split_may_have_shards_of_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    found = indexed(f"{folder}/0000[01].tar", tmp_path / "ours", test=f"webdataset:{folder}/00002.tar")
    assert {name: index.num_samples for name, index in found.items()} == {"labeled": 40, "test": 20}
    assert found["test"].labels.tolist() == [int(str(item.label)) for item in IMAGES[40:]]
    with pytest.raises(DataError, match="beside a WebDataset, give webdataset:SHARDS or a fraction"):
        indexed(f"{folder}/0000[01].tar", tmp_path / "x", test=str(folder))


def test_only_what_was_not_examined_before_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "theirs")
    looked: list[str] = []
    look = examine.examine

    def counted(shard: Any, *rest: Any) -> Any:
        looked.append(shard.name)
        if len(looked) == 2:
            raise KeyboardInterrupt
        return look(shard, *rest)

    monkeypatch.setattr("sslscale.data.indexing.examine", counted)
    with pytest.raises(KeyboardInterrupt):
        indexed(f"{folder}/*.tar", tmp_path / "ours")
    indexed(f"{folder}/*.tar", tmp_path / "ours")
    assert looked == ["00000.tar", "00001.tar", "00001.tar", "00002.tar"]
    os.utime(folder / "00002.tar", (5, 5))  # it may have changed
    indexed(f"{folder}/*.tar", tmp_path / "again", test=0.5)
    assert looked[4:] == ["00002.tar"]


def test_bad_images_are_found_once_named_and_counted(tmp_path: Path) -> None:
    def broken(number: int, sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "PNG": sample["PNG"][:60]} if number == 25 else sample

    folder = write(tmp_path / "theirs", broken)
    with pytest.raises(DataError, match=r"1 of 60 images cannot be used.*\n.*00001\.tar: digits 0025: undecodable"):
        indexed(f"{folder}/*.tar", tmp_path / "no")
    said: list[str] = []
    found = indexed(f"{folder}/*.tar", tmp_path / "ours", said, on_bad_sample="skip")["labeled"]
    assert found.num_samples == 59 and found.shards[1].samples == 19 and found.shards[1].images == 20
    assert "digits 0025" not in {key for key, _, _ in read(tmp_path / "ours" / "labeled")}
    assert "digits 0025" in (tmp_path / "ours" / "skipped.txt").read_text() and "1 of 60 images left out" in said[-1]


def test_img2datasets_statistics_are_summed_and_must_fit(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    for number in range(3):
        stats = {"count": 25, "successes": 20, "failed_to_download": 5, "status_dict": {"success": 20}}
        (folder / f"{number:05d}_stats.json").write_text(json.dumps(stats))
    said: list[str] = []
    indexed(f"{folder}/*.tar", tmp_path / "ours", said)
    assert any("75 count, 15 failed_to_download, 60 successes" in line for line in said)
    (folder / "00001_stats.json").write_text(json.dumps({"successes": 21}))
    os.utime(folder / "00001.tar", (5, 5))
    with pytest.raises(DataError, match=r"00001\.tar: 20 images, but img2dataset's statistics beside it say 21"):
        indexed(f"{folder}/*.tar", tmp_path / "no")


def test_the_plain_image_of_a_sample_is_taken_and_else_a_longer_extension(tmp_path: Path) -> None:
    gray = io.BytesIO()
    Image.new("L", (4, 4)).save(gray, "PNG")

    def masked(number: int, sample: dict[str, Any]) -> dict[str, Any]:
        image = sample.pop("PNG")
        plain = {"png": image} if number % 2 else {"rgb.png": image}
        return {"seg.png": gray.getvalue(), **sample, **plain} if number % 2 else {**sample, **plain}

    indexed(f"{write(tmp_path / 'theirs', masked)}/*.tar", tmp_path / "ours")
    assert [image for _, image, _ in read(tmp_path / "ours" / "labeled")] == [item.read() for item in IMAGES]


def test_keys_that_count_anew_in_each_shard_need_a_prefix(tmp_path: Path) -> None:
    def renumbered(number: int, sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "__key__": f"{number % 20:06d}"}

    folder = write(tmp_path / "theirs", renumbered)
    with pytest.raises(DataError, match=r"00001\.tar: the key '\d+' stands in .*00000\.tar too.* prefix_keys: true"):
        indexed(f"{folder}/0000[01].tar", tmp_path / "no")
    indexed(f"{folder}/*.tar", tmp_path / "ours", prefix_keys=True)
    keys = [key for key, _, _ in read(tmp_path / "ours" / "labeled")]
    assert len(set(keys)) == 60 and keys[21] == "00001/000001"


def test_resized_they_are_packed_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    found = indexed(f"{folder}/*.tar", tmp_path / "ours", resize=6, shard_size=25)["labeled"]
    assert [info.samples for info in found.shards] == [25, 25, 10]
    assert {info.shape for info in found.shards} == {(6, 6)} and not found.shards[0].url
    assert Counter(found.labels.tolist()) == Counter(int(str(item.label)) for item in IMAGES)


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
    for shards, message in (
        ("{00000..00003}.tar", r"there is no shard .*00003\.tar"),
        ("x*.tar", r"there is no shard .*x\*\.tar"),
        ("{00000,0000?}.tar", r"names the shard .*00000\.tar twice"),
        ("{a,b.tar", "its braces cannot be expanded"),
    ):
        with pytest.raises(DataError, match=message):
            locate(f"webdataset:{folder}/{shards}")
    cut = folder / "00001.tar"
    whole = cut.read_bytes()
    for content, message in ((whole[:5000], "cut at byte"), (b"", "an empty file")):
        cut.write_bytes(content)
        with pytest.raises(DataError, match=rf"00001\.tar: {message}"):
            indexed(f"{folder}/*.tar", tmp_path / "no")
    cut.write_bytes(whole)
    indexed(f"{folder}/*.tar", tmp_path / "ours")
    cut.write_bytes(whole[:-512])  # in mid-run
    with pytest.raises(DataError, match=r"00001\.tar: [\d,]+ bytes, but its index says [\d,]+: cut or changed"):
        read(tmp_path / "ours" / "labeled")
    cut.unlink()
    with pytest.raises(DataError, match=r"00001\.tar: cannot be opened"):
        read(tmp_path / "ours" / "labeled")
    cut.write_bytes(whole)
    assert len(read(tmp_path / "ours" / "labeled")) == 60


def test_a_flipped_byte_of_the_arrays_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    indexed(f"{folder}/*.tar", tmp_path / "ours", test=0.2)
    for name in ("labels.npy", "rows.npy"):
        file = tmp_path / "ours" / "test" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match=f"{name}: its SHA-256 is not the one in index.json"):
            read(tmp_path / "ours" / "test")
        file.write_bytes(whole)


def test_the_command_indexes_and_a_run_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write(tmp_path / "theirs"), tmp_path / "ours"
    command: Sequence[str] = ["data", "index", f"{folder}/{{00000..00001}}.tar", f"{folder}/00002.tar", str(out)]
    assert main([*command, "--test", "0.2"]) == 0
    told = capsys.readouterr().out
    found = {name: read_index(out / name).num_samples for name in ("labeled", "test")}
    assert sum(found.values()) == 60 and 10 <= found["test"] <= 14
    assert f"{found['labeled']} images in 3 shards" in told and "10 classes (0, 1," in told
    assert main(["data", "check", str(out)]) == 0
    assert main([*command]) == 2  # it is there
    assert read_index(out / "test").shards[0].url == str(folder / "00000.tar")
    assert not list(tmp_path.glob(".ours*"))
