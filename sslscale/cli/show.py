"""`sslscale show`: what a training would be shown, or a result with all that it came from, as a page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from sslscale.errors import ConfigError


def show(options: argparse.Namespace) -> int:
    """Write pictures of views, or the page of a result."""
    if Path(options.what).suffix in (".yaml", ".yml"):
        return _views(options) if options.views else _refuse(options.what)
    if options.views:
        raise ConfigError(f"--views: is for a configuration, which {options.what} is not")
    return _page(options)


def _refuse(config: str) -> int:
    raise ConfigError(f"{config}: add --views to see what its trainings are shown; its report is what a run ends with")


def _views(options: argparse.Namespace) -> int:
    from sslscale import experiment
    from sslscale.data.preview import first_batches
    from sslscale.graph import dag
    from sslscale.report.views import draw_views
    from sslscale.settings.train import TrainConfig

    loaded = experiment.load(options.what, options.overrides)
    source = loaded.config.data
    out = options.out or Path(f"{Path(options.what).stem}-views")
    shown: set[Any] = set()
    for node in dag.topological(loaded.targets):
        config = node.config
        if node.kind != "train" or not isinstance(config, TrainConfig):
            continue
        same = (config.method.name, config.image, config.augment, tuple(config.views.items()))
        if same in shown:
            continue
        shown.add(same)
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"{node.name.replace('/', '-')}.png"
        batches = first_batches(source, config, seed=options.seed, threads=os.cpu_count() or 1)
        draw_views(file, batches, config.image.mean, config.image.std)
        streams = "; ".join(f"{name}: {len(batch.views)} views" for name, batch in batches.items())
        print(f"{file}  ({streams}; a row an image)")
    if not shown:
        raise ConfigError(f"{options.what}: has no training")
    return 0


def _page(options: argparse.Namespace) -> int:
    from sslscale.graph import dag, lookup
    from sslscale.report import run as page
    from sslscale.storage import sums

    folder = lookup.find(options.root, options.what)
    keyed = {path.name: path for path in (options.root / "artifacts").glob("*/*")}
    nodes: dict[str, page.Node] = {}

    def visit(place: Path) -> None:
        record = sums.read_record(place / dag.RECORD)
        inputs = {name: keyed[key].absolute() for name, key in record["inputs"].items() if key in keyed}
        for path in inputs.values():
            if path.name not in nodes and (path / dag.RECORD).exists():
                visit(path)
        nodes[place.name] = page.Node(str(record["name"]), place.parent.name, place.absolute(), record, inputs)

    visit(folder.absolute())
    last = list(nodes.values())[-1]
    text = "\n".join(f"{name}: {node.record['config']}" for name, node in nodes.items())
    made = page.Run(f"{last.name} {folder.name}", last.kind, text, list(nodes.values()), page.command())
    print(page.write(made, options.out or options.root / "reports" / f"{folder.name}.html"))
    return 0
