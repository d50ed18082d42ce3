"""The report of a whole run, of any pipeline: one HTML file that holds everything itself."""

from __future__ import annotations

import logging
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sslscale.report import page
from sslscale.report.captions import retrieval_parts
from sslscale.report.lines import reading_parts
from sslscale.report.results import (
    Measure,
    Spread,
    baselines,
    difference,
    measures,
    seeds_of,
    spread_difference,
)
from sslscale.report.scenes import detection_parts
from sslscale.report.sound import sound_parts
from sslscale.storage import jsonio
from sslscale.storage.scratch import Local, scratch

log = logging.getLogger(__name__)
_LIBRARIES = ("torch", "torchvision", "ray", "timm", "numpy")
_MOST_CURVES, _FEATURES = 12, 3000


@dataclass(frozen=True)
class Node:
    """A stage of the run: its name, kind, folder, record, and its inputs' folders."""

    name: str
    kind: str
    folder: Path
    record: Mapping[str, Any]
    inputs: Mapping[str, Path]


@dataclass(frozen=True)
class Run:
    """What a report tells of: the stages in order, the configuration, and what was typed."""

    title: str
    pipeline: str
    config: str
    nodes: Sequence[Node]
    command: Sequence[str] = ()
    overrides: Sequence[str] = ()


def write(run: Run, out: Path) -> Path:
    """Write the report in one rename; a part that cannot be made is left out and said in the log."""
    local = Local(scratch() / "cache")
    parts: dict[str, Callable[[], Iterable[str]]] = {
        "Results": lambda: _results(run),
        "Run": lambda: _provenance(run),
        "Data": lambda: _data(run, local),
        "Training": lambda: _curves(run),
        "Pseudo-labels": lambda: _pseudo(run, local),
        "Mistakes": lambda: _mistakes(run, local),
        "Features": lambda: _features(run, local),
        "Clusters": lambda: _clusters(run, local),
        "Captions": lambda: _captions(run),
        "Sound": lambda: _sound(run),
        "Lines of text": lambda: _lines(run),
        "Objects": lambda: _objects(run),
        "Details": lambda: _own_pages(run),
    }
    sections: dict[str, list[str]] = {}
    for name, make in parts.items():
        try:
            made = [part for part in make() if part]
        except Exception as error:  # the run itself went well: its report must not end it
            log.warning("report: %s: %s: %s", name, type(error).__name__, error)
            made = [page.text(f"This part could not be made: {error}")]
        if made:
            sections[name] = made
    script = "map.js" if any('id="map"' in part for part in sections.get("Features", ())) else ""
    out.parent.mkdir(parents=True, exist_ok=True)
    jsonio.write_bytes(out, page.page(run.title, sections, script).encode())
    return out


def _results(run: Run) -> Iterator[str]:
    found = measures({node.name: node.folder for node in run.nodes if node.record["kind"] == "Report"})
    yield from _over_seeds(found)
    rows = []
    for measure, base in baselines(found):
        gain = "" if base is None else f"{difference(measure, base)} over {base.name}"
        interval = f"{100 * measure.low:.1f} to {100 * measure.high:.1f}"
        rows.append([measure.name, measure.protocol, f"{100 * measure.value:.2f}", interval, measure.count or "", gain])
    if rows:
        yield page.table(["network", "measured by", "result, %", "95 % interval", "images", "difference"], rows)
        yield page.text(
            "Intervals are those of the test images' number alone: other seeds vary the results further. A difference "
            "whose interval holds 0 is none that this test set shows."
        )
    numbers = [
        [node.name, *(f"{name.replace('_', ' ')} {_number(value)}" for name, value in list(shown.items())[:4])]
        for node in run.nodes
        if node.kind in ("kmeans", "train", "extract", "select") and (shown := node.record["fields"]["metrics"])
    ]
    width = max(map(len, numbers), default=0)
    if numbers:
        yield page.table(["stage", *[""] * (width - 1)], [[*row, *[""] * (width - len(row))] for row in numbers])


def _over_seeds(found: Sequence[Measure]) -> Iterator[str]:
    first: dict[str, tuple[str, Spread]] = {}
    rows = []
    for (name, protocol), own in seeds_of(found).items():
        base = first.setdefault(protocol, (name, own))
        gain = "" if base[1] is own else f"{spread_difference(own, base[1])} over {base[0]}"
        rows.append([name, protocol, own, gain])
    if rows:
        yield page.table(["network", "measured by", "result, %: mean and standard deviation", "difference"], rows)
        yield page.text("Differences are those of the same seed, with Student's 95 % interval over the seeds.")


def _provenance(run: Run) -> Iterator[str]:
    versions = ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
    commits = sorted({str(node.record.get("git")) for node in run.nodes if node.record.get("git")})
    seconds = sum(float(node.record["seconds"]) for node in run.nodes)
    work = sum(float(node.record["seconds"]) * int(node.record.get("num_workers") or 1) for node in run.nodes)
    yield page.table(
        ["", ""],
        [
            ["command", shlex.join(run.command)],
            ["pipeline", run.pipeline],
            ["written", time.strftime("%Y-%m-%d %H:%M:%S %Z")],
            ["stages", f"{len(run.nodes)}; {_time(seconds)} one after another, {_time(work)} of workers"],
            ["commit of the working directory", ", ".join(commits) or "none"],
            ["versions", f"Python {platform.python_version()}, sslscale {_version('sslscale')}, {versions}"],
        ],
        facts=True,
    )
    rows = [
        [
            node.name,
            node.record["key"],
            _time(float(node.record["seconds"])),
            node.record.get("num_workers", 1),
            node.record.get("created", ""),
            node.record.get("host", ""),
        ]
        for node in run.nodes
    ]
    yield page.table(["stage", "key", "time", "workers", "finished (UTC)", "host"], rows)
    if run.overrides:
        yield page.text(f"Values set on the command line: {' '.join(run.overrides)}")
    yield page.details("Configuration", run.config)


def _data(run: Run, local: Local) -> Iterator[str]:
    from sslscale.report.galleries import data_gallery

    for node in _kind(run, "pack"):
        counts = node.record["fields"]["num_samples"]
        yield page.table(["split", "images"], [[name, f"{count:,}"] for name, count in counts.items()])
        skipped = node.folder / "skipped.txt"
        if skipped.exists():
            lines = skipped.read_text("utf-8").splitlines()
            yield page.details(f"{len(lines):,} lines on images that were left out", "\n".join(lines[:200]))
        yield from data_gallery(node.folder, [name for name in ("labeled", "unlabeled") if name in counts], local)


def _curves(run: Run) -> Iterator[str]:
    trainings = _kind(run, "train")
    for node in trainings[:_MOST_CURVES]:
        yield page.picture(node.folder / "curves.png", f"{node.name}: losses and accuracies", wide=True)
        yield page.picture(node.folder / "views.png", f"{node.name}: what the network was shown first, a row an image")
        yield page.picture(node.folder / "pictures.png", f"{node.name}: what it solves, and how, after training")
    if len(trainings) > _MOST_CURVES:
        yield page.text(f"... and {len(trainings) - _MOST_CURVES} more trainings, in MLflow")


def _pseudo(run: Run, local: Local) -> Iterator[str]:
    from sslscale.report.galleries import changed_gallery, pseudo_gallery

    scores = _kind(run, "score")
    if not scores:
        return
    data = scores[-1].inputs["data"]
    for node in _kind(run, "select"):
        yield page.picture(node.folder / "confidence.png", f"{node.name}: the teacher's confidences")
    yield page.text(f"The labels that {scores[-1].name} gave, with their probabilities:")
    yield from pseudo_gallery(scores[-1].folder, data, local)
    if len(scores) > 1:
        yield from changed_gallery(scores[0].folder, scores[-1].folder, data, local)


def _mistakes(run: Run, local: Local) -> Iterator[str]:
    from sslscale.report.galleries import mistakes_gallery

    tests = _kind(run, "evaluate")
    if not tests:
        return
    node = tests[-1]
    split = jsonio.read_json(node.folder / "report.json")["split"]
    yield page.text(f"Of {node.name}, on the split {split}:")
    yield page.picture(node.folder / "confusion.png", "Confusion matrix, per cent of the true class")
    yield from mistakes_gallery(node.folder, node.inputs["data"] / split, local)


def _features(run: Run, local: Local) -> Iterator[str]:
    from sslscale.report.embedding_map import POINTS, embedding_map, sample_features
    from sslscale.report.galleries import SHARDS, neighbour_gallery
    from sslscale.report.thumbnails import Thumbnails

    extracted = [node for node in _kind(run, "extract") if node.record["fields"]["dim"] > 1]
    if not extracted:
        return
    node = extracted[-1]
    counts = node.record["fields"]["num_samples"]
    split = next(name for name in ("test", "val", "labeled", *counts) if name in counts)
    features, numbers = sample_features(node.folder, split, _FEATURES, SHARDS)
    pictures = Thumbnails(node.inputs["data"] / split, local)
    yield page.text(f"Of {node.name}, split {split}: {len(numbers):,} of {counts[split]:,} images.")
    yield from neighbour_gallery(features, numbers, pictures)
    few = slice(None, None, -(-len(numbers) // POINTS))
    if len(numbers[few]) > 9:
        yield page.text("A map of the features (t-SNE): images that lie together look alike to the network.")
        yield embedding_map(features[few], numbers[few], pictures)


def _clusters(run: Run, local: Local) -> Iterator[str]:
    from sslscale.data.features import Features
    from sslscale.report.galleries import cluster_gallery

    extracts = {node.folder: node for node in _kind(run, "extract")}
    for node in _kind(run, "kmeans")[-1:]:
        source = extracts.get(node.inputs["features"])
        if source is None:
            continue
        splits = node.record["fields"]["splits"]
        yield page.picture(node.folder / "sizes.png", "Images of each cluster")
        features = Features(source.folder, (splits[-1],))
        yield from cluster_gallery(node.folder, features, splits, source.inputs["data"], local)


def _captions(run: Run) -> Iterator[str]:
    for node in _kind(run, "captions"):
        counts = node.record["fields"]["accounting"]
        yield page.table(["captions", "images"], [[name.replace("_", " "), f"{n:,}"] for name, n in counts.items()])
    for node in _kind(run, "caption_retrieval"):
        yield from retrieval_parts(jsonio.read_json(node.folder / "report.json"), node.folder)


def _sound(run: Run) -> Iterator[str]:
    for node in _kind(run, "spectrograms"):
        counts = node.record["fields"]["accounting"]
        yield page.table(["sound", "clips"], [[name, f"{n:,}"] for name, n in counts.items()])
    for node in _kind(run, "sound_retrieval"):
        yield from sound_parts(jsonio.read_json(node.folder / "report.json"), node.folder)


def _lines(run: Run) -> Iterator[str]:
    for node in _kind(run, "transcripts"):
        counts = node.record["fields"]["accounting"]
        yield page.table(["transcripts", "labelled lines"], [[name, f"{n:,}"] for name, n in counts.items()])
    for node in _kind(run, "read_lines"):
        yield from reading_parts(node.name, jsonio.read_json(node.folder / "report.json"), node.folder)


def _objects(run: Run) -> Iterator[str]:
    for node in _kind(run, "find_objects"):
        counts = node.record["fields"]["accounting"]
        images = node.record["fields"]["num_images"]
        text = f"{node.name}: {counts['objects']:,} objects in {images:,} images"
        yield page.text(f"{text}, of which {counts['empty_images']:,} have none.")
    for node in _kind(run, "detect"):
        yield from detection_parts(node.name, jsonio.read_json(node.folder / "report.json"), node.folder)


def _own_pages(run: Run) -> Iterator[str]:
    """What stages that compare others wrote: their pages are ours, so their parts fit here."""
    from markupsafe import Markup

    for node in run.nodes:
        file = node.folder / "report.html"
        if node.record["kind"] == "Report" and file.exists():
            body = file.read_text("utf-8").partition("<h2")[2].rpartition("</body>")[0].partition("<script")[0]
            yield Markup("<h2" + body.replace("<h2", "<h3").replace("</h2>", "</h3>")).replace("<h2", "<h3", 1)  # noqa: S704


def _kind(run: Run, kind: str) -> list[Node]:
    return [node for node in run.nodes if node.kind == kind]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _number(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def command() -> list[str]:
    """What was typed, with the program's short name."""
    return ["sslscale", *sys.argv[1:]]
