"""A store that fails now and then, that fails for good, and what a mirror makes of both."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from sslscale.errors import ConfigError, DataError, ResourceError
from sslscale.storage import mirror, store
from sslscale.storage.scratch import Local


class Flaky(LocalFileSystem):
    """A real file system, of whose calls a fifth are refused and whose downloads are cut one time in twenty."""

    protocol = "flaky"
    root_marker = "/"
    chance = random.Random(0)
    refused = cut = 0
    denied = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("flaky://"))

    def _may_fail(self) -> None:
        if Flaky.denied:
            Flaky.refused += 1
            raise PermissionError("403 Forbidden")
        if Flaky.chance.random() < 0.2:
            Flaky.refused += 1
            raise OSError("503 Slow Down")

    def find(self, *words: Any, **options: Any) -> Any:
        self._may_fail()
        return super().find(*words, **options)

    def put_file(self, lpath: Any, rpath: Any, *words: Any, **options: Any) -> Any:
        self._may_fail()
        self.makedirs(self._parent(rpath), exist_ok=True)
        return super().put_file(lpath, rpath, *words, **options)

    def pipe_file(self, path: Any, value: Any, *words: Any, **options: Any) -> Any:
        self._may_fail()
        self.makedirs(self._parent(path), exist_ok=True)
        return super().pipe_file(path, value, *words, **options)

    def get_file(self, rpath: Any, lpath: Any, *words: Any, **options: Any) -> Any:
        self._may_fail()
        super().get_file(rpath, lpath, *words, **options)
        if Flaky.chance.random() < 0.05:
            Flaky.cut += 1
            data = Path(lpath).read_bytes()
            Path(lpath).write_bytes(data[: len(data) // 2])


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.chance, Flaky.refused, Flaky.cut, Flaky.denied = random.Random(0), 0, 0, False
    monkeypatch.setattr(store, "_PAUSE", 0.01)
    return f"flaky://{tmp_path}/store"


def fill(folder: Path, count: int) -> dict[str, bytes]:
    files = {f"part-{n:03d}.parquet": random.Random(n).randbytes(2000 + n) for n in range(count)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def test_what_is_pushed_comes_back_whole_however_the_store_fails(flaky: str, tmp_path: Path) -> None:
    ours = mirror.at(flaky, tmp_path / "ours")
    files = fill(ours.folder / "artifacts/score/k1", 80)
    ours.push(ours.folder / "artifacts/score/k1")
    theirs = mirror.at(flaky, tmp_path / "theirs")
    theirs.pull(theirs.folder / "artifacts/score/k1")
    assert {f.name: f.read_bytes() for f in (theirs.folder / "artifacts/score/k1").iterdir()} == files
    assert Flaky.refused > 10 and Flaky.cut > 0


def test_permission_errors_are_not_retried(flaky: str, tmp_path: Path) -> None:
    ours = mirror.at(flaky, tmp_path / "ours")
    fill(ours.folder / "artifacts/score/k1", 1)
    Flaky.denied = True
    with pytest.raises(ResourceError, match=r"store: access is denied \(403 Forbidden\); give credentials"):
        ours.push(ours.folder / "artifacts/score/k1")
    assert Flaky.refused == 1


def test_only_a_record_makes_an_artifact(flaky: str, tmp_path: Path) -> None:
    ours, theirs = mirror.at(flaky, tmp_path / "ours"), mirror.at(flaky, tmp_path / "theirs")
    made = ours.folder / "artifacts/score/k1"
    fill(made, 3)
    ours.push(made)
    theirs.refresh()
    assert not ours.has_record(made) and not (theirs.folder / "artifacts").exists()
    ours.commit(made, b"{}")
    theirs.refresh()
    assert ours.has_record(made) and (theirs.folder / "artifacts/score/k1/record.json").read_text() == "{}"
    ours.remove(made)
    theirs.refresh()
    assert not (theirs.folder / "artifacts/score/k1/record.json").exists()


def test_a_state_is_whole_only_when_its_files_and_the_log_are_there(
    flaky: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = mirror.at(flaky, tmp_path / "ours")
    made, there = ours.folder / "artifacts/train/k", Path(tmp_path / "store/artifacts/train/k")
    put, seen = Flaky.put_file, []

    def watched(self: Flaky, lpath: Any, rpath: Any, *words: Any, **options: Any) -> Any:
        if str(rpath).endswith("commit.json"):
            seen.append({str(f.relative_to(there)): f.stat().st_size for f in there.rglob("*") if f.is_file()})
        return put(self, lpath, rpath, *words, **options)

    monkeypatch.setattr(Flaky, "put_file", watched)
    for step in (10, 20):
        fill(made / f"state/step-{step}", 2)
        (made / f"state/step-{step}/commit.json").write_text("{}")
        (made / "metrics.jsonl").write_text("row\n" * step)
        ours.push(made)
        state = {f"state/step-{step}/part-{n:03d}.parquet" for n in range(2)}
        assert seen and all(state <= now.keys() and now["metrics.jsonl"] == 4 * step for now in seen)
        seen.clear()


def test_exact_pull_removes_extra_local_files(flaky: str, tmp_path: Path) -> None:
    ours, theirs = mirror.at(flaky, tmp_path / "ours"), mirror.at(flaky, tmp_path / "theirs")
    for one, steps in ((ours, (10, 20)), (theirs, (20, 30))):
        for step in steps:
            fill(one.folder / f"artifacts/train/k/state/step-{step}", 2)
        (one.folder / "artifacts/train/k/metrics.jsonl").write_text("row\n" * steps[1])
    (ours.folder / "artifacts/train/k/state/memory-0").mkdir()
    (ours.folder / "artifacts/train/k/state/memory-0/bank").write_bytes(b"scratch")
    place = "artifacts/train/k"
    ours.push(ours.folder / place)
    theirs.pull(theirs.folder / place)  # one worker goes on from the newest there is
    assert sorted(p.name for p in (theirs.folder / place / "state").iterdir()) == ["step-10", "step-20", "step-30"]
    assert (theirs.folder / place / "metrics.jsonl").read_text().count("row") == 30
    theirs.pull(theirs.folder / place, exact=True)
    assert sorted(p.name for p in (theirs.folder / place / "state").iterdir()) == ["step-10", "step-20"]
    assert (theirs.folder / place / "metrics.jsonl").read_text().count("row") == 20
    for file in (ours.folder / place / "state/step-10").iterdir():
        file.unlink()
    ours.push(ours.folder / place)  # a state that is dropped here is dropped there
    assert {name.split("/")[1] for name in ours.sizes(ours.folder / place) if name.startswith("state/")} == {"step-20"}


def test_files_are_fetched_when_they_are_opened(flaky: str, tmp_path: Path) -> None:
    ours, theirs = mirror.at(flaky, tmp_path / "ours"), mirror.at(flaky, tmp_path / "theirs")
    folder = ours.folder / "artifacts/pack/k/labeled"
    folder.mkdir(parents=True)
    (folder / "labeled-000000.tar").write_bytes(b"shard")
    (folder / "index.json").write_text("{}")
    ours.push(folder.parent)
    there = theirs.folder / "artifacts/pack/k"
    theirs.pull(there)
    shard = there / "labeled/labeled-000000.tar"
    assert (there / "labeled/index.json").exists() and not shard.exists()
    local = Local(tmp_path / "disk", shard_bytes=12)
    first = local.fetch(theirs.url_of(shard), "a.tar", 5)
    assert first.read_bytes() == b"shard"
    ours.store.remove("artifacts/pack/k/labeled/labeled-000000.tar")
    assert local.fetch(theirs.url_of(shard), "a.tar", 5) == first  # it is here
    with pytest.raises(DataError, match=r"labeled-000000\.tar: is not there, though the index has it"):
        local.fetch(theirs.url_of(shard), "b.tar", 5)
    for name in ("b", "c"):  # there is room for two: the one that was not used for longest goes
        ours.store.write(f"artifacts/pack/k/labeled/{name}.tar", b"other")
        local.fetch(theirs.url_of(shard.with_name(f"{name}.tar")), f"{name}.tar", 5)
        assert local.fetch(theirs.url_of(shard), "a.tar", 5) == first
    assert sorted(file.name for file in first.parent.glob("*.tar")) == ["a.tar", "c.tar"]
    with pytest.raises(DataError, match=r"c\.tar: 5 bytes, but its index says 6"):
        local.fetch(theirs.url_of(shard.with_name("c.tar")), "d.tar", 6)
    assert not list(first.parent.glob("*tmp*")) and not list(first.parent.glob("*.lock"))


def test_names_in_a_store_do_not_lead_out_of_the_mirror(flaky: str, tmp_path: Path) -> None:
    ours = mirror.at(flaky, tmp_path / "ours")
    with pytest.MonkeyPatch.context() as patch:  # such names are possible in S3, not on a disk
        names = ("artifacts/score/k/../../../../../evil", "../evil", "artifacts/score/k/a..b")
        patch.setattr(Flaky, "find", lambda self, base, detail: {f"{base}/{name}": {"size": 4} for name in names})
        assert list(ours.sizes(ours.folder)) == ["artifacts/score/k/a..b"]
    ours.store.write("records/...k.json", b"{}")
    ours.store.write("records/score.k.json", b"{}")
    ours.refresh()
    assert [str(p.relative_to(ours.folder)) for p in ours.folder.rglob("*.json") if p.name != mirror.NOTE] == [
        "artifacts/score/k/record.json"
    ]


def test_is_url_and_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mirror.open_root(f"file://{tmp_path}") == tmp_path == mirror.local(str(tmp_path), [])
    assert not mirror.is_url("runs") and not mirror.is_url("torchvision:CIFAR10:data") and mirror.is_url("gs://a/b")
    monkeypatch.setenv("SSLSCALE_SCRATCH", str(tmp_path / "scratch"))
    with pytest.raises(ConfigError, match="Protocol not known"):
        mirror.open_root("nonsense://bucket")
