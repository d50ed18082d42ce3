"""What a run would fail of is refused by the plan, at once: without torch, without Ray, and nothing made."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from sslscale import experiment, preflight
from sslscale.cli.main import main
from sslscale.errors import UserError
from sslscale.graph import dag
from tests import runs

DIGITS = "configs/noisy_student/digits.yaml"
SIMCLR = "configs/pretrain/simclr_digits.yaml"
UNLABELED = ("data.test=null", "data.labels_per_class=null")


@pytest.fixture(scope="module")
def flat(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All digits in one folder, without a label."""
    folder = tmp_path_factory.mktemp("flat")
    for path in image_folder.rglob("*.png"):
        shutil.copy(path, folder / f"{path.parent.name}_{path.name}")
    return folder


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (
            2,
            "teacher: model.name: timm has no 'resnet51'; did you mean 'resnet51q'",
            "teacher.model.name=timm:resnet51",
        ),
        (2, "the global batch of 500 labeled images is larger than the 100 there are", "teacher.batch_size=500"),
        (4, "1000 workers of 1 CPUs are more than the", "resources.score.num_workers=1000"),
        (4, "2 workers of 600 CPUs are more than the", "resources.score={num_workers: 2, cpus_per_worker: 600}"),
        (3, "teacher/evaluate: digits has no split 'test' to measure on; it has labeled, unlabeled", "data.test=null"),
        (3, "digits has no unlabelled images to pseudo-label", "data.labels_per_class=null"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_the_plan_refuses_runs_that_would_fail(
    command: str, code: int, message: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, DIGITS, words, "--root", str(tmp_path / "runs")]) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_preflight_imports_no_heavy_library() -> None:
    code = (
        "import sys; from sslscale.cli.main import main\n"
        f"assert main(['plan', {DIGITS!r}, 'teacher.model.name=timm:resnet51']) == 2\n"
        f"assert main(['plan', {DIGITS!r}, 'teacher.batch_size=500']) == 2\n"
        "heavy = {'ray', 'torch', 'mlflow', 'timm', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    runs.python(code)


def test_every_model_of_timm_is_known() -> None:
    import timm

    assert set(timm.list_models()) <= preflight.timm_models()
    assert "resnet51" not in preflight.timm_models()


def test_a_remote_cluster_is_not_checked_against_local_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    loaded = experiment.load(DIGITS, ["resources.score.num_workers=1000"])
    preflight.require(dag.plan(loaded.targets, tmp_path))


def test_a_folder_without_labels_leaves_the_probes_out(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [SIMCLR, f"data.source={flat}", *UNLABELED]
    assert main(["plan", *words, "--root", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"note: {flat} has no labels: the probes are left out" in out
    loaded = experiment.load(words[0], words[1:])
    assert [stage.name for stage in dag.topological(loaded.targets)] == ["data", "pretrain"]
    loaded = experiment.load("configs/simclr_clusterfit/digits.yaml", words[1:])
    names = [stage.name for stage in dag.topological(loaded.targets)]
    assert "clusterfit" in names and not any("probe" in name or "finetune" in name for name in names)


def test_methods_with_labels_are_refused_on_unlabelled_data(flat: Path, tmp_path: Path) -> None:
    for config in (DIGITS, "configs/semi_supervised/fixmatch_digits.yaml", "configs/distill/digits.yaml"):
        loaded = experiment.load(config, [f"data.source={flat}", *UNLABELED])
        with pytest.raises(UserError, match=r"has no labeled images, which supervised learns from; give class folders"):
            preflight.require(dag.plan(loaded.targets, tmp_path))


@pytest.mark.slow
def test_a_folder_without_labels_is_pre_trained_on(flat: Path, tmp_path: Path) -> None:
    words = (SIMCLR, f"data.source={flat}", *UNLABELED, "pretrain.num_steps=5", "pretrain.batch_size=32")
    out, err = runs.sslscale("run", *words, "--root", tmp_path / "runs", "--json")
    found = runs.result(out)
    assert [stage["name"] for stage in found["stages"]] == ["data", "pretrain"]
    assert "has no labels: the probes are left out" in err
    weights = runs.folder_of(tmp_path / "runs", found, "pretrain") / "model.safetensors"
    assert weights.stat().st_size > 10_000
    assert f"model: {weights.parent}" in err


@pytest.mark.parametrize("port", ["0", "70000", "taken"])
def test_a_port_that_cannot_be_listened_on_is_refused(
    port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1]) if port == "taken" else port
        assert main(["ui", "--root", str(tmp_path), "--port", port]) == 2
    assert f"--port {port}: " in capsys.readouterr().err


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    for words in (
        ["run", SIMCLR, f"data.source={long}", "--root", str(tmp_path)],
        ["data", "pack", long, str(tmp_path / "out")],
        ["data", "pack", "digits", str(tmp_path / long)],
        ["data", "check", long],
        ["run", long],
        ["predict", long, long],
        ["ls", "--root", long],
        ["eval", long, long],
        ["export", long, long],
    ):
        assert main(words) in (2, 3, 4), words
        err = capsys.readouterr().err
        assert "may be a defect" not in err and err.startswith("error: ") and err.count("\n") == 1, (words, err)
