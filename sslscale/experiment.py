"""One YAML file as a graph: find its pipeline, build its config, plan it, run it."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sslscale import preflight
from sslscale.config import document as yaml_document
from sslscale.config import modules
from sslscale.config.build import build as build_config
from sslscale.errors import ConfigError, ResourceError, UserError
from sslscale.graph import collect, dag, execution
from sslscale.graph.context import RunContext
from sslscale.storage import sums
from sslscale.storage.jsonio import flat
from sslscale.tracking import outage
from sslscale.tracking.store import address

_PACKAGE = Path(__file__).parent


def share() -> Path:
    """The folder that holds pipelines/ and configs/: the checkout, or what the wheel carries."""
    packaged = _PACKAGE / "_share"
    return packaged if packaged.is_dir() else _PACKAGE.parent


@dataclass(frozen=True)
class Experiment:
    """A configuration and the graph that its pipeline builds of it."""

    source: str
    pipeline: str
    config: Any
    targets: Sequence[dag.Stage]
    overrides: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what the graph leaves out, and why

    @property
    def run_name(self) -> str:
        """What tells this run from others in the same root: its file and its overrides."""
        return " ".join([self.source, *sorted(self.overrides)])


def find(path: str) -> Path:
    """A file as named from here, or else the one that comes with sslscale under that name, if there is one."""
    file = Path(path)
    packaged = share() / path
    return packaged if not file.exists() and not file.is_absolute() and packaged.is_file() else file


def load(path: str, overrides: Sequence[str] = ()) -> Experiment:
    """Read a configuration (from here, or one that comes with sslscale) and build its graph; raises ConfigError."""
    file = find(path)
    return _build(yaml_document.read(file, overrides), path, file, tuple(overrides))


def of_values(source: str, values: Mapping[str, Any], overrides: Sequence[str]) -> Experiment:
    """The graph of a configuration that a command made, with a name for messages; raises ConfigError."""
    document = yaml_document.overlay(yaml_document.Document(source, dict(values)), overrides)
    return _build(document, source, Path(source), tuple(overrides))


def _build(document: yaml_document.Document, path: str, file: Path, overrides: tuple[str, ...]) -> Experiment:
    name = document.data.pop("pipeline", None)
    if not isinstance(name, str):
        raise ConfigError(f"{file}: pipeline: is required, the name of a pipeline ({', '.join(pipelines())})")
    module = _load_pipeline(name, file)
    settings = build_config(module.Config, document)
    if not 0 <= getattr(settings, "seed", 0) < 2**40:  # numpy's and torch's take no less, and rounds multiply it
        raise ConfigError(f"{file}: seed: must lie between 0 and 2^40")
    try:
        targets = module.build(settings)
        notes = tuple(module.notes(settings)) if hasattr(module, "notes") else ()
    except UserError:
        raise
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    return Experiment(path, name, settings, targets, overrides, notes)


def over_seeds(path: str, overrides: Sequence[str], seeds: Sequence[int]) -> Experiment:
    """One graph of the same configuration with several seeds; the stages of each are named seed_N/..."""
    loaded = [load(path, [*overrides, f"seed={seed}"]) for seed in seeds]
    targets = []
    for seed, one in zip(seeds, loaded, strict=True):
        renamed: dict[int, dag.Stage] = {}
        for node in dag.topological(one.targets):
            inputs = {name: renamed[id(parent)] for name, parent in node.inputs.items()}
            renamed[id(node)] = dataclasses.replace(node, name=f"seed_{seed}/{node.name}", inputs=inputs)
        targets += [renamed[id(target)] for target in one.targets]
    first = loaded[0]
    return dataclasses.replace(first, targets=targets, overrides=(*overrides, f"--seeds {','.join(map(str, seeds))}"))


def pipelines() -> list[str]:
    """Names of the pipelines that come with sslscale."""
    return sorted(path.stem for path in (share() / "pipelines").glob("*.py") if path.stem != "__init__")


def _load_pipeline(name: str, config: Path) -> ModuleType:
    if name.endswith(".py"):  # the user's own
        try:
            module = modules.load_file(modules.find_file(name, config.parent), "sslscale_pipeline")
        except ConfigError as error:
            raise ConfigError(f"{config}: pipeline: {error}") from error
    else:
        path = share() / "pipelines" / f"{name}.py"
        if not path.is_file():
            near = difflib.get_close_matches(name, pipelines(), 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{config}: pipeline: there is no pipeline {name!r}{hint}; pipelines: {', '.join(pipelines())}"
            )
        module = modules.load_file(path, "sslscale_pipeline")
    for needed in ("Config", "build"):
        if not hasattr(module, needed):
            raise ConfigError(f"{module.__file__}: a pipeline needs {needed}")
    return module


def metrics(records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of all reports, as GROUP/metric where GROUP/evaluate is the stage's name."""
    found = {}
    for name, record in records.items():
        if record["kind"] == "Report":
            group = name.rpartition("/")[0] or name
            found |= {f"{group}/{metric}": value for metric, value in record["fields"]["metrics"].items()}
    return found


def summary(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `run --json` prints: the stages and the numbers."""
    stages = [
        {
            "name": name,
            "key": record["key"],
            "state": record["state"],
            "seconds": record["seconds"],
            "metrics": record["fields"]["metrics"],
        }
        for name, record in records.items()
    ]
    return {"stages": stages, "metrics": metrics(records)}


def run(experiment: Experiment, root: Path, console: Any) -> dict[str, dict[str, Any]]:
    """Run what is missing and return the records by stage name, in the order of the graph.

    Nothing missing: reads the records and returns, without Ray, torch or MLflow. Raises UserError for what the user
    can mend, and execution.StageFailed for the rest.
    """
    planned = dag.plan(experiment.targets, root)
    cached = all(entry.state == "cached" for entry in planned)
    if cached and outage.pending(root, experiment.run_name, address(root)) is None:
        records = {p.stage.name: {**sums.read_record(p.path / dag.RECORD), "state": "cached"} for p in planned}
        with contextlib.suppress(OSError):
            collect.remember(root, experiment.run_name, planned)
        return records
    preflight.require(planned)
    for note in experiment.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    _check_root(root)
    collect.remember(root, experiment.run_name, planned)
    from sslscale.cli.progress import Progress
    from sslscale.tracking.tracker import Tracker

    logs = root / "logs" / time.strftime("%Y%m%d-%H%M%S")
    logs.mkdir(parents=True, exist_ok=True)
    with quiet(logs / "driver.log"):
        tracker = Tracker(
            root,
            planned,
            experiment.config,
            experiment.pipeline,
            experiment.source,
            experiment.overrides,
            run=experiment.run_name,
        )
        progress = Progress(planned, console, logs)
        status = "FAILED"
        try:
            if cached:
                records = execution.run(planned, root, execution.Inline(), [progress, tracker])
            else:
                records = _run_on_ray(planned, root, logs, [progress, tracker])
            records = {p.stage.name: records[p.stage.name] for p in planned}
            from sslscale.report.assemble import headline

            page = report(experiment, root, records)
            tracker.finish(metrics(records) | headline(planned))
            if page is not None:
                tracker.attach(page)
            status = "FINISHED"
        except execution.StageFailed as failure:
            cause = failure.__cause__
            if isinstance(cause, UserError):
                text = str(cause)
                text = text if text.startswith(failure.name) else f"{failure.name}: {text}"
                raise type(cause)(f"{text}\n(log: {logs / (failure.name.replace('/', '-') + '.log')})") from cause
            raise
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            progress.close()
            tracker.close(status)
            for warning in tracker.warnings:
                console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    return records


def _run_on_ray(
    planned: Sequence[dag.Planned], root: Path, logs: Path, observers: Sequence[execution.Observer]
) -> dict[str, dict[str, Any]]:
    from sslscale.cluster.runner import RayRunner

    runner = RayRunner(logs)
    try:
        runner.require_root(root.absolute())
        runner.require_gpus(entry.stage for entry in planned if entry.state == "run")
        return execution.run(planned, root, runner, observers)
    finally:
        runner.close()


def report(experiment: Experiment, root: Path, records: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """The report of a finished run, written unless it is there and newer than all that it tells of; None if it cannot
    be written, which is no reason for a run to fail."""
    from sslscale.report import assemble

    file = find(experiment.source)
    if file.is_file():
        name, text = file.name, file.read_text("utf-8", "replace")
    else:  # a command made it
        name, text = experiment.source.split()[0], json.dumps(flat(experiment.config), indent=1)
    planned = dag.plan(experiment.targets, root)
    return assemble.report(
        planned, records, root, name=name, pipeline=experiment.pipeline, config=text, overrides=experiment.overrides
    )


def replay(entry: dag.Planned, planned: Sequence[dag.Planned], root: Path, step: int) -> dict[str, Any]:
    """Batch `step` of a training again, alone, in this process (see train/replay.py)."""
    from sslscale.train import replay as again
    from sslscale.train.opening import open_training

    paths = {one.key: one.path.absolute() for one in planned}
    inputs: dict[str, Any] = {name: dag.load(paths[key]) for name, key in entry.input_keys.items()}
    resources = dataclasses.replace(entry.stage.resources, num_workers=1, min_workers=None)
    context = RunContext(
        path=entry.path.absolute(),
        root=root.absolute(),
        name=entry.stage.name,
        resources=resources,
        threads=os.cpu_count() or 1,
    )
    training = open_training(context, entry.stage.config, inputs)
    return again.replay(training, entry.path, step)


def _check_root(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.write_bytes(b"ok")
        probe.unlink()
    except OSError as error:
        raise ResourceError(f"{root}: cannot be written: {error.strerror}; choose another --root") from None


@contextlib.contextmanager
def quiet(file: Path) -> Iterator[None]:
    """Send what libraries write to stderr, also below Python, to `file`; ours keeps its own descriptor."""
    sys.stderr.flush()
    saved = os.dup(2)
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(target, 2)
        yield
    finally:
        try:
            sys.stderr.flush()
        finally:
            os.dup2(saved, 2)
        os.close(saved)
        os.close(target)
