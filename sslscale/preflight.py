"""Problems that would make a run fail, found before anything starts: missing data, batches larger than the data, more
workers than this machine has, networks that timm does not know."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from sslscale.data.split import Contents, contents
from sslscale.errors import ConfigError, DataError, ResourceError
from sslscale.graph import dag
from sslscale.graph.artifacts import Dataset
from sslscale.graph.dag import Planned
from sslscale.settings.streams import StreamSpec
from sslscale.settings.train import TrainConfig

_SPLIT_OF: dict[str, str] = dict.fromkeys(
    ("evaluate", "attention", "robustness", "layerwise", "caption_retrieval"), "split"
)


def require(planned: Sequence[Planned]) -> None:
    """Raise ConfigError, DataError or ResourceError if a stage that would run cannot have what it needs."""
    waiting = [entry for entry in planned if entry.state == "run"]
    by_key = {entry.key: entry for entry in planned}
    for entry in waiting:
        _require_machine(entry)
        if isinstance(entry.stage.config, TrainConfig):
            _require_network(entry)
            if entry.stage.kind == "train":
                _require_inputs(entry)
            _require_workers(entry)
    for entry in waiting:
        found = _contents(by_key.get(entry.input_keys.get("data", "")))
        if found is not None:
            _require_data(entry, *found)


def _contents(data: Planned | None) -> tuple[str, Contents] | None:
    """The source and the splits of a packed data set, made already or to be made; None if they are not known."""
    if data is None or data.stage.kind != "pack":
        return None
    source = data.stage.config.source
    if data.state == "cached":
        made = dag.load(data.path)
        assert isinstance(made, Dataset)
        return source, Contents(dict(made.num_samples), made.classes)
    known = contents(data.stage.config)
    return None if known is None else (source, known)


def _require_data(entry: Planned, source: str, found: Contents) -> None:
    name, config = entry.stage.name, entry.stage.config
    if (field := _SPLIT_OF.get(entry.stage.kind)) is not None:
        split = getattr(config, field)
        if split not in found.num_samples:
            raise DataError(
                f"{name}: {source} has no split {split!r} to measure on; it has {', '.join(found.num_samples)}; "
                f"hold some labelled images out: data.{split}=0.1"
            )
    if entry.stage.kind == "score" and "unlabeled" not in found.num_samples:
        raise DataError(f"{name}: {source} has no unlabelled images to pseudo-label; see data.labels_per_class")
    if isinstance(config, TrainConfig) and entry.stage.kind == "train":
        for stream in config.method.streams:
            size, kind = config.batch_sizes[stream.name], _kind(stream)
            there = _available(stream, config, found, clustered="clusters" in entry.input_keys)
            if there is None:
                continue
            if there == 0:
                raise DataError(
                    f"{name}: {source} has no {kind}images, which {config.method.name} learns from; "
                    + (
                        "give class folders or a labels file (data.labels)"
                        if stream.source == "labeled"
                        else "hide labels with data.labels_per_class, or name the splits that are there (splits)"
                    )
                )
            if size > there:
                raise ConfigError(
                    f"{name}: the global batch of {size:,} {kind}images is larger than the {there:,} there "
                    "are; lower its batch_size"
                )


def _kind(stream: StreamSpec) -> str:
    """What images of a stream are called."""
    return f"{stream.source} " if stream.source in ("labeled", "unlabeled") else ""


def _available(stream: StreamSpec, config: TrainConfig, found: Contents, *, clustered: bool) -> int | None:
    """How many images a stream of a training has, at most; None where other stages decide that."""
    counts: Mapping[str, int] = found.num_samples
    if stream.source == "labeled":
        return None if clustered else counts.get("labeled", 0)
    if stream.source == "unlabeled" and "unlabeled" in config.splits and not counts.get("unlabeled"):
        return 0
    if stream.source != "pseudo":
        return sum(counts.get(split, 0) for split in config.splits)
    return None


def _require_inputs(entry: Planned) -> None:
    """What the method reads must be among the stage's inputs, and nothing that it does not read."""
    wrong = entry.stage.config.check_inputs(entry.input_keys)
    if wrong is not None:
        raise ConfigError(f"{entry.stage.name}: {wrong}")


def _require_workers(entry: Planned) -> None:
    config, workers = entry.stage.config, entry.stage.resources.num_workers
    for stream in config.method.streams:
        size = config.batch_sizes[stream.name]
        if min(config.batch_sizes.values()) < workers:
            raise ConfigError(
                f"{entry.stage.name}: the global batch of {size:,} {_kind(stream)}images has no part for each of "
                f"{workers} workers; raise batch_size, or lower num_workers"
            )


def _require_machine(entry: Planned) -> None:
    """Check the CPUs of this machine; a cluster is asked for its resources when it is joined."""
    if os.environ.get("RAY_ADDRESS") is not None:
        return
    resources, there = entry.stage.resources, os.cpu_count() or 1
    least, each = resources.min_workers or resources.num_workers, resources.cpus_per_worker or 1
    if least * each > there:
        raise ResourceError(
            f"{entry.stage.name}: {least} workers of {each} CPUs are more than the {there} CPUs of this machine; lower "
            "resources.num_workers or cpus_per_worker, or set RAY_ADDRESS to run on a cluster"
        )


def _require_network(entry: Planned) -> None:
    """Look up a timm model in timm's source, which takes 0.2 s; importing timm takes many."""
    name, init = entry.stage.config.model.name, entry.stage.config.init
    named = {"model.name": name.removeprefix("timm:")} if name.startswith("timm:") else {}
    named |= {"init.timm": init.timm} if init is not None and init.timm is not None else {}
    for key, full in named.items():
        asked, known = full.partition(".")[0], timm_models()
        if known and asked not in known and not asked.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
            near = difflib.get_close_matches(asked, known, 3, 0.5) or sorted(known)[:3]
            raise ConfigError(
                f"{entry.stage.name}: {key}: timm has no {asked!r}; did you mean {', '.join(map(repr, near))}?"
            )


@lru_cache(maxsize=1)
def timm_models() -> frozenset[str]:
    """Names of timm's models and their older names, found without importing it; empty if it is not installed."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    text = "".join(file.read_text("utf-8") for file in sorted((Path(spec.origin).parent / "models").glob("*.py")))
    entrypoints = re.findall(r"^@register_model\n(?:@.*\n)*def (\w+)\(", text, re.MULTILINE)
    older = [
        name
        for block in re.findall(r"register_model_deprecations\(__name__, \{(.*?)\}\)", text, re.DOTALL)
        for name in re.findall(r"['\"]([\w.]+)['\"]\s*:", block)
    ]
    return frozenset(entrypoints) | {name.partition(".")[0] for name in older}
