"""`sslscale tune`: a configuration run many times with values from a space; the best becomes a configuration.

Every trial is an ordinary run in the same root, so what trials share (data, a teacher) is made once, a search that was
killed goes on, and the best trial's stages are there for the run that follows.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sslscale import experiment
from sslscale.cluster import trials
from sslscale.config import document as yaml_document
from sslscale.config.build import build as build_config
from sslscale.errors import ConfigError, UserError
from sslscale.graph import collect, dag, execution
from sslscale.settings.tune import TuneConfig
from sslscale.storage import mirror
from sslscale.storage.jsonio import digest, write_json


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to tune, by what, and where it is kept."""

    source: str
    overrides: tuple[str, ...]
    config: TuneConfig
    root: Path

    @property
    def folder(self) -> Path:
        """Named by what is searched: the same command goes on where it was."""
        identity = {"source": self.source, "overrides": sorted(self.overrides), "space": self.config}
        return self.root / "tune" / digest(identity)

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of one trial."""
        laid = {**(self.config.set or {}), **values}
        if population := self.config.population:
            laid |= {f"{population.section}.{key}": population.interval for key in ("log_every", "save_every")}
        return [*self.overrides, *(f"{key}={json.dumps(value)}" for key, value in laid.items())]

    def load(self, values: Mapping[str, Any]) -> experiment.Experiment:
        """One trial's graph: what the metric needs; raises ConfigError."""
        loaded = experiment.load(self.source, self.words(values))
        group = self.config.metric.rpartition("/")[0]
        names = [stage.name for stage in dag.topological(loaded.targets)]
        targets = [s for s in dag.topological(loaded.targets) if s.name.rpartition("/")[0] == group]
        reports = [s for s in targets if s.name.endswith("/evaluate")] or targets
        if not reports:
            groups = sorted({name.rpartition("/")[0] for name in names} - {""})
            raise ConfigError(f"metric: no stage reports {group}/...; there are {', '.join(groups)}")
        return experiment.Experiment(
            loaded.source, loaded.pipeline, loaded.config, reports, (*loaded.overrides, self.config.metric)
        )


def read_space(path: str, source: str, overrides: Sequence[str], root: Path, samples: int | None) -> Search:
    """Read a space, and make sure that every end of it is a valid configuration; raises ConfigError."""
    file = experiment.find(path)
    document = yaml_document.read(file, [f"samples={samples}"] if samples is not None else [])
    config: TuneConfig = build_config(TuneConfig, document)
    search = Search(source=source, overrides=tuple(overrides), config=config, root=root.absolute())
    firsts = {key: dimension.ends[0] for key, dimension in config.space.items()}
    known = _keys(experiment.load(source, [*overrides]).config)
    for key, dimension in config.space.items():
        if key not in known and key.split(".")[0] not in known:
            raise ConfigError(f"{file}: space: {source} has no key {key}")
        for end in dimension.ends:
            try:
                search.load({**firsts, key: end})
            except ConfigError as error:
                raise ConfigError(f"{file}: space: {key}={end}: {error}") from None
    return search


def _keys(config: Any) -> set[str]:
    from sslscale.storage.jsonio import flat

    found = flat(config)
    return {*found, *(name.split(".")[0] for name in found)}


def tune(search: Search, console: Any) -> dict[str, Any]:
    """Run the trials that are missing; returns the best, all trials and the files written. Raises UserError if no trial
    ended."""
    from sslscale.cli.trial_progress import TrialProgress
    from sslscale.tracking import search as runs_above

    folder = search.folder
    folder.mkdir(parents=True, exist_ok=True)
    store = mirror.of(search.root)
    if store:
        store.pull(folder)
    console.print(
        f"{search.config.samples} trials of {search.source}; kept in {mirror.shown(folder)}",
        highlight=False,
        soft_wrap=True,
    )
    logs = search.root / "logs" / time.strftime("%Y%m%d-%H%M%S")
    logs.mkdir(parents=True, exist_ok=True)
    name = f"tune {Path(search.source).stem}"
    pipeline = experiment.load(search.source, search.overrides).pipeline
    with experiment.quiet(logs / "driver.log"):
        parent = runs_above.open_parent(search.root, folder, pipeline, name)
        shown = TrialProgress(console, search.config.samples, search.config.metric)
        with shown.showing():
            found = trials.search(search.config, _Trial(search, logs, parent), folder / "trials", shown)
    rows = _rows(found, search.config.metric)
    ended = [row for row in rows if row["state"] == "ended"]
    if not ended:
        why = next((row["error"] for row in rows if row["error"]), "every trial was stopped early")
        raise UserError(f"none of the {len(rows)} trials ended: {why}\nlogs: {logs}")
    pick = max if search.config.mode == "max" else min
    best = pick(ended, key=lambda row: row["value"])
    files = _write(search, folder, rows, best)
    loaded = search.load(best["values"])
    if store:
        store.push(folder)
    collect.remember(search.root, f"tune {folder.name}", dag.plan(loaded.targets, search.root))
    runs_above.close_parent(search.root, parent, {search.config.metric: best["value"]}, best["values"], files)
    return {
        "metric": search.config.metric,
        "best": {"values": best["values"], "value": best["value"]},
        "trials": rows,
        "config": str(files["best.yaml"]),
        "report": str(files["report.html"]),
    }


class _Trial:
    """One trial, in a process of its own: a run of the graph that reports as it goes."""

    def __init__(self, search: Search, logs: Path, parent: str | None):
        self.search, self.logs, self.parent = search, logs, parent
        store = mirror.of(search.root)
        self.store = store.url if store else ""

    def __call__(self, name: str, values: dict[str, Any], report: trials.Report, state: str | None) -> None:
        from sslscale.cluster.runner import RayRunner
        from sslscale.tracking.tracker import Tracker

        search = self.search
        if self.store:
            mirror.open_root(self.store)  # at the same place on every node
        population = search.config.population
        laid = {f"{population.section}.continues": state} if population and state else {}
        loaded = search.load({**values, **laid})
        planned = dag.plan(loaded.targets, search.root)
        shown = tuple(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in values.items())
        part_of = (self.parent, digest([name, values, laid])) if self.parent else None
        tracker = Tracker(search.root, planned, loaded.config, loaded.pipeline, search.source, shown, part_of=part_of)
        status = "KILLED"  # by the scheduler, if nothing else
        try:
            runner = RayRunner(self.logs / digest(values))
            watch = _Watch(search, planned, report)
            observers: list[execution.Observer] = [tracker, watch]
            records = execution.run(planned, search.root, runner, observers)
            metrics = experiment.metrics(records)
            if search.config.metric not in metrics:
                raise ConfigError(f"metric: {search.config.metric} is none of {', '.join(sorted(metrics))}")
            tracker.finish(metrics)
            status = "FINISHED"
        except execution.StageFailed as failure:
            status = "FAILED"
            raise UserError(f"{failure.name}: {failure.__cause__}") from None
        finally:
            tracker.close(status)
        # last: a trial that has reported this is never begun again, so all else must have been said
        value = metrics[search.config.metric]
        last = search.config.early_stop.max_steps + 1 if search.config.early_stop else max(watch.seen, 1)
        report({"score": value, "step": last, "value": value, trials.LAID: json.dumps(laid)})


class _Watch:
    """Reports what a training logs, for a scheduler that stops early, or with its states, for a population."""

    def __init__(self, search: Search, planned: Sequence[dag.Planned], report: trials.Report):
        self._search, self._report, self.seen, self._next = search, report, 0, 0.0
        self._folder: Path | None = None
        watched = search.config.early_stop or search.config.population
        if watched is not None:
            stage, _, self._column = watched.watch.rpartition("/")
            paths = [p.path for p in planned if p.stage.name == stage]
            if not paths:
                raise ConfigError(f"watch: there is no stage {stage}")
            self._folder = paths[0]

    def changed(self, planned: dag.Planned, state: str, record: Mapping[str, Any] | None) -> None:
        del planned, state, record

    def tick(self) -> None:
        file = self._folder / "metrics.jsonl" if self._folder is not None else None
        if file is None or time.monotonic() < self._next or not file.exists():
            return
        self._next = time.monotonic() + (0.5 if self._search.config.early_stop else 0.05)
        lines = [line for line in file.read_text("utf-8").splitlines() if line.endswith("}")]
        for row in map(json.loads, lines):
            if row["step"] <= self.seen or self._column not in row:
                continue
            state = None
            if self._search.config.population:
                state = self._keep(row["step"])
                if state is None:
                    continue  # not saved yet, or dropped already
            self.seen = row["step"]
            self._report({"score": row[self._column], "step": row["step"]}, state)

    def _keep(self, step: int) -> str | None:
        """Keep a state of the training, whatever becomes of it; where it is, below the root."""
        assert self._folder is not None
        state = self._folder / "state" / f"step-{step:08d}"
        kept = self._search.folder / "states" / f"{self._folder.name}@{step}"
        if not kept.exists():
            temporary = kept.with_name(f"tmp-{kept.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                shutil.copytree(state, temporary)
            except (OSError, shutil.Error):
                return None
            os.replace(temporary, kept)
            if store := mirror.of(self._search.root):
                store.push(kept)
        return str(kept.relative_to(self._search.root))


def _rows(found: Sequence[tuple[dict[str, Any], dict[str, float] | str]], metric: str) -> list[dict[str, Any]]:
    rows = []
    for number, (values, result) in enumerate(found):
        row: dict[str, Any] = {"trial": number, "values": values, "metric": metric, "value": None, "error": ""}
        if isinstance(result, str):
            row |= {"state": "failed", "error": result}
        elif "value" in result:
            row |= {"state": "ended", "value": result["value"], "seconds": round(result.get("time_total_s", 0), 1)}
        else:
            row |= {"state": "stopped early", "step": result.get("step", 0)}
        rows.append(row)
    return rows


def _write(search: Search, folder: Path, rows: list[dict[str, Any]], best: dict[str, Any]) -> dict[str, Path]:
    """The best as a configuration, all trials as a table, a figure and a page."""
    from sslscale.report import page
    from sslscale.report.figures import parallel_coordinates

    keys = list(search.config.space)
    files = {name: folder / name for name in ("best.yaml", "trials.csv", "trials.json", "parallel.png", "report.html")}
    document = yaml_document.read(experiment.find(search.source), search.words(best["values"]))
    head = (
        f"# The best of {len(rows)} trials of {search.source}: {search.config.metric} {best['value']:.4f} with "
        f"{', '.join(f'{k}={_short(v)}' for k, v in best['values'].items())}\n"
    )
    files["best.yaml"].write_text(head + yaml.safe_dump(document.data, sort_keys=False), "utf-8")
    write_json(files["trials.json"], rows)
    with open(files["trials.csv"], "w", newline="", encoding="utf-8") as text:
        table = csv.writer(text)
        table.writerow(["trial", *keys, search.config.metric, "state"])
        table.writerows([r["trial"], *(r["values"].get(k) for k in keys), r["value"], r["state"]] for r in rows)
    done = [row for row in rows if row["value"] is not None]
    logarithmic = {key for key, dimension in search.config.space.items() if dimension.loguniform is not None}
    columns = {
        **{key: [r["values"][key] for r in done] for key in keys},
        search.config.metric: [r["value"] for r in done],
    }
    parallel_coordinates(files["parallel.png"], columns, logarithmic)
    order = sorted(
        rows, key=lambda r: (r["value"] is None, -(r["value"] or 0) * (1 if search.config.mode == "max" else -1))
    )
    cells = [
        [
            r["trial"],
            *(_short(r["values"].get(k)) for k in keys),
            "" if r["value"] is None else f"{r['value']:.4f}",
            r["state"] + (f": {r['error']}" if r["error"] else ""),
        ]
        for r in order
    ]
    command = f"sslscale run {files['best.yaml']} --root {mirror.shown(search.root)}"
    parts = {
        "Trials": [page.table(["trial", *keys, search.config.metric, "state"], cells)],
        "Values and what came of them": [page.picture(files["parallel.png"], "each line is a trial", wide=True)],
        "Going on": [page.table(["the best trial's stages are kept and will be found by"], [[command]])],
    }
    files["report.html"].write_text(page.page(f"Tuning of {search.source}", parts), "utf-8")
    return files


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
