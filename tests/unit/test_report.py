"""Figures, tables and pages of results at their edges: none or all right, one class, one image, any name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from sslscale.evaluate.classify import measure, wilson
from sslscale.graph.artifacts import Report, Selection
from sslscale.graph.context import RunContext
from sslscale.report import figures, page
from sslscale.stages.comparison import ComparisonConfig, comparison
from sslscale.stages.summary import SummaryConfig, summary
from sslscale.storage.jsonio import write_json

Context = Callable[..., RunContext]
NAMES = ("<script>alert(1)<", "$x_{", "a&b\"'", "tiếng Việt", "", "_under", "%s {0}", "x" * 200)


@pytest.mark.parametrize("num", [1, 2, 20, 450, 10_000, 50_000])
@pytest.mark.parametrize("share", ["none", "one", "all but one", "all"])
def test_an_interval_holds_its_share_and_stays_in_0_to_1(num: int, share: str) -> None:
    right = {"none": 0, "one": 1, "all but one": num - 1, "all": num}[share]
    low, high = wilson(right / num, num)
    assert 0 <= low <= right / num <= high <= 1
    assert wilson(0.0, 0) == (0.0, 1.0)


def result(right: int, wrong: int, classes: Sequence[str] = ("a", "b")) -> dict:
    """What `measure` says of images of the first class, so many taken for the first and so many for the last one."""
    probs = torch.zeros(right + wrong, len(classes))
    probs[:right, 0] = 1
    probs[right:, -1] = 1
    return measure(probs, torch.zeros(right + wrong, dtype=torch.int64), tuple(classes))


CASES = {
    "all right": result(20, 0),
    "none right": result(0, 20),
    "one image": result(1, 0),
    "one class": result(5, 0, ("only",)),
    "a class without images": result(3, 2, ("a", "b", "c")),
    "names": result(3, 2, NAMES),
    "1,000 classes": result(30, 20, [f"class {n}" for n in range(1000)]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_report_of_a_noisy_student_run_is_made(case: str, context: Context) -> None:
    found = CASES[case]
    made = context("evaluate")
    write_json(made.path / "report.json", found)
    figures.confusion_figure(made.path, found["confusion"], found["classes"])
    count = len(found["classes"])
    chosen = context("select")
    stats = {
        "accounting": {"samples": 5, "used": 5},
        "classes": found["classes"],
        "before": [5] + [0] * (count - 1),
        "after": [5] + [0] * (count - 1),
        "histogram": [0] * 49 + [5],
        "threshold": 0.3,
    }
    write_json(chosen.path / "stats.json", stats)
    figures.selection_figures(chosen.path)
    report = Report(path=str(made.path))
    selection = Selection(path=str(chosen.path), num_samples=5, accounting={}, shard_size=5, seed=0)
    inputs = {"teacher_report": report, "student_1_report": report, "student_1_selection": selection}
    done = summary(context("summary"), SummaryConfig(names=("teacher", "student_1")), **inputs)
    text = (done.dir / "report.html").read_text("utf-8")
    assert done.metrics == {"gain": 0.0} and "<script" not in text and text.count("data:image/png") == 3
    for name in ("rounds.png",):
        assert (done.dir / name).stat().st_size > 5000
    if case == "names":
        assert "&lt;script&gt;alert(1)&lt;" in text


@pytest.mark.parametrize("case", ["all right", "none right", "one image", "one class"])
def test_a_comparison_is_made(case: str, context: Context) -> None:
    made = context("evaluate")
    write_json(made.path / "report.json", CASES[case])
    report = Report(path=str(made.path))
    config = ComparisonConfig(networks=("supervised", "fixmatch"), baseline="supervised")
    done = comparison(context("comparison"), config, supervised_test=report, fixmatch_test=report)
    assert set(done.metrics.values()) == {0.0} and (done.dir / "comparison.png").exists()
    shown = CASES[case]
    figures.layer_curve(done.dir, ["stem", "last"], [shown["accuracy"]] * 2, [shown["accuracy_interval"]] * 2)


def test_axis_labels_escape_dollars_but_not_powers_of_ten(tmp_path: Path) -> None:
    assert [figures._short(name) for name in ("$5", "a$b$", "plain", "y" * 30)] == [
        r"\$5",
        r"a\$b\$",
        "plain",
        "y" * 23 + "…",
    ]
    figure = figures.new_figure()
    axes = figure.add_subplot()
    axes.set_yscale("log")
    axes.set_xticks([0, 1], [figures._short("$x_{"), figures._short("$a$ and $b$")])
    figure.savefig(tmp_path / "x.png")
    assert axes.get_yticklabels()[0].get_parse_math() and axes.get_xticklabels()[0].get_text() == r"\$x_{"


def test_pages_escape_what_users_name(tmp_path: Path) -> None:
    figure = figures.new_figure()
    figure.add_subplot()
    figure.savefig(tmp_path / "x.png")
    for name in NAMES:
        whole = page.page(name, {name: [page.table([name], [[name]]), page.picture(tmp_path / "x.png", name)]})
        assert "<script" not in whole.replace("<style>", "")
    images = [torch.zeros(4, 4, 3).numpy()] * 4
    figures.gallery(tmp_path, images, [NAMES[0], NAMES[1], NAMES[0], NAMES[3]], 2)
    figures.cluster_sizes(tmp_path, [5])
