"""`data pack` and `data index` in several processes: the same bytes whoever writes which, and resumed by the shard."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests import runs
from tests.unit.test_webdatasets import write


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 files in ten class folders: digits, and others that differ in their first pixel."""
    from PIL import Image

    from sslscale.data.ready_sets import digits

    folder = tmp_path_factory.mktemp("photographs")
    for number in range(3000):
        item = digits().items[number % 1797]
        place = folder / str(item.label) / f"{number:05d}.png"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(item.read())
        if number >= 1797:
            image = Image.open(place)
            image.putpixel((0, 0), 77)
            image.save(place)
    return folder


@pytest.mark.slow
def test_packing_is_resumed_by_the_shard_and_the_same_in_two_processes(photographs: Path, tmp_path: Path) -> None:
    words = ("data", "pack", photographs, tmp_path / "out", "--shard-size", "50", "--test", "0.2")
    process = runs.start(*words)
    working = tmp_path / ".out.packing"
    while len(list(working.rglob("*.tar"))) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = {file: file.stat().st_mtime_ns for file in working.rglob("*.tar") if file.with_suffix(".json").exists()}
    assert len(left) >= 4 and not (tmp_path / "out").exists()
    runs.sslscale(*words)
    kept = [tmp_path / "out" / file.relative_to(working) for file in left]
    assert [file.stat().st_mtime_ns for file in kept] == list(left.values())
    assert not list(tmp_path.glob(".out*"))
    runs.sslscale("data", "pack", photographs, tmp_path / "two", *words[4:], "--workers", "2")
    assert contents(tmp_path / "out") == contents(tmp_path / "two")
    runs.sslscale("data", "check", tmp_path / "two")


@pytest.mark.slow
def test_indexing_in_two_processes_gives_the_same_index(tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs")
    for name, workers in (("one", "1"), ("two", "2")):
        env = {"SSLSCALE_SCRATCH": str(tmp_path / f"scratch-{name}")}
        runs.sslscale("data", "index", f"{folder}/*.tar", tmp_path / name, "--workers", workers, env=env)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
