"""What each command does once its words are read: it calls the library, and says what came of it."""

from __future__ import annotations

import argparse
import calendar
import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

from sslscale.errors import ConfigError, ResourceError, UserError
from sslscale.settings.model import FILES
from sslscale.storage import mirror


def run(options: argparse.Namespace) -> int:
    from sslscale import experiment

    for word in options.overrides:
        if "=" not in word:
            raise ConfigError(f"{word!r} is not of the form key.path=value")
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
        "model": options.model,
        "data": {"source": options.shards},
        "protocols": [name.strip() for name in options.protocol.split(",")],
        "labels": shares,
        "split": options.split,
        "seeds": options.seeds,
    }
    return _perform(experiment.of_values(f"eval {options.model} {options.shards}", values, options.overrides), options)


def export(options: argparse.Namespace) -> int:
    from sslscale.train.export import export_backbone

    print(export_backbone(mirror.local(options.model, FILES), options.out))
    return 0


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
    for name, value in result["metrics"].items():
        if name.endswith(("accuracy", "gain")) and "top5" not in name:
            console.print(f"  {name:32} {value:.4f}", highlight=False)
    last = list(records.values())[-1]
    page = options.root / "artifacts" / last["stage"] / last["key"] / "report.html"
    if store := mirror.of(options.root.absolute()):
        store.pull(page.parent.absolute())
    if page.exists():
        console.print(f"report: {page}", highlight=False, soft_wrap=True)
    elif last["kind"] == "Checkpoint":
        console.print(f"model: {page.parent}", highlight=False, soft_wrap=True)
    out.flush()
    if options.json:
        print(json.dumps(result), flush=True)
    return 0


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
        name: ("?" if e.seconds is None else _age(e.seconds), "?" if e.bytes is None else _size(e.bytes))
        for name, e in found.items()
    }
    Console().print(plan_table(planned, costs))
    known = [e for e in found.values() if e.seconds is not None]
    print(
        f"{missing} to run, {len(planned) - missing} cached; {_age(sum(e.seconds or 0 for e in known))} one after "
        f"another and {_size(sum(e.bytes or 0 for e in known))} for {len(known)} of them"
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


def submit(options: argparse.Namespace) -> int:
    from sslscale.cluster.jobs import Jobs

    jobs = Jobs(options.address)
    job = jobs.submit(options.config, options.overrides, options.root)
    print(f"submitted {job}", flush=True)
    if not options.follow:
        print(f"sslscale stop {job} --address {options.address}  ends it; submitted again, it goes on")
        return 0
    try:
        for text in jobs.follow(job):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        print(f"\nno longer following; {job} goes on", file=sys.stderr)
        return 130
    found = jobs.info(job)
    print(f"{job} {found.status.lower()} after {found.seconds or 0:.0f} s", flush=True)
    return 0 if found.status == "SUCCEEDED" else (found.exit_code or 1)


def list_jobs(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from sslscale.cluster.jobs import Jobs

    found = Jobs(options.address).all()
    if options.json:
        for one in found:
            print(json.dumps(asdict(one)))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "status", "for", "command"):
        table.add_column(column, no_wrap=column != "command")
    for one in found:
        table.add_row(one.id, one.status.lower(), _age(one.seconds or 0), one.command)
    Console().print(table)
    return 0


def stop(options: argparse.Namespace) -> int:
    from sslscale.cluster.jobs import Jobs

    found = Jobs(options.address).stop(options.job)
    print(f"{found.id} {found.status.lower()}")
    return 0 if found.status in ("STOPPED", "SUCCEEDED", "FAILED") else 1


def _share(text: str | None) -> float | str | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


def pack(options: argparse.Namespace) -> int:
    from sslscale.settings.data import PackConfig

    try:
        config = PackConfig(
            source=options.source,
            labels=options.labels,
            labels_per_class=options.labels_per_class,
            keep_hidden_labels=options.keep_hidden_labels,
            val=_share(options.val),
            test=_share(options.test),
            shard_size=options.shard_size,
            resize=options.resize,
            on_bad_sample=options.on_bad_sample,
            seed=options.seed,
        )
    except ValueError as error:
        raise ConfigError("--" + str(error).replace("_", "-")) from None
    out = mirror.local(options.out, ["labeled/index.json"])
    if mirror.is_url(options.out):
        if (out / "labeled" / "index.json").exists():
            raise ConfigError(f"{options.out}: is there already; choose another address or remove it")
        shutil.rmtree(out)
        out = mirror.local(options.out, [])
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; choose another folder or remove it")
    from sslscale.data.pack import pack

    # a folder appears whole or not at all: it is written beside its place, and renamed when all of it is there
    place = out if mirror.is_url(options.out) else _beside(out)
    try:
        indexes = pack(config, place, threads=os.cpu_count() or 1, say=print)
        if place != out:
            os.rename(place, out)
    except OSError as error:
        raise ResourceError(f"{error.filename or out}: {error.strerror or error}; is {options.out} writable?") from None
    finally:
        if place != out:
            shutil.rmtree(place, ignore_errors=True)
    if (store := mirror.of(out.absolute())) is not None and mirror.is_url(options.out):
        store.push(out)
    for name, index in indexes.items():
        print(f"{name:10} {index.num_samples:>10,} images in {len(index.shards):,} shards")
    classes = next(iter(indexes.values())).classes
    shown = (
        f" ({', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''})" if classes else ": no image has a label"
    )
    print(f"{len(classes)} classes{shown}; wrote {options.out}")
    return 0


def _beside(out: Path) -> Path:
    """A folder of this process beside `out`; those that processes left which were killed are removed."""
    for left in out.absolute().parent.glob(f".{out.name}.packing-*"):
        owner = left.name.rpartition("-")[2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    place = out.absolute().with_name(f".{out.name}.packing-{os.getpid()}")
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error.strerror}") from None
    return place


def check(options: argparse.Namespace) -> int:
    from sslscale.data import sources
    from sslscale.data.check import check

    found = check(sources.here(options.shards), threads=os.cpu_count() or 1, say=print)
    if options.json:
        print(json.dumps(found))
    return 3 if found["problems"] else 0


def predict(options: argparse.Namespace) -> int:
    from sslscale.evaluate.predict import predict

    failed = 0
    for path, result in predict(
        mirror.local(options.model, FILES), options.paths, top=options.top, threads=os.cpu_count() or 1
    ):
        if isinstance(result, str):
            failed += 1
            print(f"error: {path}: {result}", file=sys.stderr)
        elif options.json:
            print(json.dumps({"path": str(path), "predictions": [{"class": c, "probability": p} for c, p in result]}))
        else:
            print(f"{path}  " + "  ".join(f"{name} {share:.4f}" for name, share in result))
    return 3 if failed else 0


def ui(options: argparse.Namespace) -> int:
    from sslscale.tracking import pages, store

    _require_port(options.port)
    uri = store(options.root)
    if uri.startswith("sqlite:") and not (options.root / "mlflow.db").exists():
        raise ConfigError(f"{options.root}: no run has been tracked there yet")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name, place in pages(options.root).items():
        print(f"{name}: http://127.0.0.1:{options.port}/#/experiments/{place}/runs")
    print(f"http://127.0.0.1:{options.port}  (a few seconds to start; stop with Ctrl-C)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    os.execv(sys.executable, [*command, "--port", str(options.port), "--workers", "1"])  # noqa: S606


def _require_port(port: int) -> None:
    """Raise ConfigError for a port that cannot be listened on, before a server takes ten seconds to say so."""
    if not 0 < port < 65536:
        raise ConfigError(f"--port {port}: a port is a number from 1 to 65535")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"--port {port}: cannot be listened on ({error.strerror}); choose another") from None


def _artifacts(root: Path) -> list[dict[str, Any]]:
    from sslscale.graph import collect, dag
    from sslscale.storage import sums

    if not root.is_dir():
        raise ConfigError(f"{root}: there is no such root; --root names the folder that runs were made in")
    rows = []
    store = mirror.of(root.absolute())
    sizes: dict[str, int] = {}
    for name, size in (store.sizes(root.absolute() / "artifacts") if store else {}).items():
        artifact = "/".join(name.split("/")[:2])
        sizes[artifact] = sizes.get(artifact, 0) + size
    for path in (root / "artifacts").glob("*/*"):
        try:
            record = sums.read_record(path / dag.RECORD)
            metrics, state = record["fields"]["metrics"], "finished"
            name = str(record["name"])
            made = calendar.timegm(time.strptime(record["created"], "%Y-%m-%dT%H:%M:%SZ"))
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not what a run wrote
            metrics, state, name, made = {}, "unfinished", "", path.stat().st_mtime
        rows.append(
            {
                "stage": path.parent.name,
                "name": name,
                "key": path.name,
                "state": state,
                "age_s": round(time.time() - made),
                "bytes": sizes.get(f"{path.parent.name}/{path.name}", 0) if store else collect.tree_bytes(path),
                "metrics": metrics,
            }
        )
    return sorted(rows, key=lambda row: row["age_s"])


def list_artifacts(options: argparse.Namespace) -> int:
    rows = _artifacts(options.root)
    if options.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "name", "key", "age", "size", "metrics"):
        table.add_column(column, justify="right" if column in ("age", "size") else "left", no_wrap=column != "metrics")
    for row in rows:
        shown = "  ".join(f"{name} {value:,.4g}" for name, value in list(row["metrics"].items())[:2])
        shown = shown if row["state"] == "finished" else "unfinished"
        table.add_row(row["stage"], row["name"], row["key"], _age(row["age_s"]), _size(row["bytes"]), shown)
    Console().print(table)
    return 0


def collect_garbage(options: argparse.Namespace) -> int:
    from sslscale.graph import collect

    if not options.root.is_dir():
        raise ConfigError(f"{options.root}: there is no such root")
    removed = collect.collect(options.root, dry_run=options.dry_run)
    for path, size in removed:
        print(f"{path.parent.name}/{path.name}  {_size(size)}")
    total = sum(size for _, size in removed)
    print(f"{'would remove' if options.dry_run else 'removed'} {len(removed)} artifacts, {_size(total)}")
    return 0


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
