"""What mirrors a run to MLflow. No failure stops the run.

A parent run for the graph, a child for each stage that runs. All calls are made by one thread beside the run, so a slow
store costs the training nothing. While a server is out of reach they wait; what it lacks at the end of the run is sent
by the next run of the same command. The files of the root stay the truth.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sslscale.graph.artifacts import Checkpoint, Report
from sslscale.graph.dag import Planned
from sslscale.graph.execution import git_commit
from sslscale.interrupts import sigterm_blocked
from sslscale.report.results import measures
from sslscale.storage import jsonio
from sslscale.storage.addresses import masked
from sslscale.tracking import outage
from sslscale.tracking.models import log_model
from sslscale.tracking.store import address, connect, open_experiment, set_view

FORWARD_EVERY_S = 2.0
_UNREACHABLE = "out of reach"
NOTE = "mlflow.json"  # in a stage's folder: which run it is, and how much of it was sent
_LOGGED = ("*.png", "*.html", "stats.json", "report.json", "summary.json", "index.json")


class Tracker:
    """Observes a run and mirrors it to MLflow."""

    def __init__(
        self,
        root: Path,
        planned: Sequence[Planned],
        config: Any,
        pipeline: str,
        source: str,
        overrides: Sequence[str],
        part_of: tuple[str, str] | None = None,  # the run of a search, and which of its trials this is
        run: str | None = None,  # the name under which the root remembers what the store lacks
    ):
        self.warnings: list[str] = []
        self._root, self._store = root.absolute(), address(root)
        self._config, self._pipeline, self._source, self._overrides = config, pipeline, source, overrides
        self._runs: dict[str, str] = {}  # of stages that ran or were there
        self._judged: dict[str, None] = {}  # names of what reports found, in order
        read = {key for entry in planned for key in entry.input_keys.values()}
        self._final = {entry.stage.name for entry in planned if entry.key not in read}
        self._part_of = part_of
        self._children: dict[str, str] = {}
        self._forwarded: dict[str, tuple[int, int]] = {}  # stage -> bytes read, last step sent
        self._curves: dict[str, set[str]] = {}
        self._running: dict[str, Planned] = {}
        self._next_tick = 0.0
        self._work: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._hold = outage.hold(self._root, run) if run is not None else None
        self._name = run if self._hold is not None else None  # the same command may run twice at a time
        self._unsent = (outage.pending(self._root, self._name, self._store) if self._name is not None else None) or {}
        self._parent: Any = self._unsent.get("parent")
        to_run = [entry.key for entry in planned if entry.state != "cached"]
        self._stages = sorted({*self._unsent.get("stages", ()), *to_run})
        self._client: Any = outage.PatientClient(lambda: connect(root), self._remember)
        self._off = ""  # why nothing more is sent
        self._thread = threading.Thread(target=self._serve, daemon=True, name="tracking")
        self._work.put(self._start)
        with sigterm_blocked():
            self._thread.start()

    # --- called by the run ---

    def changed(self, planned: Planned, state: str, record: Mapping[str, Any] | None) -> None:
        """A stage has a new state."""
        name = planned.stage.name
        if state == "running":
            self._running[name] = planned
            self._work.put(lambda: self._begin(planned))
        elif state in ("ran", "failed"):
            self._running.pop(name, None)
            self._work.put(lambda: self._end(planned, record))
        elif state == "cached":
            self._work.put(lambda: self._note_cached(planned, record))

    def tick(self) -> None:
        """Forward new rows of metrics now and then."""
        if time.monotonic() >= self._next_tick and self._work.empty():
            self._next_tick = time.monotonic() + FORWARD_EVERY_S
            for planned in list(self._running.values()):
                self._work.put(lambda planned=planned: self._forward(planned))

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Put the run's headline numbers on the parent, and make them columns of the experiment's page."""
        self._work.put(lambda: self._log_metrics(self._parent, metrics))
        columns = {name: None for name in metrics if "/" not in name}
        self._work.put(lambda: set_view(self._client, self._experiment_id, [*columns, *self._judged]))

    def attach(self, file: Path) -> None:
        """Put a file on the parent."""
        self._work.put(lambda: self._client.log_artifact(self._parent, str(file)))

    def close(self, status: str) -> None:
        """End the parent run and wait for what is still to be sent: a few seconds if the store is out of reach, else up
        to a minute."""
        self._work.put(lambda: self._terminate(status))
        self._work.put(None)
        self._client.close()
        self._thread.join(timeout=60)
        late = self._thread.is_alive()
        if late:
            self._remember()
        if self._name is not None and not (self._off or late):
            outage.forget(self._root, self._name)
        if self._hold is not None:
            self._hold.path.unlink(missing_ok=True)
            self._hold.release()
        if late or self._off == _UNREACHABLE:
            why = "cannot be written" if self._store.startswith("sqlite:") else "does not answer"
            kept = "the same command sends it later" if self._name is not None else "its last rows are lost there"
            self.warnings.append(f"tracking at {self._store} {why}: {kept}")
        elif self._off:
            self.warnings.append(f"tracking at {self._store} failed and is off for this run: {self._off}")

    def _remember(self) -> None:
        """Note what the store has to get, before anything can happen to this process or to the disk."""
        if self._name is not None:
            with contextlib.suppress(OSError):  # the disk may be full; it is tried again at the next failure
                outage.note(self._root, self._name, self._store, self._parent, self._stages)

    # --- called on the tracking thread ---

    def _serve(self) -> None:
        while (task := self._work.get()) is not None:
            if self._off:
                continue
            try:
                task()
            except outage.Unreachable:
                self._off = _UNREACHABLE
            except Exception as error:
                self._off = masked(str(error)).strip().split("\n")[0][:200] or type(error).__name__

    def _start(self) -> None:
        from mlflow.entities import Metric, Param

        self._metric, self._param = Metric, Param
        name = self._pipeline
        self._experiment_id = open_experiment(self._client, self._root, name)
        found_id = self._experiment_id
        if self._part_of is not None:
            above, trial = self._part_of
            same = f"tags.`mlflow.parentRunId` = '{above}' AND tags.trial = '{trial}'"
            for seen in self._client.search_runs([found_id], same):  # it was killed, and goes on
                self._parent = seen.info.run_id
                self._client.update_run(self._parent, status="RUNNING")
                return
        commit = git_commit()
        tags = {
            "mlflow.runName": " ".join([Path(self._source).stem, *self._overrides]),
            "mlflow.source.name": self._source,
            "mlflow.note.content": "`sslscale run " + " ".join([self._source, *self._overrides]) + "`",
            "mlflow.source.git.commit": commit,
            "pipeline": name,
            **({"mlflow.parentRunId": self._part_of[0], "trial": self._part_of[1]} if self._part_of else {}),
        }
        if self._parent is None:
            self._parent = str(self._client.create_run(found_id, tags=tags).info.run_id)
            self._remember()
        else:  # this run sends what an earlier one could not
            self._client.update_run(self._parent, status="RUNNING")
        self._log_params(self._parent, jsonio.flat(self._config))

    def _begin(self, planned: Planned) -> None:
        name, note = planned.stage.name, planned.path / NOTE
        resumed = None
        if note.exists():
            seen = jsonio.read_json(note)
            if seen.get("store") == self._store:
                resumed = seen
        if resumed is not None:  # the run of an attempt that was stopped goes on
            self._children[name] = self._runs[name] = resumed["run_id"]
            self._forwarded[name] = (0, resumed["step"])
            self._client.update_run(resumed["run_id"], status="RUNNING")
            self._client.set_tag(resumed["run_id"], "mlflow.parentRunId", self._parent)
            return
        if planned.key in self._unsent.get("stages", ()):  # begun by a process that was killed before it noted that
            same = f"tags.`mlflow.parentRunId` = '{self._parent}' AND tags.key = '{planned.key}'"
            for left in self._client.search_runs([self._experiment_id], same):
                self._client.delete_run(left.info.run_id)
        tags = {
            "mlflow.runName": name,
            "mlflow.parentRunId": self._parent,
            "mlflow.source.name": self._source,
            "mlflow.source.git.commit": git_commit(),
            "mlflow.note.content": _describe(planned),
            "stage": planned.stage.kind,
            "key": planned.key,
        }
        run_id = self._client.create_run(self._experiment_id, tags=tags).info.run_id
        self._children[name] = self._runs[name] = run_id
        self._forwarded[name] = (0, -1)
        self._log_params(run_id, jsonio.flat(planned.stage.config))
        self._log_inputs(run_id, planned)

    def _log_inputs(self, run_id: str, planned: Planned) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = []
        for name, key in planned.input_keys.items():
            parent = planned.stage.inputs[name]
            source = json.dumps({"uri": str(self._root / "artifacts" / parent.kind / key)})
            data = Dataset(name=parent.name, digest=key, source_type="local", source=source)
            datasets.append(DatasetInput(data, tags=[InputTag("mlflow.data.context", name)]))
        if datasets:
            self._client.log_inputs(run_id, datasets=datasets)

    def _forward(self, planned: Planned) -> None:
        """Send the rows that metrics.jsonl has gained."""
        name = planned.stage.name
        run_id = self._children.get(name)
        file = planned.path / "metrics.jsonl"
        if run_id is None or not file.exists():
            return
        offset, last = self._forwarded[name]
        if file.stat().st_size < offset:  # rewound to a checkpoint
            offset = 0
        with open(file, "rb") as lines:
            lines.seek(offset)
            new = lines.read()
        whole = new[: new.rfind(b"\n") + 1]
        rows = [json.loads(line) for line in whole.splitlines()]
        rows = [row for row in rows if row["step"] > last]
        now = int(time.time() * 1000)
        metrics = [
            self._metric(key, float(value), now, row["step"])
            for row in rows
            for key, value in row.items()
            if key != "step" and isinstance(value, int | float)
        ]
        self._curves.setdefault(name, set()).update(metric.key for metric in metrics)
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(run_id, metrics=metrics[start : start + 1000])
        last = max([last, *(row["step"] for row in rows)])
        self._forwarded[name] = (offset + len(whole), last)
        self._write_note(planned, run_id, last, ended=False)

    def _end(self, planned: Planned, record: Mapping[str, Any] | None) -> None:
        self._forward(planned)
        run_id = self._children.pop(planned.stage.name, None)
        if run_id is None:
            return
        if record is not None:
            curves = self._curves.pop(planned.stage.name, set())  # their last point is there: none at step 0
            final = {n: v for n, v in record["fields"]["metrics"].items() if n not in curves}
            self._log_metrics(run_id, {**final, "seconds": record["seconds"]})
            for file in sorted({f for pattern in _LOGGED for f in planned.path.glob(pattern)}):
                self._client.log_artifact(run_id, str(file))
                if planned.stage.name in self._final and file.suffix in (".html", ".png"):
                    self._client.log_artifact(self._parent, str(file))
            if record["kind"] == Checkpoint.__name__:
                log_model(self._client, run_id, planned.path)
            elif record["kind"] == Report.__name__ and "model" in planned.stage.inputs:
                self._judge(planned, final)
        self._client.set_terminated(run_id, "FINISHED" if record is not None else "FAILED")
        if record is not None:
            self._write_note(planned, run_id, self._forwarded[planned.stage.name][1], ended=True)

    def _write_note(self, planned: Planned, run_id: str, step: int, *, ended: bool) -> None:
        if planned.path.exists():
            jsonio.write_json(
                planned.path / NOTE, {"store": self._store, "run_id": run_id, "step": step, "ended": ended}
            )

    def _note_cached(self, planned: Planned, record: Mapping[str, Any] | None) -> None:
        self._client.set_tag(self._parent, f"cached.{planned.stage.name}", planned.key)
        note = planned.path / NOTE
        seen = jsonio.read_json(note) if note.exists() else {}
        known = seen.get("store") == self._store
        if known and seen.get("ended", True):
            self._runs[planned.stage.name] = seen["run_id"]
        elif known or planned.key in self._unsent.get("stages", ()):  # it ended while the store was out of reach
            self._begin(planned)
            self._end(planned, record)

    def _judge(self, planned: Planned, metrics: Mapping[str, float]) -> None:
        """Put what a report found on the run of the network it is about: trainings can be sorted by it."""
        run_id = self._runs.get(planned.stage.inputs["model"].name)
        if run_id is None:
            return
        found = measures({planned.stage.name: planned.path})
        known = self._client.get_run(run_id).data.metrics
        named = {name: value for name, value in metrics.items() if name not in known}
        self._judged |= {name: None for name in named if not name.endswith("samples")}
        self._log_metrics(run_id, {**({"accuracy": found[-1].value} if found else {}), **named})

    def _terminate(self, status: str) -> None:
        for run_id in self._children.values():
            self._client.set_terminated(run_id, "KILLED")
        self._client.set_terminated(self._parent, status)

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [self._metric(name, float(value), now, 0) for name, value in metrics.items()]
        self._client.log_batch(run_id, metrics=rows)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        rows = [self._param(name, str(value)[:500]) for name, value in params.items()]
        for start in range(0, len(rows), 100):
            self._client.log_batch(run_id, params=rows[start : start + 100])


def _describe(planned: Planned) -> str:
    """What a stage does and where its files are, for people."""
    config, doc = planned.stage.config, (planned.stage.fn.__doc__ or planned.stage.kind).strip().splitlines()[0]
    if hasattr(config, "method") and hasattr(config, "model"):
        doc = f"{config.method.name} training of {config.model.name}, {config.batch_size} images a step"
    return f"{doc}\n\nfiles: `{planned.path}`"
