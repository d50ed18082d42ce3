"""`sslscale compare`: what differs between runs, in their configuration and in their results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslscale.errors import ConfigError
from sslscale.report.results import Measure, Spread, difference, measures, spread_difference
from sslscale.storage.jsonio import flat

_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Side:
    """One of the things compared: its settings, and what was measured, of each seed."""

    name: str
    settings: Mapping[str, Any]
    found: Sequence[Sequence[Measure]]  # by seed


def compare(options: argparse.Namespace) -> int:
    """Print the settings that differ, and the accuracies with what is clear about their differences."""
    from rich.console import Console
    from rich.table import Table

    if not 2 <= len(options.sides) <= len(_LETTERS):
        raise ConfigError(
            f"compare: name 2 to {len(_LETTERS)} configurations, keys or stages, not {len(options.sides)}"
        )
    seeds = parse_seeds(options.seeds) if options.seeds else None
    sides = [_side(name, options.root, seeds) for name in options.sides]
    names = [f"{place}: {side.name}" for place, side in zip(_LETTERS, sides, strict=False)]
    differing = _differing(sides)
    rows = list(_rows(sides))
    if options.json:
        print(json.dumps({"settings": differing, "results": rows}))
        return 0
    console = Console()
    for name in names:
        console.print(name, highlight=False)
    settings = Table(box=None, pad_edge=False, header_style="bold", title="settings that differ", title_justify="left")
    for column in ("setting", *_LETTERS[: len(sides)]):
        settings.add_column(column)
    for key, values in differing.items():
        settings.add_row(key, *(_shown(value) for value in values))
    console.print(settings if differing else "no setting differs", markup=False)
    results = Table(box=None, pad_edge=False, header_style="bold", title="results", title_justify="left")
    for column in ("", "network", "measured by", "result, %", "difference from A"):
        results.add_column(column)
    for row in rows:
        results.add_row(row["side"], row["network"], row["measured by"], row["accuracy"], row["difference"])
    console.print(results if rows else "nothing was measured of them in this root yet: run them first", markup=False)
    return 0


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2` as numbers; raises ConfigError."""
    words = text.split(",")
    if not all(word.strip().isdigit() for word in words) or len(set(words)) < len(words):
        raise ConfigError(f"--seeds {text}: give different whole numbers, such as 0,1,2")
    return tuple(int(word) for word in words)


def _side(name: str, root: Path, seeds: Sequence[int] | None) -> Side:
    from sslscale import experiment
    from sslscale.graph import dag, lookup
    from sslscale.storage import sums

    if Path(name).suffix in (".yaml", ".yml"):
        found = []
        for seed in seeds or (None,):
            loaded = experiment.load(name, [] if seed is None else [f"seed={seed}"])
            planned = dag.plan(loaded.targets, root)
            folders = {entry.stage.name: entry.path for entry in planned if entry.state == "cached"}
            found.append(measures(folders))
        settings = {key: value for key, value in flat(experiment.load(name).config).items() if key != "seed"}
        return Side(name, settings, found)
    folder = lookup.find(root, name)
    record = sums.read_record(folder / dag.RECORD)
    return Side(f"{record['name']} {record['key']}", flat(record["config"]), [measures({record["name"]: folder})])


def _differing(sides: Sequence[Side]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for side in sides for key in side.settings)
    rows = {key: [side.settings.get(key) for side in sides] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _rows(sides: Sequence[Side]) -> list[dict[str, str]]:
    rows, first = [], _spreads(sides[0])
    fallback = {protocol: own for (_, protocol), own in first.items()}  # the last network of each protocol
    for letter, side in zip(_LETTERS, sides, strict=False):
        for (stage, protocol), own in _spreads(side).items():
            base = first.get((stage, protocol)) or fallback.get(protocol)
            rows.append(
                {
                    "side": letter,
                    "network": own.measures[0].name,
                    "measured by": protocol,
                    "accuracy": str(own),
                    "difference": "" if side is sides[0] or base is None else _gain(own, base),
                }
            )
    return rows


def _spreads(side: Side) -> dict[tuple[str, str], Spread]:
    """What every seed has measured, by stage and protocol."""
    seeds = [{(measure.stage, measure.protocol): measure for measure in found} for found in side.found]
    return {key: Spread(tuple(seed[key] for seed in seeds)) for key in seeds[0] if all(key in seed for seed in seeds)}


def _gain(own: Spread, base: Spread) -> str:
    if len(own.values) == 1 and len(base.values) == 1:
        return str(difference(own.measures[0], base.measures[0]))
    return str(spread_difference(own, base))


def _shown(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
