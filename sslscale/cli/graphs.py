"""Run and plan graphs: `run`, `plan`, `eval`, `suggest`, `replay`, `tune`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sslscale.cli.units import show_age, show_size
from sslscale.errors import ConfigError, UserError
from sslscale.storage import mirror
from sslscale.storage.jsonio import write_bytes


def run(options: argparse.Namespace) -> int:
    from sslscale import experiment

    for word in options.overrides:
        if "=" not in word:
            raise ConfigError(f"{word!r} is not of the form key.path=value")
    if options.seeds:
        from sslscale.cli.compare import parse_seeds

        seeds = parse_seeds(options.seeds)
        return _perform(experiment.over_seeds(options.config, options.overrides, seeds), options)
    return _perform(experiment.load(options.config, options.overrides), options)


def evaluate(options: argparse.Namespace) -> int:
    from sslscale import experiment

    shares = []
    for word in options.labels.split(","):
        number, percent = word.strip().removesuffix("%"), word.strip().endswith("%")
        try:
            shares.append(float(number) / (100 if percent else 1))
        except ValueError:
            raise ConfigError(f"--labels: {word!r} is not a share such as 1% or 0.01") from None
    values = {
        "pipeline": "evaluate",
        "model": _checkpoint(options),
        "data": {"source": options.shards},
        "protocols": [name.strip() for name in options.protocol.split(",")],
        "labels": shares,
        "split": options.split,
        "seeds": options.seeds,
    }
    return _perform(experiment.of_values(f"eval {options.model} {options.shards}", values, options.overrides), options)


def suggest(options: argparse.Namespace) -> int:
    """Choose the images to label next, and copy the list and the page to where they are wanted."""
    from sslscale import experiment

    out: Path = options.out
    if out.suffix != ".csv":
        raise ConfigError(f"--out {out}: name a .csv file")
    values = {
        "pipeline": "suggest",
        "model": _checkpoint(options),
        "data": {"source": options.shards},
        "suggest": {"number": options.number, "by": options.by, "pool": max(options.pool, options.number)},
        "seed": options.seed,
    }
    loaded = experiment.of_values(f"suggest {options.model} {options.shards}", values, options.overrides)
    code = _perform(loaded, options)
    if options.plan or code:
        return code
    from sslscale.graph import dag

    folder = next(entry.path for entry in dag.plan(loaded.targets, options.root) if entry.stage.name == "suggest")
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, place in (("suggestions.csv", out), ("suggestions.html", out.with_suffix(".html"))):
        write_bytes(place, (folder / name).read_bytes())
    print(f"{out}: write a class into its column `label`; {out.with_suffix('.html')} shows the images", file=sys.stderr)
    print(f"then: sslscale data label {options.shards} {out} NEW_SHARDS", file=sys.stderr)
    return 0


def _checkpoint(options: argparse.Namespace) -> str:
    """The folder of a checkpoint that is named by its key, its stage, or as the latest; others as they are."""
    from sslscale.graph.lookup import find_checkpoint

    if mirror.is_url(options.model) or Path(options.model).exists() or "/" in options.model:
        return options.model
    return str(find_checkpoint(options.root, options.model))


def _perform(loaded: Any, options: argparse.Namespace) -> int:
    """Plan or run a graph, and say what came of it."""
    from sslscale import experiment
    from sslscale.graph import execution

    if options.plan or getattr(options, "estimate", False):
        return _plan(loaded, options)
    # our own output keeps its descriptor: libraries' stderr goes to a log while the graph runs
    from rich.console import Console

    out = os.fdopen(os.dup(2 if options.json else 1), "w")
    console = Console(file=out)
    started = time.monotonic()
    try:
        records = experiment.run(loaded, options.root, console)
    except KeyboardInterrupt:
        console.print(_kept(loaded, options.root), highlight=False, soft_wrap=True)
        raise
    except execution.StageFailed as failure:
        if options.debug:
            raise
        cause = failure.__cause__
        reason = str(cause).strip().splitlines()[-1:] or [type(cause).__name__]
        logs = sorted((options.root / "logs").glob("*/" + failure.name.replace("/", "-") + ".log"))
        raise UserError(
            f"{failure.name} failed: {reason[0]}\n"
            f"log: {logs[-1] if logs else options.root / 'logs'}\nthe same command goes on where it stopped"
        ) from cause
    result = experiment.summary(records)
    ran = sum(stage["state"] == "ran" for stage in result["stages"])
    console.print(
        f"{ran} of {len(records)} stages ran, {len(records) - ran} were there, in {time.monotonic() - started:.1f} s",
        highlight=False,
    )
    for name, record in records.items():
        if record["kind"] == "Selection":
            console.print(f"  {name:32} {_accounting(record['fields'])}", highlight=False, soft_wrap=True)
    _print_results(records, options, console)
    trained = [record for record in records.values() if record["stage"] == "train"]
    if trained:
        folder = options.root / "artifacts" / "train" / trained[-1]["key"]
        console.print(f"model: {folder}", highlight=False, soft_wrap=True)
    page = experiment.report(loaded, options.root, records)
    console.print(f"report: {page or 'could not be written'}", highlight=False, soft_wrap=True)
    out.flush()
    if options.json:
        print(json.dumps(result), flush=True)
    return 0


def _kept(loaded: Any, root: Path) -> str:
    """What there is of a run that was stopped."""
    from sslscale.graph import dag

    planned = dag.plan(loaded.targets, root)
    finished = sum(entry.state == "cached" for entry in planned)
    text = f"kept: {finished} of {len(planned)} stages"
    for entry in planned:
        states = sorted((entry.path / "state").glob("step-*")) if entry.state == "run" else []
        if states:
            text += f", and {entry.stage.name} up to step {int(states[-1].name.removeprefix('step-')):,}"
    return text


def _print_results(records: dict[str, Any], options: argparse.Namespace, console: Any) -> None:
    """Accuracies with their intervals, and what each gains on the first of its kind."""
    from sslscale.report.results import baselines, difference, measures, seeds_of, spread_difference

    folders = {
        name: options.root / "artifacts" / record["stage"] / record["key"]
        for name, record in records.items()
        if record["kind"] == "Report"
    }
    found = measures(folders)
    together = seeds_of(found)
    if together:
        first: dict[str, tuple[str, Any]] = {}
        for (name, protocol), own in together.items():
            base = first.setdefault(protocol, (name, own))
            gain = "" if base[1] is own else f"  {spread_difference(own, base[1])} over {base[0]}"
            console.print(f"  {f'{name} {protocol}':32} {own}{gain}", highlight=False, soft_wrap=True)
        return
    for measure, base in baselines(found):
        label = f"{measure.name} {measure.protocol}"
        interval = f"{100 * measure.low:.1f} to {100 * measure.high:.1f}"
        gain = "" if base is None else f"  {difference(measure, base)} over {base.name}"
        console.print(f"  {label:32} {100 * measure.value:6.2f} %  ({interval}){gain}", highlight=False, soft_wrap=True)


def _accounting(fields: dict[str, Any]) -> str:
    """Where every image went, in one line."""
    counts = dict(fields["accounting"])
    total = counts.pop("samples")
    parts = " + ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items())
    return f"{total:,} images = {parts}; {fields['num_samples']:,} with repeats"


def _plan(loaded: Any, options: argparse.Namespace) -> int:
    from sslscale import preflight
    from sslscale.graph import dag

    planned = dag.plan(loaded.targets, options.root)
    preflight.require(planned)
    found = {}
    if getattr(options, "estimate", False):
        from sslscale.estimate import estimate

        found = estimate(planned, options.root)
    if options.json:
        stages = [
            {"name": p.stage.name, "key": p.key, "state": p.state, "why": p.why, "inputs": dict(p.input_keys)}
            | ({"seconds": e.seconds, "bytes": e.bytes} if (e := found.get(p.stage.name)) else {})
            for p in planned
        ]
        print(json.dumps({"stages": stages, "notes": list(loaded.notes)}))
        return 0
    from rich.console import Console

    from sslscale.cli.progress import plan_table

    for note in loaded.notes:
        Console().print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    missing = sum(p.state == "run" for p in planned)
    if not getattr(options, "estimate", False):
        Console().print(plan_table(planned))
        print(f"{missing} to run, {len(planned) - missing} cached")
        return 0
    costs = {
        name: ("?" if e.seconds is None else show_age(e.seconds), "?" if e.bytes is None else show_size(e.bytes))
        for name, e in found.items()
    }
    Console().print(plan_table(planned, costs))
    known = [e for e in found.values() if e.seconds is not None]
    print(
        f"{missing} to run, {len(planned) - missing} cached; {show_age(sum(e.seconds or 0 for e in known))} one after "
        f"another and {show_size(sum(e.bytes or 0 for e in known))} for {len(known)} of them"
    )
    if len(known) < missing:
        print("? has no earlier stage of its kind in this root to go by: run it once with few steps")
    return 0


def replay(options: argparse.Namespace) -> int:
    """One batch of a training again."""
    from sslscale import experiment
    from sslscale.graph import dag
    from sslscale.storage.jsonio import read_json
    from sslscale.train.checkpoint import BAD_BATCH

    loaded = experiment.load(options.config, options.overrides)
    planned = dag.plan(loaded.targets, options.root)
    trainings = {entry.stage.name: entry for entry in planned if entry.stage.kind == "train"}
    entry = trainings.get(options.stage)
    if entry is None:
        raise ConfigError(f"{options.config}: {options.stage!r} is none of its trainings: {', '.join(trainings)}")
    step = options.step
    if step is None:
        try:
            step = int(read_json(entry.path / BAD_BATCH)["step"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{entry.path}: no training stopped at a batch there; name one by --step") from None
    found = experiment.replay(entry, planned, options.root, step)
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"batch {step} of {options.stage}, with the weights after step {found['weights_of_step']}")
    for name, keys in found["keys"].items():
        ranges = ", ".join(f"{low:.3g} to {high:.3g}" for low, high in found["views"][name])
        print(f"  {len(keys)} {name} images, values {ranges}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}")
    print("  " + "  ".join(f"{name} {value:g}" for name, value in found["parts"].items()))
    wrong = found["not_finite"]
    shown = f": {', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}" if wrong else ""
    print(f"  {len(wrong)} of {found['gradients']} gradients are not finite{shown}")
    return 0


def tune(options: argparse.Namespace) -> int:
    from rich.console import Console

    from sslscale import tuning

    search = tuning.read_space(options.space, options.config, options.overrides, options.root, options.samples)
    out = os.fdopen(os.dup(2 if options.json else 1), "w")
    console = Console(file=out)
    started = time.monotonic()
    found = tuning.tune(search, console)
    for row in found["trials"]:
        values = "  ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in row["values"].items()
        )
        shown = f"{row['value']:.4f}" if row["value"] is not None else row["state"]
        console.print(f"  {shown:14} {values} {row['error']}".rstrip(), highlight=False, soft_wrap=True)
    console.print(
        f"best {found['metric']} {found['best']['value']:.4f}, {time.monotonic() - started:.1f} s; go on with\n"
        f"sslscale run {found['config']} --root {mirror.shown(options.root)}\nreport: {found['report']}",
        highlight=False,
        soft_wrap=True,
    )
    out.flush()
    if options.json:
        print(json.dumps(found), flush=True)
    return 0
