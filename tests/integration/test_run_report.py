"""The report of a run: one file, with real images and honest differences; a browser opens it without complaint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sslscale import experiment
from sslscale.graph import dag, execution
from sslscale.graph.execution import Inline
from sslscale.report.results import Measure, difference
from tests import runs
from tests.finished import Finished

CLUSTER = """
pipeline: cluster
data: {source: digits, labels_per_class: 5, test: 0.25}
pretrain:
  method: {name: simclr}
  model: {name: wrn_10_0.5}
  image: {size: 8}
  augment: {crop: resized, scale: [0.5, 1.0]}
  batch_size: 64
  num_steps: 4
kmeans: {k: 6}
"""


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The report of a run of `cluster`, and its root."""
    folder = tmp_path_factory.mktemp("clustered")
    config = runs.write(folder, CLUSTER, "<b>cluster & co.yaml")
    loaded = experiment.load(str(config))
    records = execution.run(dag.plan(loaded.targets, folder / "runs"), folder / "runs", Inline())
    page = experiment.report(loaded, folder / "runs", records)
    assert page is not None
    return page, folder / "runs"


def report_of(out: str) -> Path:
    return Path(re.findall(r"report: (.*\.html)", out)[-1])


def test_a_noisy_student_report_has_provenance_results_and_galleries(finished: Finished) -> None:
    page = report_of(finished.err).read_text("utf-8")
    assert 20_000 < len(page) < 5_000_000
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert titles[:6] == ["Results", "Run", "Data", "Training", "Pseudo-labels", "Mistakes"]
    for word in (
        "Most confident",
        "Least confident",
        "are wrong; the surest",
        "over teacher",
        "pipeline: noisy_student",
    ):
        assert word in page, word
    record = json.loads((finished.folder("teacher") / "record.json").read_text())
    assert record["key"] in page and record["created"] in page
    assert page.count("data:image/jpeg") > 100 and "http://" not in page and "https://" not in page


def test_the_terminal_shows_intervals_and_calls_no_noise_a_gain(finished: Finished) -> None:
    lines = [line for line in finished.err.splitlines() if "evaluate " in line and "%" in line]
    assert len(lines) == 2
    assert re.search(r"teacher evaluate +\d+\.\d\d %  \(\d+\.\d to \d+\.\d\)$", lines[0])
    assert re.search(r"\+?-?\d+\.\d ± \d+\.\d points(: no clear difference)? over teacher$", lines[1])


def test_a_map_and_clusters_of_real_images(clustered: tuple[Path, Path]) -> None:
    page = clustered[0].read_text("utf-8")
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert {"Data", "Training", "Features", "Clusters"} <= set(titles)
    assert "<b>cluster" not in page and "&lt;b&gt;cluster &amp; co.yaml" in page  # a file's name is no HTML
    values = json.loads(re.findall(r'id="map-values">(.*?)</script>', page, re.DOTALL)[0])
    assert len(values["points"]) == len(values["labels"]) > 40
    assert np.ptp(np.array(values["points"]), axis=0) == pytest.approx([1.0, 1.0], abs=1e-3)
    rows = (next(clustered[1].glob("artifacts/list_clusters/*/clusters.csv"))).read_text().splitlines()
    assert rows[0] == "split,key,cluster,class" and len(rows) == 1 + 1347
    assert len({row.split(",")[2] for row in rows[1:]}) == 6


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_draws_it_without_a_word_of_complaint(
    clustered: tuple[Path, Path], width: int, tmp_path: Path
) -> None:
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
    words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000", "--dump-dom"]
    done = subprocess.run([*words, f"file://{clustered[0]}"], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    count = re.findall(r'id="map-count">(\d+) images', done.stdout)
    assert count and int(count[0]) > 40


def measure(folder: Path, right: list[bool]) -> Measure:
    folder.mkdir()
    rows = np.zeros(len(right), [("label", "<i4"), ("predicted", "<i4"), ("confidence", "<f4")])
    rows["predicted"] = ~np.array(right)
    np.save(folder / "predictions.npy", rows)
    value = float(np.mean(right))
    return Measure("a/evaluate", "evaluate", value, value - 0.2, value + 0.2, len(right), folder)


def test_a_difference_is_judged_image_by_image(tmp_path: Path) -> None:
    """By hand: 6 of 20 images are gained and none lost: mean .3, s = sqrt(20/19 * .21), half = 1.96 s / sqrt(20)."""
    one = measure(tmp_path / "one", [True] * 16 + [False] * 4)
    other = measure(tmp_path / "other", [True] * 10 + [False] * 10)
    found = difference(one, other)
    assert found.value == pytest.approx(0.3) and found.paired
    assert found.half == pytest.approx(1.96 * (20 / 19 * 0.21) ** 0.5 / 20**0.5)
    assert found.clear and str(found) == "+30.0 ± 20.6 points"
    same = difference(one, measure(tmp_path / "same", [True] * 15 + [False] * 4 + [True]))
    assert not same.clear and str(same).endswith("no clear difference")
    (tmp_path / "other" / "predictions.npy").unlink()
    assert not difference(one, other).paired and difference(one, other).half == pytest.approx(0.2 * 2**0.5)
