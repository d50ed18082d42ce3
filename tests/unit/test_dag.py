"""The graph: identities, plans with reasons, runs that resume, locks, collection. No torch, no Ray."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import multiprocessing
import os
import pkgutil
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sslscale.errors import DataError
from sslscale.graph import collect, dag, execution
from sslscale.graph.artifacts import Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import Stage, stage
from sslscale.graph.execution import Inline
from sslscale.graph.resources import Resources
from sslscale.settings.method import method_names
from sslscale.storage import jsonio, locks


@dataclass(frozen=True, kw_only=True)
class Number:
    value: float
    log_every: int = field(default=1, metadata={"identity": False})


CALLS: list[str] = []


def constant(ctx: RunContext, config: Number) -> Report:
    CALLS.append(ctx.name)
    return Report(path=str(ctx.path), metrics={"value": config.value})


def add(ctx: RunContext, config: Number, *, left: Report, right: Report) -> Report:
    CALLS.append(ctx.name)
    return Report(path=str(ctx.path), metrics={"value": left.metrics["value"] + right.metrics["value"] + config.value})


def fail(ctx: RunContext, config: Number, *, left: Report) -> Report:
    raise DataError("no good")


def graph(a: float = 1, b: float = 2, c: float = 0, resources: Resources | None = None, log_every: int = 1) -> Stage:
    left = stage(constant, Number(value=a, log_every=log_every), name="a", resources=resources)
    right = stage(constant, Number(value=b), name="b")
    return stage(add, Number(value=c), name="sum", left=left, right=right)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def run(target: Stage, root: Path) -> dict[str, dict[str, Any]]:
    return execution.run(dag.plan([target], root), root, Inline())


def test_a_run_gives_results_and_the_second_is_free(tmp_path: Path) -> None:
    records = run(graph(), tmp_path)
    assert records["sum"]["fields"]["metrics"] == {"value": 3}
    assert CALLS == ["a", "b", "sum"]
    again = run(graph(), tmp_path)
    assert CALLS == ["a", "b", "sum"] and {r["state"] for r in again.values()} == {"cached"}


def test_only_what_changed_runs_again_and_the_plan_says_why(tmp_path: Path) -> None:
    run(graph(), tmp_path)
    planned = {p.stage.name: p for p in dag.plan([graph(b=5)], tmp_path)}
    assert planned["a"].state == "cached"
    assert planned["b"].why.startswith("value: 1 -> 5") or planned["b"].why.startswith("value: 2 -> 5")
    assert planned["sum"].why.startswith("input right changed")
    run(graph(b=5), tmp_path)
    assert CALLS == ["a", "b", "sum", "b", "sum"]


def test_keys_ignore_where_and_how(tmp_path: Path) -> None:
    def keys(target: Stage, root: Path) -> list[str]:
        return [p.key for p in dag.plan([target], root)]

    expected = keys(graph(), tmp_path)
    assert keys(graph(resources=Resources(num_workers=8, cpus_per_worker=2)), tmp_path / "x") == expected
    assert keys(graph(log_every=9), tmp_path) == expected
    assert keys(graph(a=1.5), tmp_path) != expected


def test_twins_run_once(tmp_path: Path) -> None:
    records = run(graph(a=2, b=2), tmp_path)
    assert CALLS in (["a", "sum"], ["b", "sum"])
    assert records["a"]["key"] == records["b"]["key"] and records["sum"]["fields"]["metrics"]["value"] == 4


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    dag.plan([graph()], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_wrong_input_fails_at_declaration() -> None:
    left = stage(constant, Number(value=1), name="a")
    with pytest.raises(TypeError, match="'sum' cannot call add"):
        stage(add, Number(value=0), name="sum", left=left, rihgt=left)


@pytest.mark.parametrize("value", [lambda: 1, object(), {1, 2}, float("nan"), b"x", {1: 2}])
def test_values_without_a_canonical_form_are_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        jsonio.digest({"x": value})


def test_canonical_form_is_one() -> None:
    assert jsonio.digest({"b": 1, "a": (1, 2.0)}) == jsonio.digest({"a": [1, 2], "b": 1.0})
    assert jsonio.digest(0.1) != jsonio.digest(0.2)
    assert jsonio.digest("1") != jsonio.digest(1)


def test_a_failure_keeps_what_is_done_and_names_the_stage(tmp_path: Path) -> None:
    left = stage(constant, Number(value=1), name="a")
    bad = stage(fail, Number(value=0), name="bad", left=left)
    with pytest.raises(execution.StageFailed) as caught:
        run(bad, tmp_path)
    assert caught.value.name == "bad" and isinstance(caught.value.__cause__, DataError)
    planned = {p.stage.name: p for p in dag.plan([bad], tmp_path)}
    assert planned["a"].state == "cached"
    assert planned["bad"].why.startswith("unfinished")


def test_an_unreadable_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(DataError, match=r"record\.json"):
        dag.load(tmp_path)
    with pytest.raises(DataError, match="not a finished artifact"):
        dag.load(tmp_path / "nothing")


def hold(path: str, ready: Any) -> None:
    lock = locks.try_lock(Path(path))
    assert lock
    ready.set()
    time.sleep(60)


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(str(tmp_path / "x.lock"), ready))
    holder.start()
    assert ready.wait(30)
    assert locks.try_lock(tmp_path / "x.lock") is None
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert locks.try_lock(tmp_path / "x.lock") is not None


def test_a_lock_on_a_full_disk_is_one_unless_its_note_matters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    held = locks.try_lock(tmp_path / "x.lock")
    assert held is not None and locks.try_lock(tmp_path / "x.lock") is None
    with pytest.raises(OSError, match="No space left"):
        locks.try_lock(tmp_path / "noted.lock", "the names in use")
    monkeypatch.undo()
    assert locks.try_lock(tmp_path / "noted.lock", "the names in use") is not None  # it was released


def test_a_second_run_waits_for_the_first_ones_stage(tmp_path: Path) -> None:
    planned = dag.plan([graph()], tmp_path)
    lock = locks.try_lock(tmp_path / "locks" / f"{planned[0].key}.lock")
    assert lock
    states: list[tuple[str, str]] = []

    class Watch:
        def changed(self, entry: Any, state: str, record: Any) -> None:
            states.append((entry.stage.name, state))

        def tick(self) -> None:
            pass

    thread = threading.Thread(target=execution.run, args=(planned, tmp_path, Inline(), [Watch()]))
    thread.start()
    time.sleep(1)
    assert ("a", "waiting") in states and "sum" not in CALLS
    other = dag.plan([stage(constant, Number(value=1), name="other")], tmp_path)
    Inline_ = Inline()
    paths = {p.key: str(p.path) for p in other}
    Inline_.start(execution._job(other[0], paths, tmp_path, "", ""))
    Inline_.poll(0)  # the other run finishes the stage
    lock.release()
    thread.join(20)
    assert ("a", "cached") in states and ("sum", "ran") in states


def test_collect_removes_what_no_run_uses(tmp_path: Path) -> None:
    first, second = dag.plan([graph()], tmp_path), dag.plan([graph(b=5)], tmp_path)
    run(graph(), tmp_path)
    run(graph(b=5), tmp_path)
    collect.remember(tmp_path, "config.yaml", second)
    stale = {p.key for p in first} - {p.key for p in second}
    assert {p.name for p, _ in collect.collect(tmp_path, dry_run=True)} == stale
    assert all(p.path.exists() for p in first)
    assert {p.name for p, _ in collect.collect(tmp_path)} == stale
    assert [p.path.exists() for p in second] == [True] * 3
    assert not any((tmp_path / "artifacts").glob(f"*/{next(iter(stale))}"))


def test_half_written_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """A stage removes those of its last attempt; a note's, which a run may be writing, goes after an hour."""
    (first, *_) = dag.plan([graph()], tmp_path)
    left = first.path / "part" / "scores.tmp-12345678"
    left.parent.mkdir(parents=True)
    left.touch()
    run(graph(), tmp_path)
    assert not left.exists() and first.path.exists()
    old, new = (first.path / f"note.json.tmp-{n}" for n in (1, 2))
    hours_ago = time.time() - 7200
    old.touch()
    new.touch()
    os.utime(old, (hours_ago, hours_ago))
    collect.collect(tmp_path, dry_run=True)
    assert old.exists() and new.exists()
    collect.remember(tmp_path, "config.yaml", dag.plan([graph()], tmp_path))
    collect.collect(tmp_path)
    assert not old.exists() and new.exists()


def test_the_record_has_inputs_config_and_environment(tmp_path: Path) -> None:
    record = run(graph(), tmp_path)["sum"]
    on_disk = json.loads(
        (tmp_path / "artifacts" / "tests.unit.test_dag.add" / record["key"] / "record.json").read_text()
    )
    assert on_disk["config"] == {"value": 0} and set(on_disk["inputs"]) == {"left", "right"}
    assert {"seconds", "created", "host", "git", "kind"} <= on_disk.keys()


def test_rewind_drops_rows_after_the_checkpoint_and_a_torn_last_line(tmp_path: Path) -> None:
    ctx = RunContext(path=tmp_path, root=tmp_path, name="x", resources=Resources())
    for step in (10, 20, 30):
        ctx.log(step, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')
    ctx.rewind(20)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [10, 20]


def test_every_settings_field_is_identity_or_reviewed() -> None:
    """A new field that says where or how must be added here by hand."""
    from sslscale import settings

    reviewed = {
        "PackConfig": {"source", "labels", "unlabeled", "val", "test"},  # their content is hashed instead
        "TimmConfig": {"weights", "classes"},  # likewise
        "InitConfig": {"checkpoint", "weights"},  # likewise, in the stage that opens them
        "ClipConfig": {"checkpoint"},  # likewise
        "CaptionRetrievalConfig": {"batch_size"},
        "SoundRetrievalConfig": {"batch_size"},
        "ReadConfig": {"batch_size"},
        "DetectConfig": {"batch_size"},
        "PatchKnnConfig": {"batch_size"},
        "PseudoBoxConfig": {"batch_size"},
        "SuggestConfig": {"batch_size"},
        "TrainConfig": {
            "log_every",
            "save_every",
            "compile",
            "monitor_every",
            "monitor_images",
            "max_skipped_steps",
            "deterministic",
        },
        "ScoreConfig": {"batch_size"},
        "EvaluateConfig": {"batch_size"},
        "ExtractConfig": {"batch_size"},
        "LayerwiseConfig": {"batch_size"},
    }
    names = [f"settings.{found.name}" for found in pkgutil.iter_modules(settings.__path__)]
    for name in [*names, *(f"methods.{method}" for method in method_names())]:
        module = importlib.import_module(f"sslscale.{name}")
        for cls in vars(module).values():
            if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__:
                out = {f.name for f in dataclasses.fields(cls) if not f.metadata.get("identity", True)}
                assert out == reviewed.get(cls.__name__, set()), cls


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_no_file_is_written_over_a_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which `.` has no name that a temporary file could be named after."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IsADirectoryError):
        jsonio.write_bytes(Path(name), b"")
    assert not list(tmp_path.iterdir())
