"""Going on from given weights on other images: kNN before, after by the recipe, and after without it.

    python tests/benchmarks/continue_training.py [--seeds 0,1,2] [--method simclr] [--steps 300] [--json]

A network is pre-trained on scikit-learn's digits. Its backbone alone, as public weights are, then goes on with inverted
digits turned by a quarter, labels unread, by configs/pretrain/continue_digits.yaml: heads first, then all at a tenth of
the learning rate. `plain` is the same at the full rate and without a phase for the heads; `same` goes on with the
digits that it knows. Figures are kNN accuracy of the held-out quarter, in per cent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from sslscale import experiment
from sslscale.data import ready_sets
from sslscale.graph import dag, execution
from sslscale.graph.execution import Inline

RECIPE = "configs/pretrain/continue_digits.yaml"


def shifted(folder: Path) -> None:
    """Inverted, turned digits as class folders."""
    import io

    for item in ready_sets.digits().items:
        place = folder / str(item.label)
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(item.read())) as image:
            ImageOps.invert(image.convert("L")).rotate(90).save(place / f"{item.key.rpartition('/')[2]}.png")


def run(root: Path, config: str, overrides: list[str]) -> dict[str, Any]:
    """The numbers of a run, and the folder of its last training."""
    loaded = experiment.load(config, overrides)
    planned = dag.plan(loaded.targets, root)
    records = execution.run(planned, root, Inline())
    trained = next(entry for entry in planned if entry.stage.name == "pretrain")
    return {**experiment.metrics(records), "folder": str(trained.path)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: dict[str, list[float]] = {name: [] for name in ("before", "recipe", "plain", "same before", "same")}
    with tempfile.TemporaryDirectory() as folder:
        root, images = Path(folder) / "runs", Path(folder) / "shifted"
        shifted(images)
        steps = f"pretrain.num_steps={options.steps}"
        for seed in map(int, options.seeds.split(",")):
            method = [f"pretrain.method={{name: {options.method}}}"] if options.method != "simclr" else []
            first = run(root, "configs/pretrain/simclr_digits.yaml", [steps, f"seed={seed}", *method])
            start = f"pretrain.init={{checkpoint: {first['folder']}}}"
            common = [start, steps, f"seed={seed}", *method]
            there = [*common, f"data={{source: {images}, test: 0.25}}"]
            recipe = run(root, RECIPE, there)
            plain = run(root, RECIPE, [*there, "pretrain.freeze_backbone_steps=0", "pretrain.optim.lr=0.1"])
            same = run(root, RECIPE, common)
            for name, found, key in (
                ("before", recipe, "pretrain/init/knn_accuracy"),
                ("recipe", recipe, "pretrain/knn_accuracy"),
                ("plain", plain, "pretrain/knn_accuracy"),
                ("same before", same, "pretrain/init/knn_accuracy"),
                ("same", same, "pretrain/knn_accuracy"),
            ):
                rows[name].append(100 * found[key])
            print(f"seed {seed}: " + "  ".join(f"{name} {values[-1]:.1f}" for name, values in rows.items()), flush=True)
    for name, values in rows.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name:12} {statistics.mean(values):5.1f} ± {spread:.1f}")
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
