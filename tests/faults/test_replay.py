"""A training whose gradients are not finite stops, names its batch, and that batch can be run again alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sslscale.storage.jsonio import read_json
from tests import runs

WILD = runs.SHORT_CONFIG.replace("num_steps: 400", "num_steps: 40\n  optim: {lr: 1000000000.0, weight_decay: 1.0}")


@pytest.mark.slow
def test_the_batch_that_a_training_stopped_at_is_run_again_alone(tmp_path: Path) -> None:
    config = runs.write(tmp_path, WILD, "short.yaml")
    at = ("--root", tmp_path / "runs")
    _, err = runs.sslscale("run", config, *at, code=3)
    assert re.search(r"model: .*not finite at step (\d+) \(its batch: labeled digits/\d+", err)
    assert "`sslscale replay` runs that batch alone" in err
    (bad,) = (tmp_path / "runs").glob("artifacts/train/*/bad_batch.json")
    kept = read_json(bad)
    found = runs.result(runs.sslscale("replay", config, "model", *at, "--json")[0])
    assert found["step"] == kept["step"] and found["keys"] == kept["keys"] and len(found["keys"]["labeled"]) == 40
    assert found["gradients"] > 10 and found["not_finite"] and found["weights_of_step"] == kept["step"]
    out, _ = runs.sslscale("replay", config, "model", *at, "--step", "0", "train.optim.lr=0.1", "train.log_every=7")
    assert "batch 0 of model, with the weights after step 0" in out and "0 of" in out and "are not finite" in out
    _, err = runs.sslscale("replay", config, "teacher", *at, code=2)
    assert "'teacher' is none of its trainings: model" in err
    _, err = runs.sslscale("replay", config, "model", *at, "train.optim.lr=0.1", code=2)
    assert "no training stopped at a batch there; name one by --step" in err
