"""SimCLR -> ClusterFit -> fine-tuning over several seeds: what each network is worth, and what it gains.

python tests/benchmarks/representation.py configs/simclr_clusterfit/cifar10_cpu.yaml --seeds 0,1,2 \
    data.source=DIR/train data.test=DIR/test
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHOWN = (
    *("random/knn_accuracy", "pretrain/knn_accuracy", "clusterfit/knn_accuracy", "pretrain_2x/knn_accuracy"),
    *("distill/knn_accuracy", "random/linear_accuracy", "pretrain/linear_accuracy", "clusterfit/linear_accuracy"),
    *("pretrain_2x/linear_accuracy", "distill/linear_accuracy", "finetune/test_accuracy"),
    *("finetune_pretrain/test_accuracy", "finetune_scratch/test_accuracy", "report/clusterfit_linear_gain"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args()
    found: dict[str, list[float]] = {}
    for seed in options.seeds.split(","):
        command = [sys.executable, "-m", "sslscale", "run", options.config, *options.overrides, f"seed={seed}"]
        started = time.monotonic()
        done = subprocess.run([*command, "--root", str(options.root), "--json"], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)
        metrics = json.loads(done.stdout.splitlines()[-1])["metrics"]
        for name in SHOWN:
            if name in metrics:
                found.setdefault(name, []).append(metrics[name])
        found.setdefault("seconds", []).append(time.monotonic() - started)
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name:36} {statistics.mean(values):.4f} +- {spread:.4f}   {' '.join(f'{v:.4f}' for v in values)}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
