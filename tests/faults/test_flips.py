"""One byte flipped in a file of a finished stage: the stage that reads it names the file, and makes nothing of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sslscale import experiment
from sslscale.errors import DataError
from sslscale.graph import dag, execution
from sslscale.storage import sums
from sslscale.storage.jsonio import read_json
from tests import runs
from tests.finished import Finished

READERS = {  # a file of a stage, and the stage that reads it
    ("data", "unlabeled/index.json"): "student_1/score",
    ("data", "labeled/index.json"): "teacher",
    ("teacher", "model.safetensors"): "teacher/evaluate",
    ("teacher", "model.json"): "student_1/score",
    ("student_1/score", "scores-000003.parquet"): "student_1/select",
    ("student_1/select", "selection-000003.parquet"): "student_1/shard",
    ("student_1/select", "stats.json"): "report",
    ("student_1/shard", "index.json"): "student_1",
    ("teacher/evaluate", "report.json"): "report",
    ("teacher/evaluate", "confusion.png"): "report",
    ("teacher/evaluate", "record.json"): "report",
    ("teacher/evaluate", "sums.json"): "report",
}


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    shutil.copytree(finished.root, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def run_stage(config: Path, root: Path, name: str) -> None:
    """Make one stage anew, in this process, from the inputs that are there."""
    loaded = experiment.load(str(config))
    planned = dag.plan(loaded.targets, root)
    entry = next(entry for entry in planned if entry.stage.name == name)
    shutil.rmtree(entry.path, ignore_errors=True)
    paths = {one.key: str(one.path.absolute()) for one in planned}
    execution.execute(execution._job(entry, paths, root.absolute(), "", ""))


@pytest.mark.parametrize(("place", "reader"), READERS.items(), ids=lambda x: "-".join(x) if isinstance(x, tuple) else x)
def test_a_flipped_byte_is_named_by_the_stage_that_reads_it(
    place: tuple[str, str], reader: str, copied: Path, finished: Finished
) -> None:
    stage, name = place
    file = copied / finished.folder(stage).relative_to(finished.root) / name
    size = file.stat().st_size
    for position in {0, size // 3, size // 2, size - 2}:
        whole = file.read_bytes()
        flip(file, position)
        with pytest.raises(DataError, match=str(file.name) if name != "sums.json" else "sums are damaged"):
            run_stage(finished.config, copied, reader)
        file.write_bytes(whole)
        made = finished.folder(reader).relative_to(finished.root)
        assert not (copied / made / dag.RECORD).exists()


def test_every_file_of_every_artifact_has_its_sum(finished: Finished) -> None:
    """And each byte that flips is found: three places of each."""
    kinds = set()
    for record in finished.root.glob("artifacts/*/*/record.json"):
        folder = record.parent
        known = read_json(folder / "sums.json")
        files = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
        own = {"record.json", "sums.json", "stage.json", "writer.lock", "mlflow.json", "warnings.log"}
        assert {name for name in files - own if not name.endswith(".tar")} == set(known), folder
        for name in known:
            kinds.add(Path(name).suffix)
            assert sums.sha256(folder / name) == known[name]
    assert kinds >= {".json", ".parquet", ".safetensors", ".png", ".html", ".jsonl"}


def test_replay_reports_what_to_do(copied: Path, finished: Finished) -> None:
    weights = copied / finished.folder("teacher").relative_to(finished.root) / "model.safetensors"
    flip(weights, weights.stat().st_size - 5)
    _, err = runs.sslscale("predict", weights.parent, finished.config, code=3)
    assert f"error: {weights}: its SHA-256 is not the one that was taken when it was made" in err
    assert f"remove {weights.parent} and run again" in err and err.count("\n") == 1
