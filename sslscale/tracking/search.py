"""The run above those of a search's trials."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslscale.graph.execution import git_commit
from sslscale.storage import jsonio
from sslscale.tracking.store import address, connect, open_experiment
from sslscale.tracking.tracker import NOTE


def open_parent(root: Path, folder: Path, experiment: str, name: str) -> str | None:
    """A run above those of many graphs, noted in `folder` so that a search that goes on finds it; None if the store
    fails."""
    try:
        note = folder / NOTE
        seen = jsonio.read_json(note) if note.exists() else {}
        client = connect(root)
        experiment_id = open_experiment(client, root, experiment)
        if seen.get("store") == address(root):
            client.update_run(seen["run_id"], status="RUNNING")
            return seen["run_id"]
        tags = {"mlflow.runName": name, "mlflow.source.git.commit": git_commit()}
        run_id = client.create_run(experiment_id, tags=tags).info.run_id
        jsonio.write_json(note, {"store": address(root), "run_id": run_id})
        return run_id
    except Exception:  # a store that fails never stops a run: its trials will warn
        return None


def close_parent(
    root: Path, run_id: str | None, metrics: Mapping[str, float], params: Mapping[str, Any], files: Mapping[str, Path]
) -> None:
    """End such a run with the best trial's numbers and values, and the files that show all of them."""
    if run_id is None:
        return
    from mlflow.entities import Metric, Param

    with contextlib.suppress(Exception):
        client = connect(root)
        now = int(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), now, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
        )
        for file in files.values():
            client.log_artifact(run_id, str(file))
        client.set_terminated(run_id, "FINISHED")
