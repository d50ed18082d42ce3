"""What a root holds: `ls`, `gc`, `ui`."""

from __future__ import annotations

import argparse
import calendar
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from sslscale.cli.units import show_age, show_metric, show_size
from sslscale.errors import ConfigError
from sslscale.storage import mirror

DAMAGED = 3  # exit code of `verify`, as of all errors of data


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
    if options.sort:
        known = dict.fromkeys(name for row in rows for name in row["metrics"])
        rows = [row for row in rows if options.sort in row["metrics"]]
        if not rows:
            raise ConfigError(f"--sort {options.sort}: nothing in {options.root} has it; metrics: {', '.join(known)}")
        rows.sort(key=lambda row: -row["metrics"][options.sort])
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
        metrics = dict(row["metrics"])
        if options.sort:
            metrics = {options.sort: metrics[options.sort], **metrics}
        shown = "  ".join(show_metric(name, value) for name, value in list(metrics.items())[:2])
        shown = shown if row["state"] == "finished" else "unfinished"
        table.add_row(row["stage"], row["name"], row["key"], show_age(row["age_s"]), show_size(row["bytes"]), shown)
    Console().print(table)
    return 0


def collect_garbage(options: argparse.Namespace) -> int:
    from sslscale.graph import collect

    if not options.root.is_dir():
        raise ConfigError(f"{options.root}: there is no such root")
    removed = collect.collect(options.root, dry_run=options.dry_run)
    for path, size in removed:
        print(f"{path.parent.name}/{path.name}  {show_size(size)}")
    total = sum(size for _, size in removed)
    print(f"{'would remove' if options.dry_run else 'removed'} {len(removed)} artifacts, {show_size(total)}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Exit code 0 if all is whole or repaired, else DAMAGED."""
    from sslscale.graph import verify as whole

    if not options.root.is_dir():
        raise ConfigError(f"{options.root}: there is no such root")
    told = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if told:
            print(f"\r{done:,} of {total:,} artifacts", end="" if done < total else "\n", file=sys.stderr, flush=True)

    found = whole.verify(options.root, progress)
    print(
        f"{found.artifacts - found.unfinished:,} artifacts, {found.files:,} files, {show_size(found.bytes)} read again"
    )
    if found.unfinished:
        print(f"{found.unfinished:,} unfinished artifacts were passed over")
    for one in found.damage:
        print(f"damaged: {one.file}: {one.why}")
    for path, others in found.dependents.items():
        names = ", ".join(f"{other.parent.name}/{other.name}" for other in others[:5])
        more = f" and {len(others) - 5:,} more" if len(others) > 5 else ""
        print(f"{path.parent.name}/{path.name}: {f'{names}{more} came of it' if others else 'nothing came of it yet'}")
    if not found.damage:
        print("nothing is damaged")
        return 0
    if not options.repair:
        print("verify --repair removes the damaged artifacts; the same runs then make them, and nothing else, anew")
        return DAMAGED
    for path in whole.repair(options.root, found):
        print(f"removed {path.parent.name}/{path.name}: run its configuration again to make it")
    kept = [one.file for one in found.damage if one.artifact is None]
    if kept:
        print(f"{kept[0]}: the tracking store cannot be made anew; move it away, and new runs begin another")
    return DAMAGED if kept else 0


def ui(options: argparse.Namespace) -> int:
    from sslscale.tracking.store import pages, store

    require_port(options.port)
    uri = store(options.root)
    if uri.startswith("sqlite:") and not (options.root / "mlflow.db").exists():
        raise ConfigError(f"{options.root}: no run has been tracked there yet")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name, place in pages(options.root).items():
        print(f"{name}: http://127.0.0.1:{options.port}{place}")
    print(f"http://127.0.0.1:{options.port}  (a few seconds to start; stop with Ctrl-C)", flush=True)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # an argument, which all users see, would show a database's password
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1"]
    os.execv(sys.executable, [*command, "--port", str(options.port), "--workers", "1"])  # noqa: S606


def register(options: argparse.Namespace) -> int:
    """Register a checkpoint as the next version of a model."""
    from sslscale.cli.images import checkpoint_folder
    from sslscale.tracking.models import register

    version = register(options.root, checkpoint_folder(options), options.name, options.alias)
    alias = f"@{options.alias}" if options.alias else f"/{version}"
    print(f"registered {options.name}, version {version}: mlflow.pyfunc.load_model('models:/{options.name}{alias}')")
    return 0


def require_port(port: int) -> None:
    """Raise ConfigError for a port that cannot be listened on, before a server takes ten seconds to say so."""
    if not 0 < port < 65536:
        raise ConfigError(f"--port {port}: a port is a number from 1 to 65535")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"--port {port}: cannot be listened on ({error.strerror}); choose another") from None
