"""What a terminal of 80 x 24 shows of a run and of a search."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sslscale import experiment
from sslscale.cli.progress import Progress
from sslscale.cli.trial_progress import TrialProgress
from sslscale.cli.units import show_clock, show_metric
from sslscale.graph import dag


def lines(console: Console, what: object) -> list[str]:
    """What `what` looks like on a terminal, without colours."""
    plain = Console(file=io.StringIO(), width=console.width, height=console.height)
    plain.print(what)
    return plain.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=True)


def test_the_running_stage_comes_first_with_share_speed_and_time_left(
    tmp_path: Path, terminal: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = experiment.over_seeds("configs/noisy_student/digits.yaml", [], [0, 1])
    planned = dag.plan(loaded.targets, tmp_path)
    assert len(planned) > 24
    progress = Progress(planned, terminal, tmp_path)
    now = [1000.0]
    monkeypatch.setattr("sslscale.cli.progress.time.monotonic", lambda: now[0])
    try:
        first = planned[0]
        progress.changed(first, "running", None)
        progress.changed(first, "ran", {"seconds": 75.2, "fields": {"metrics": {"images": 1234, "accuracy": 0.9123}}})
        running = planned[7]
        progress.changed(running, "running", None)
        running.path.mkdir(parents=True)
        for done in (100, 250):
            (running.path / "progress.json").write_text(
                json.dumps({"done": done, "total": 1000, "rate": 1204.4, "loss": 0.48})
            )
            progress._window()
            now[0] += 30.0
        shown = lines(terminal, progress._window())
    finally:
        progress.close()
    assert len(shown) <= 24 and all(len(line) <= 80 for line in shown)
    head = shown[1].split()
    assert head[1] == running.stage.name
    assert "25 %" in shown[1] and "1,204 images/s" in shown[1] and "loss 0.480" in shown[1]
    assert "5:00 left" in shown[1]  # 150 in 60 s, 750 to go
    assert shown[2].startswith("✓") and "1:15" in shown[2] and "images 1,234  accuracy 91.2" in shown[2]
    assert f"and {len(planned) - 21} more" in shown[-1]
    assert len(lines(terminal, progress._window())) > 24  # at the end all of them


def test_trials_are_shown_while_they_run(terminal: Console) -> None:
    progress = TrialProgress(terminal, 3, "student_1/val_accuracy")
    progress.changed("a", "running", {"student.optim.lr": 0.05}, {})
    progress.changed("b", "running", {"student.optim.lr": 0.1}, {"score": 0.7, "step": 1200})
    progress.changed("a", "ended", {"student.optim.lr": 0.05}, {"value": 0.9123, "step": 3})
    head, one, other = lines(terminal, progress._table())
    assert "1 of 3 trials" in head and "val_accuracy" in head
    assert one.startswith("running, step 1,200") and "0.7000" in one and "lr 0.1" in one
    assert other.startswith("ended") and "0.9123" in other and "lr 0.05" in other


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("test_accuracy", 0.9712, "test accuracy 97.1 %"),
        ("images_per_s", 12345.6, "12,346 images/s"),
        ("images", 1234567, "images 1,234,567"),
        ("loss", 0.53043, "loss 0.5304"),
    ],
)
def test_metrics_are_written_as_people_write_them(name: str, value: float, shown: str) -> None:
    assert show_metric(name, value) == shown


def test_a_clock_shows_hours_where_there_are_some() -> None:
    assert [show_clock(s) for s in (4.6, 75, 7213)] == ["0:05", "1:15", "2:00:13"]
