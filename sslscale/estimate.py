"""What a plan will cost, told from what this root has measured: seconds and bytes of each stage that would run.

The nearest earlier stage of the same kind gives the rate; the amount of work and the number of workers scale it. A kind
that never ran here has no estimate: run it once with few steps, and there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslscale.graph import collect, dag
from sslscale.storage import sums
from sslscale.storage.jsonio import canonical

EFFICIENCY = 0.9  # of each worker beside the first; measured: 0.94 for DDP, 0.95 and more for scoring
_BY_IMAGES = {"score", "shard", "extract", "select"}


@dataclass(frozen=True)
class Estimate:
    """Of one stage; None is not known. `basis` is the key of the stage that was measured."""

    seconds: float | None
    bytes: int | None
    basis: str


def estimate(planned: Sequence[dag.Planned], root: Path) -> dict[str, Estimate]:
    """An estimate for each stage that the plan would run, by its name."""
    found: dict[str, Estimate] = {}
    records: dict[str, list[dict[str, Any]]] = {}
    for entry in planned:
        if entry.state == "cached":
            continue
        kind = entry.stage.kind
        if kind not in records:
            records[kind] = [r for r in dag.earlier(root, kind) if r.get("seconds")]
        identity = {"config": canonical(entry.stage.config), "inputs": entry.input_keys}
        near = min(records[kind], key=lambda r: len(dag.differences(r, identity)), default=None)
        if near is None:
            found[entry.stage.name] = Estimate(None, None, "")
            continue
        amount = _ratio(entry, near, root)
        workers = _speed(entry.stage.resources.num_workers) / _speed(near.get("num_workers", 1))
        size = collect.tree_bytes(root / "artifacts" / kind / near["key"])
        grows = amount if kind in _BY_IMAGES else 1.0  # a network is as large after more steps
        found[entry.stage.name] = Estimate(near["seconds"] * amount / workers, round(size * grows), near["key"])
    return found


def _speed(workers: int) -> float:
    return 1 + (workers - 1) * EFFICIENCY


def _images(root: Path, key: str | None) -> int | None:
    """How many images a packed data set has, if it is there."""
    file = root / "artifacts" / "pack" / str(key) / dag.RECORD
    return sum(sums.read_record(file)["fields"]["num_samples"].values()) if file.exists() else None


def _ratio(entry: dag.Planned, near: Mapping[str, Any], root: Path) -> float:
    """How much more work a stage is than a measured one of its kind."""
    mine, theirs = canonical(entry.stage.config), near["config"]
    new, old = _images(root, entry.input_keys.get("data")), _images(root, near["inputs"].get("data"))
    grows = new / old if new and old else 1.0
    if entry.stage.kind != "train":
        return grows
    done = near["fields"]["step"] * theirs["batch_size"]
    images = mine["num_steps"] * mine["batch_size"] if mine["num_steps"] is not None else None
    if images is None:  # passes; those of the measured one tell how many images a pass has
        images = mine["epochs"] * (done / theirs["epochs"] if theirs["epochs"] else new or done) * grows
    return images * _streams(mine) / max(done * _streams(theirs), 1)


def _streams(config: Mapping[str, Any]) -> float:
    """Images of all streams for one of the first."""
    return 1 + float(config["method"].get("unlabeled_ratio", 0))
