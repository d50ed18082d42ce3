"""The select step over many synthetic score rows: seconds and peak memory.

python tests/benchmarks/select_rows.py --rows 10000000 [--classes 1000] [--balance paper] [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from sslscale.data.index import INDEX
from sslscale.graph.artifacts import Dataset, Scores
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.settings.pseudo import SelectConfig
from sslscale.stages.select import select

SHARD = 100_000
TOP = 10


def write(folder: Path, rows: int, classes: int) -> None:
    """Score tables as a teacher with a top-10 output would leave them."""
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(classes, 5.0))
    for number, start in enumerate(range(0, rows, SHARD)):
        count = min(SHARD, rows - start)
        top = np.clip(1 - rng.exponential(0.3, count), 0.05, 1).astype(np.float32)
        probs = np.repeat(((1 - top) / (TOP - 1))[:, None], TOP, 1).astype(np.float32)
        probs[:, 0] = top
        label = rng.choice(classes, count, p=share).astype(np.int32)
        ids = (label[:, None] + np.arange(TOP, dtype=np.int32)) % classes
        table = pa.table(
            {
                "key": pa.array([f"images/{start + i:010d}" for i in range(count)]),
                "status": pa.nulls(count, pa.string()),
                "label": pa.array(label),
                "confidence": pa.array(top),
                "entropy": pa.array(top),
                "classes": pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel().astype(np.int32)), TOP),
                "probs": pa.FixedSizeListArray.from_arrays(pa.array(probs.ravel()), TOP),
            }
        )
        parquet.write_table(table, folder / f"scores-{number:06d}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--balance", choices=("paper", "code", "none"), default="paper")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    scores = root / "scores"
    scores.mkdir()
    write(scores, options.rows, options.classes)
    (root / "unlabeled").mkdir()
    (root / "unlabeled" / INDEX).write_text("{}")  # its sum stands in the selection
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ctx = RunContext(path=root / "select", root=root, name="select", resources=Resources())
    ctx.path.mkdir()
    data = Dataset(path=str(root), num_samples={}, classes=tuple(f"c{i}" for i in range(options.classes)))
    started = time.perf_counter()
    made = select(
        ctx,
        SelectConfig(balance=options.balance),
        scores=Scores(path=str(scores), num_samples=options.rows),
        data=data,
    )
    result = {
        "rows": options.rows,
        "seconds": time.perf_counter() - started,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_before_mib": before,
        "selected": made.num_samples,
    }
    for name, value in result.items():
        print(f"{name:16} {value:,.1f}")
    if options.json:
        print(json.dumps(result))
    shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
