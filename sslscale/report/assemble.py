"""Where the report of a run lies, and what goes into it: the records of a plan that has run."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslscale.errors import UserError
from sslscale.graph.dag import RECORD, Planned
from sslscale.report import run as page
from sslscale.report.results import measures
from sslscale.storage import mirror
from sslscale.storage.jsonio import digest

_WHOLE = ("labels.npy", "rows.npy", "predictions.npy", "centroids.npy")  # small whatever the number of images
log = logging.getLogger(__name__)


def report(
    planned: Sequence[Planned],
    records: Mapping[str, Mapping[str, Any]],
    root: Path,
    *,
    name: str,
    pipeline: str,
    config: str,
    overrides: Sequence[str],
) -> Path | None:
    """Write ROOT/reports/NAME-KEY.html unless it is newer than all records; None, and a warning, if that fails."""
    stem = re.sub(r"[^\w.-]+", "-", Path(name).stem)
    out = root / "reports" / f"{stem}-{digest([entry.key for entry in planned], 8)}.html"
    try:
        made = max((entry.path / RECORD).stat().st_mtime for entry in planned)
        store = mirror.of(root.absolute())
        if store and not out.exists():  # the machine that ran it has written it, and fetched the images for it
            store.get([out.absolute()], optional=True)
        if out.exists() and out.stat().st_mtime >= made:
            return out
        if store:
            for entry in planned:
                _fetch(store, entry.path.absolute())
        title = f"{pipeline.replace('_', ' ')}: {name}"
        page.write(page.Run(title, pipeline, config, _nodes(planned, records), page.command(), overrides), out)
        if store:
            store.push(out.parent.absolute())
    except (OSError, UserError) as error:
        log.warning("the report cannot be written: %s", error)
        return None
    return out


def _fetch(store: mirror.Mirror, folder: Path) -> None:
    """Download what a report shows of a result: of large ones the first shards' files alone."""
    from sslscale.report.galleries import SHARDS

    store.pull(folder, skip=(".tar", ".npy", ".parquet", ".pt", ".safetensors"))
    numbered = re.compile(r"(scores|features|clusters)-(\d+)\.(npy|parquet)$")
    wanted = []
    for name in store.sizes(folder):
        found = numbered.search(name)
        shown = int(found[2]) < SHARDS if found else name.endswith(_WHOLE)
        if shown and not (folder / name).is_file():
            wanted.append(folder / name)
    store.get(wanted)


def _nodes(planned: Sequence[Planned], records: Mapping[str, Mapping[str, Any]]) -> list[page.Node]:
    paths = {entry.key: entry.path.absolute() for entry in planned}
    return [
        page.Node(
            name=entry.stage.name,
            kind=entry.stage.kind,
            folder=entry.path.absolute(),
            record=records[entry.stage.name],
            inputs={name: paths[key] for name, key in entry.input_keys.items()},
        )
        for entry in planned
    ]


def headline(planned: Sequence[Planned]) -> dict[str, float]:
    """The accuracy of the last network, under one name for all pipelines, so that runs can be sorted by it."""
    found = measures({entry.stage.name: entry.path for entry in planned})
    return {"accuracy": found[-1].value} if found else {}
