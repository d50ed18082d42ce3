"""The graphs in which networks teach networks, by the real command, in few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import runs


@pytest.mark.slow
def test_distillation_in_every_direction(tmp_path: Path) -> None:
    words = [f"{part}.num_steps=8" for part in ("large", "small", "distill")]
    words += ["large.model.name=wrn_10_0.5", "poor_share=0.3"]
    run = ("run", "configs/distill/digits.yaml", *words, "--root", tmp_path / "runs", "--json")
    found = runs.result(runs.sslscale(*run)[0])
    networks = {"large", "small", "student", "itself", "virtual", "reversed", "poor_teacher", "poor"}
    assert {f"{name}/test_accuracy" for name in networks} <= found["metrics"].keys()
    page = (runs.folder_of(tmp_path / "runs", found, "report") / "report.html").read_text()
    assert "poor_teacher" in page and "reversed" in page
    # offline: the teacher speaks once of each image, and is not loaded while the student learns
    found = runs.result(runs.sslscale(*run, "offline=true", "directions=[teacher]")[0])
    states = {name: s["state"] for name, s in runs.stages(found).items()}
    assert states["large"] == states["small"] == "cached" and states["student/logits"] == states["student"] == "ran"
    logits = np.load(next(runs.folder_of(tmp_path / "runs", found, "student/logits").glob("labeled/features-*.npy")))
    assert logits.shape[1] == 10


@pytest.mark.slow
def test_pre_training_and_self_training_side_by_side(tmp_path: Path) -> None:
    words = [f"{part}.num_steps=10" for part in ("pretrain", "supervised", "student")]
    words += ["label_fractions=[0.5]", "strengths=[{}]", "select.on_empty_class=warn"]
    words += [f"{part}.model.name=wrn_10_0.5" for part in ("pretrain", "supervised", "student")]
    run = ("run", "configs/pretrain_vs_selftrain/digits.yaml", *words, "--root", tmp_path / "runs", "--json")
    found = runs.result(runs.sslscale(*run)[0])
    for kind in ("random", "pretrained", "self_trained", "joint"):
        assert 0 <= found["metrics"][f"S1_50pct_{kind}/test_accuracy"] <= 1
    gain = found["metrics"]["S1_50pct_joint/test_accuracy"] - found["metrics"]["S1_50pct_random/test_accuracy"]
    assert found["metrics"]["report/S1_50pct_joint_test_gain"] == pytest.approx(gain)


def test_what_is_wrong_with_a_teacher_is_said_before_anything_runs(tmp_path: Path) -> None:
    _, err = runs.sslscale(
        "run", "configs/distill/digits.yaml", "distill.method={name: supervised}", "--root", tmp_path, code=2
    )
    assert "supervised has no teacher" in err
    _, err = runs.sslscale(
        "run", "configs/distill/digits.yaml", "distill.method={name: deit}", "--root", tmp_path / "r", code=2
    )
    assert "distill.model: wrn_10_0.25 needs distillation_token: true for deit" in err and "Traceback" not in err
