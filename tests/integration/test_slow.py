"""The bars that take minutes: `pytest -m slow`. Each runs a benchmark script and reads its JSON line."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def benchmark(script: str, *words: str | Path) -> Any:
    command = [sys.executable, str(runs.ROOT / "tests" / "benchmarks" / script), *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=runs.ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_last_student_beats_the_teacher_on_digits(tmp_path: Path) -> None:
    found = benchmark(
        "noisy_student.py", "configs/noisy_student/digits.yaml", "--seeds", "0,1,2,3,4", "--root", tmp_path
    )
    assert statistics.mean(found["gain"]) >= 0.007
    assert sum(gain > 0 for gain in found["gain"]) >= 4


@pytest.mark.parametrize("balance", ["paper", "code"])
def test_selecting_from_ten_million_rows(balance: str) -> None:
    found = benchmark("select_rows.py", "--rows", "10000000", "--balance", balance)
    assert found["peak_mib"] < 1536


def test_scoring_costs_little_more_than_the_forward_pass(tmp_path: Path) -> None:
    """On 32 x 32 photographs made of scikit-learn's two; a real data set's figure stands in the README."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng, photographs = np.random.default_rng(0), load_sample_images().images
    for number in range(12_000):
        image = photographs[number % 2]
        y, x = rng.integers(0, 390), rng.integers(0, 600)
        path = tmp_path / "images" / str(number % 10) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[y : y + 32, x : x + 32]).save(path, quality=90)
    runs.sslscale("data", "pack", tmp_path / "images", tmp_path / "shards", "--labels-per-class", "10")
    found = benchmark("scoring.py", tmp_path / "shards", "--repeats", "5")
    assert found["ratio"] >= 0.9


def test_fixmatch_beats_labels_alone_on_digits() -> None:
    methods = "supervised,fixmatch,mixmatch,remixmatch,freematch"
    found = benchmark("semi_methods.py", "--methods", methods, "--seeds", "0,1", "--data", "data/cifar10")
    means = {method: statistics.mean(rows["test_accuracy"]) for method, rows in found.items()}
    assert all(mean > means["supervised"] + 0.03 for method, mean in means.items() if method != "supervised")
