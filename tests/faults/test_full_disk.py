"""A file system that is full, and has more room from attempt to attempt: one clear line each time, and nothing lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sslscale import experiment
from sslscale.graph import dag
from sslscale.storage import jsonio
from sslscale.tracking import store
from tests import runs
from tests.faults.chaos import differences

# the root and the scratch folder lie in memory, with so much room; the root is copied when a run has ended
_SCRIPT = """
set -e
out=$1; shift
mkdir "$out/runs" "$out/scratch"
mount -t tmpfs -o size=16k none "$out/runs"
mount -t tmpfs -o size=64k none "$out/scratch"
export SSLSCALE_SCRATCH=$out/scratch
for size in 16k 100k 400k 1m 3m 4m 5m 6m 200m; do
    mount -o remount,size=$size "$out/runs"
    code=0; "$@" --root "$out/runs" >"$out/told-$size" 2>"$out/error-$size" || code=$?
    echo "$size $code"
done
cp -r "$out/runs" "$out/kept"
"""


@pytest.mark.slow
def test_a_run_that_finds_the_disk_full_again_and_again_ends_as_any_other(tmp_path: Path) -> None:
    """In packing, in MLflow's database, in a training's state, in pseudo-label shards; and the cache never has room."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    config, out = runs.write(tmp_path, runs.TINY), tmp_path / "full"
    out.mkdir()
    command = [sys.executable, "-m", "sslscale", "run", str(config)]
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", _SCRIPT, "bash", str(out), *command],
        capture_output=True,
        text=True,
        cwd=runs.ROOT,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    codes = dict(line.split() for line in done.stdout.splitlines())
    assert codes.pop("200m") == "0", (out / "error-200m").read_text()
    assert set(codes.values()) <= {"0", "4"} and list(codes.values()).count("4") >= 5, codes
    stages = set()
    for size in (size for size, code in codes.items() if code == "4"):
        error = (out / f"error-{size}").read_text()
        assert error.startswith("error: ") and "Traceback" not in error and "No space left on device" in error, error
        assert error.count("\n") <= 2, error  # the second names the log
        stages.add(error.split()[1])
    assert len(stages) >= 2, stages  # it came further from attempt to attempt

    runs.sslscale("run", config, "--root", tmp_path / "golden")
    assert differences(tmp_path / "golden", out / "kept") == []
    tracked = runs.python(
        "import sys; from mlflow import MlflowClient; c = MlflowClient(f'sqlite:///{sys.argv[1]}')\n"
        "found = c.search_runs([e.experiment_id for e in c.search_experiments()])\n"
        "print(*sorted(r.info.run_name for r in found if r.info.status == 'FINISHED'))",
        str(out / "kept" / "mlflow.db"),
    )
    expected = {entry.stage.name for entry in dag.plan(experiment.load(str(config)).targets, out / "kept")} | {"tiny"}
    assert tracked.split() == sorted(expected)  # each once


def test_mlflows_database_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """MLflow cannot go on with one that it has made in part: nothing could be tracked there ever again."""
    file = tmp_path / "mlflow.db"

    def killed(uri: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_text("half")
        raise OSError("database or disk is full")

    with pytest.raises(OSError, match="full"):
        store._create(file, killed)
    assert not list(tmp_path.iterdir())
    abandoned, new = tmp_path / "mlflow.db.tmp-1", tmp_path / "mlflow.db.tmp-2"
    for left in (abandoned, new):
        left.write_text("of a process that was killed, or of one that is at it")
    os.utime(abandoned, (0, 0))
    store._create(file, lambda uri: Path(uri.removeprefix("sqlite:///")).write_text("whole"))
    assert sorted(tmp_path.iterdir()) == [file, new] and file.read_text() == "whole"
    store._create(file, lambda uri: Path(uri.removeprefix("sqlite:///")).write_text("another run's"))
    assert file.read_text() == "whole"


def test_an_error_of_writing_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel's own error does not."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        jsonio.write_bytes(tmp_path / "x.json", b"{}")
    assert caught.value.filename == str(tmp_path / "x.json") and not list(tmp_path.iterdir())
