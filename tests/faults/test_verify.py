"""`sslscale verify` finds one flipped byte anywhere under a root and what came of it; `--repair` redoes just that."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from sslscale.cli.roots import DAMAGED
from sslscale.graph.verify import verify
from sslscale.storage import sums
from tests import runs
from tests.faults.test_flips import flip
from tests.finished import Finished


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    shutil.copytree(finished.root, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


def files(root: Path) -> list[Path]:
    """Every file of the artifacts that a stage may read."""
    own = {"stage.json", "writer.lock", "progress.json", "mlflow.json", "warnings.log"}
    return [
        f for f in sorted((root / "artifacts").rglob("*")) if f.is_file() and f.name not in own and f.stat().st_size
    ]


def test_each_kind_of_file_is_checked_at_random_places(copied: Path) -> None:
    whole = verify(copied)
    assert not whole.damage and whole.files > 20 and whole.unfinished == 0
    rng = random.Random(0)
    kinds: dict[tuple[str, str], list[Path]] = {}
    for file in files(copied):
        kinds.setdefault((file.relative_to(copied / "artifacts").parts[0], file.suffix), []).append(file)
    assert {("pack", ".tar"), ("train", ".safetensors"), ("score", ".parquet"), ("select", ".json")} <= kinds.keys()
    for mine in kinds.values():
        file = rng.choice(mine)
        place = rng.randrange(file.stat().st_size)
        flip(file, place)
        found = verify(copied)
        named = {one.file for one in found.damage}
        assert file in named, (file, place)
        flip(file, place)
    assert not verify(copied).damage


def test_it_says_what_came_of_a_damaged_artifact(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (teacher,) = (
        path.parent
        for path in copied.glob("artifacts/train/*/record.json")
        if sums.read_record(path)["name"] == "teacher"
    )
    flip(teacher / "model.safetensors", 5000)
    out, _ = runs.in_process(capsys, "verify", "--root", str(copied), code=DAMAGED)
    assert f"damaged: {teacher / 'model.safetensors'}: its SHA-256" in out
    (line,) = [line for line in out.splitlines() if line.startswith(f"train/{teacher.name}:")]
    assert "score/" in line and "came of it" in line and "Traceback" not in out
    found = verify(copied)
    kinds = {path.parent.name for path in found.dependents[teacher]}
    assert {"score", "select", "shard", "train", "evaluate"} <= kinds and "pack" not in kinds


def test_repair_redoes_the_damaged_stage_alone(
    copied: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    (table, *_) = sorted(copied.glob("artifacts/score/*/scores-*.parquet"))
    before = table.read_bytes()
    kept = {f: f.stat().st_mtime_ns for f in files(copied) if f.parent != table.parent}
    flip(table, 300)
    out, _ = runs.in_process(capsys, "verify", "--root", str(copied), "--repair")
    assert f"removed score/{table.parent.name}" in out and not table.parent.exists()
    runs.sslscale("run", finished.config, "--root", copied)
    assert table.read_bytes() == before
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
    out, _ = runs.in_process(capsys, "verify", "--root", str(copied))
    assert "nothing is damaged" in out


def test_missing_files_and_records_are_named(copied: Path) -> None:
    (weights, *_) = sorted(copied.glob("artifacts/train/*/model.safetensors"))
    (record, *_) = sorted(copied.glob("artifacts/select/*/record.json"))
    weights.unlink()
    record.write_text("{")
    found = verify(copied)
    assert {(one.file, one.why.split(":")[0]) for one in found.damage} == {(weights, "is gone"), (record, "unreadable")}
