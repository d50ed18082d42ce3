"""How long the commands take that only look: help, a run with nothing missing, a plan, and what a plan refuses.

    python tests/benchmarks/answers.py [--repeats 5] [--json]

Each is a whole process, the interpreter's start included; seconds, the best of the repeats.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIGITS = "configs/noisy_student/digits.yaml"
SHORT = (
    "teacher.num_steps=20",
    "student.num_steps=20",
    "rounds=[{}]",
    "select.on_empty_class=warn",
    "select.threshold=0",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="How long the commands take that only look.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = ("--root", str(Path(name) / "runs"))
        commands = {
            "help": (0, ("--help",)),
            "a run with nothing missing": (0, ("run", DIGITS, *SHORT, *root)),
            "a plan": (0, ("plan", DIGITS, "seed=1", *root)),
            "a misspelt key": (2, ("run", DIGITS, "student.model.dropuot=0.1", *root)),
            "a network that timm does not know": (2, ("run", DIGITS, "teacher.model.name=timm:resnet51", *root)),
            "a batch larger than the data": (2, ("run", DIGITS, "teacher.batch_size=2000", *root)),
            "more workers than CPUs": (4, ("run", DIGITS, "resources.score.num_workers=1000", *root)),
            "a port that cannot be": (2, ("ui", "--port", "99999", *root)),
        }
        subprocess.run([sys.executable, "-m", "sslscale", "run", DIGITS, *SHORT, *root], cwd=ROOT, check=True)
        found = {}
        for what, (code, words) in commands.items():
            times = []
            for _ in range(options.repeats):
                started = time.perf_counter()
                done = subprocess.run([sys.executable, "-m", "sslscale", *words], cwd=ROOT, capture_output=True)
                times.append(time.perf_counter() - started)
                assert done.returncode == code, (what, done.returncode, done.stderr.decode())
            found[what] = min(times)
    if options.json:
        print(json.dumps(found))
        return
    for what, seconds in found.items():
        print(f"{what:36} {seconds:.2f} s")


if __name__ == "__main__":
    main()
