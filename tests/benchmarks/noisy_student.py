"""Noisy Student over several seeds: accuracy of the teacher and of each student, mean and spread.

    python tests/benchmarks/noisy_student.py configs/noisy_student/digits.yaml --seeds 0,1,2,3,4
    python tests/benchmarks/noisy_student.py configs/noisy_student/cifar10_cpu.yaml --seeds 0,1,2 \
        data.source=DIR/train data.test=DIR/test

Each seed is one `sslscale run` in a process of its own, imports and Ray included in the seconds. Further words are
overrides. `--json` ends with one line: {"teacher": [...], "student_1": [...], ..., "gain": [...], "seconds": [...]}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--root", default="runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args()
    found: dict[str, list[float]] = {}
    for seed in options.seeds.split(","):
        started = time.monotonic()
        command = [sys.executable, "-m", "sslscale", "run", options.config, f"seed={seed}", *options.overrides]
        done = subprocess.run(
            [*command, "--root", options.root, "--json"], stdout=subprocess.PIPE, text=True, check=True
        )
        result = json.loads(done.stdout.splitlines()[-1])
        fresh = all(stage["state"] == "ran" for stage in result["stages"])
        row = {
            name.removesuffix("/test_accuracy"): value
            for name, value in result["metrics"].items()
            if name.endswith("/test_accuracy")
        }
        students = [value for name, value in row.items() if name != "teacher"]
        row["gain"] = students[-1] - row["teacher"]
        row["seconds"] = time.monotonic() - started if fresh else float("nan")
        for name, value in row.items():
            found.setdefault(name, []).append(value)
        print(f"seed {seed}: " + "  ".join(f"{n} {v:.4f}" for n, v in row.items()), file=sys.stderr, flush=True)
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name:10} mean {statistics.mean(values):.4f}  std {spread:.4f}  of {len(values)} seeds")
    print(f"the last student is better than the teacher in {sum(g > 0 for g in found['gain'])} of {len(found['gain'])}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
