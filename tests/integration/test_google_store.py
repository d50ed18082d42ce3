"""A root in Google's object store, as its emulator has it: what differs from S3 is the library alone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sslscale.errors import ResourceError
from sslscale.storage import mirror
from tests import runs

pytest.importorskip("gcsfs")


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """The environment of clients of a server that has one bucket, `lab`."""
    port = runs.free_port()
    code = "import sys; from gcp_storage_emulator.__main__ import main; sys.exit(main(sys.argv[1:]))"
    words = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=lab"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        runs.wait_for_port(port)
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    finally:
        process.terminate()
        process.wait(timeout=30)


def machine(env: dict[str, str], folder: Path) -> dict[str, str]:
    """A machine that has nothing of the store."""
    return {**env, "SSLSCALE_SCRATCH": str(folder)}


def test_artifacts_in_a_store_are_seen_by_other_machines(
    server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    ours, theirs = mirror.at("gs://lab/runs", tmp_path / "ours"), mirror.at("gs://lab/runs", tmp_path / "theirs")
    made = ours.folder / "artifacts/score/k1"
    (made / "state").mkdir(parents=True)
    (made / "state/step-1.bin").write_bytes(bytes(range(256)) * 1000)
    (made / "scores.parquet").write_bytes(b"x" * 9_000_000)  # sent in pieces
    ours.push(made)
    (made / "state/step-1.bin").unlink()
    ours.push(made)  # a state that is dropped here is dropped there
    theirs.refresh()
    assert not (theirs.folder / "artifacts").exists()
    ours.commit(made, b"{}")
    theirs.refresh()
    there = theirs.folder / "artifacts/score/k1"
    theirs.pull(there)
    assert {f.name: f.stat().st_size for f in there.rglob("*") if f.is_file()} == {
        "record.json": 2,
        "scores.parquet": 9_000_000,
    }
    ours.remove(made)
    theirs.refresh()
    assert not (there / "record.json").exists() and not ours.sizes(ours.folder)
    with pytest.raises(ResourceError, match=r"gs://nowhere/runs: cannot be written .*; is there such a bucket"):
        mirror.at("gs://nowhere/runs", tmp_path / "nowhere").store.write("records/score.k1.json", b"{}")


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_elsewhere(server: dict[str, str], tmp_path: Path) -> None:
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), "gs://lab/killed"
    first = machine(server, tmp_path / "first")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.items():
            patch.setenv(name, value)
        seen = mirror.at(root, tmp_path / "seen")
        process = runs.start("run", config, "--root", root, env=first)
        runs.kill_when(process, lambda: any(name.endswith("/commit.json") for name in seen.sizes(seen.folder)))
        time.sleep(2)  # its workers end with it
        records = {name for name in seen.sizes(seen.folder) if name.startswith("records/")}
    assert {name.split(".")[0] for name in records} == {"records/pack"}
    second = machine(server, tmp_path / "second")
    found = runs.result(runs.sslscale("run", config, "--root", root, "--json", env=second)[0])
    assert runs.stages(found)["data"]["state"] == "cached" and runs.stages(found)["model"]["state"] == "ran"
    logs = "".join(file.read_text() for file in (tmp_path / "second").glob("*/logs/*/model.log"))
    assert "going on from step" in logs
    third = machine(server, tmp_path / "third")
    again = runs.result(runs.sslscale("run", config, "--root", root, "--json", env=third)[0])
    assert {stage["state"] for stage in again["stages"]} == {"cached"} and again["metrics"] == found["metrics"]


@pytest.mark.slow
def test_an_unreachable_store_is_one_line(server: dict[str, str], tmp_path: Path) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    nobody = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{runs.free_port()}"}
    _, err = runs.sslscale("plan", config, "--root", "gs://lab/x", code=4, env=machine(nobody, tmp_path / "scratch"))
    assert "error: gs://lab/x: the store does not answer as it should" in err and err.count("\n") == 1, err
