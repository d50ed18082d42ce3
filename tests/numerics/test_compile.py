"""`compile: true` makes one or two graphs of a step and never recompiles: no graph holds a number of the step."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests import runs
from tests.configurations import CONFIGS


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Of every method the graphs after each step, and what is not as without compiling."""
    words = [sys.executable, "-m", "tests.numerics.compiled"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=runs.ROOT, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_is_compiled_once_and_gives_the_same(found: dict[str, Any], name: str) -> None:
    graphs = found[name]["graphs"]
    assert 1 <= graphs[-1] <= 2 and graphs[-1] == graphs[3], graphs
    assert not found[name]["differs"]
