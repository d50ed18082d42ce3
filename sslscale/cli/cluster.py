"""Runs as jobs of a cluster: `submit`, `jobs`, `stop`."""

from __future__ import annotations

import argparse
import json
import sys

from sslscale.cli.units import show_age


def submit(options: argparse.Namespace) -> int:
    from sslscale.cluster.jobs import Jobs, kept_back

    jobs = Jobs(options.address)
    job = jobs.submit(options.config, options.overrides, options.root)
    print(f"submitted {job}", flush=True)
    if kept := kept_back():
        print(f"not sent, being secret: {', '.join(kept)}; the cluster's nodes must set them themselves", flush=True)
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
        table.add_row(one.id, one.status.lower(), show_age(one.seconds or 0), one.command)
    Console().print(table)
    return 0


def stop(options: argparse.Namespace) -> int:
    from sslscale.cluster.jobs import Jobs

    found = Jobs(options.address).stop(options.job)
    print(f"{found.id} {found.status.lower()}")
    return 0 if found.status in ("STOPPED", "SUCCEEDED", "FAILED") else 1
