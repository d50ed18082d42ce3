"""Pre-training end to end by the real command: what is learned without labels shows in the probes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import runs

FINETUNE = """
finetune:
  method: {name: supervised}
  model: {name: wrn_10_1}
  image: {size: 16, mean: [0.3, 0.3, 0.3], std: [0.37, 0.37, 0.37]}
  batch_size: 50
  num_steps: 150
  optim: {lr: 0.05}
"""


@pytest.mark.slow
def test_simclr_learns_digits_without_their_labels(tmp_path: Path) -> None:
    config = tmp_path / "simclr.yaml"
    config.write_text((runs.ROOT / "configs/pretrain/simclr_digits.yaml").read_text() + FINETUNE)
    out, _ = runs.sslscale("run", config, "pretrain.num_steps=150", "--root", tmp_path / "r", "--json")
    found = json.loads(out.splitlines()[-1])["metrics"]
    assert found["pretrain/knn_accuracy"] > found["random/knn_accuracy"] + 0.04
    assert found["pretrain/linear_accuracy"] > found["random/linear_accuracy"]
    assert found["finetune/test_accuracy"] > 0.9
    report = json.loads(next((tmp_path / "r/artifacts/probe").glob("*/report.json")).read_text())
    assert report["features"] == 64 and set(report["linear"]) >= {"accuracy", "ece", "confusion", "strength"}
    again, _ = runs.sslscale("run", config, "pretrain.num_steps=150", "--root", tmp_path / "r", "--json")
    assert {stage["state"] for stage in json.loads(again.splitlines()[-1])["stages"]} == {"cached"}
    model = next((tmp_path / "r/artifacts/initialize").iterdir())
    _, problem = runs.sslscale("predict", model, tmp_path, code=3)
    assert "a pre-trained backbone without a classifier" in problem


@pytest.mark.slow
def test_dinov2_run_draws_attention_maps(tmp_path: Path) -> None:
    config = runs.ROOT / "configs/pretrain/dinov2_cifar10_cpu.yaml"
    words = ["data.source=digits", "data.test=0.25", "pretrain.num_steps=20", "pretrain.log_every=10"]
    out, _ = runs.sslscale("run", config, *words, "--root", tmp_path / "r", "--json")
    line = json.loads(out.splitlines()[-1])
    assert {s["name"]: s["state"] for s in line["stages"]}["pretrain/attention"] == "ran"
    assert 0 < line["metrics"]["pretrain/knn_accuracy"] <= 1
    assert list((tmp_path / "r/artifacts/attention").glob("*/attention.png"))
    (log,) = (tmp_path / "r/artifacts/train").glob("*/metrics.jsonl")
    last = json.loads(log.read_text().splitlines()[-1])
    assert {"dino", "ibot", "koleo", "prototype_entropy", "embedding_std", "effective_rank"} <= set(last)
