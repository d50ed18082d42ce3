"""The tracking store of a root: where it is, its experiments, and how its page first shows them."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sslscale.storage import addresses

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
VIEW = "sslscale"  # names the view of an experiment's runs that `pages` leads to
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_KIND = "mlflow.experimentKind"  # says that its page is for trainings, not for chats
_FILE = "mlflow.db"
_ABANDONED_S = 3600  # after which a half-made database belongs to nobody
_COLUMNS = 8  # of metrics; more are a click away


def store(root: Path) -> str:
    """The tracking store: MLFLOW_TRACKING_URI, or a SQLite file under the root.

    A user and a password in a web server's address go to MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which
    MLflow sends too: its own errors and logs would show them otherwise.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return _local(root)
    found = addresses.split(uri) if uri.startswith(("http://", "https://")) else None
    if found is not None:
        uri, user, password = found
        os.environ |= {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
        }
    return uri


def _local(root: Path) -> str:
    return f"sqlite:///{root.absolute() / _FILE}"


def address(root: Path) -> str:
    """The tracking store as it may be written down and shown: without the password that a database's may have."""
    return addresses.masked(store(root))


def connect(root: Path) -> Any:
    """A client of the root's store."""
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    import logging

    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    file = root.absolute() / _FILE
    if store(root) == _local(root) and not file.exists():
        _create(file, lambda uri: MlflowClient(uri).search_experiments(max_results=1))
    return MlflowClient(store(root))


def _create(file: Path, make: Callable[[str], object]) -> None:
    """Let MLflow make its database beside the file, and put it there when it is whole.

    MLflow makes it in dozens of steps that it cannot take up again: where the disk is full, or the process is killed,
    in between, no run could ever be tracked there.
    """
    for left in file.parent.glob(f"{file.name}.tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()
    new = file.with_name(f"{file.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        make(f"sqlite:///{new}")
        try:
            os.link(new, file)
        except FileExistsError:  # another run has made it
            pass
        except OSError:  # a file system without links
            if not file.exists():
                new.rename(file)
    finally:
        for left in file.parent.glob(f"{new.name}*"):  # its journal too
            left.unlink(missing_ok=True)


def open_experiment(client: Any, root: Path, name: str) -> str:
    """The id of an experiment in the store of a root, made if need be."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    local = store(root).startswith("sqlite:")
    place = (root.absolute() / "mlflow-artifacts" / name).as_uri() if local else None
    return client.create_experiment(name, artifact_location=place, tags={_KIND: "custom_model_development"})


def set_view(client: Any, experiment_id: str, metrics: Sequence[str]) -> None:
    """Let the experiment's page show these metrics as columns, the best run of the first on top."""
    tags = client.get_experiment(experiment_id).tags
    known = _metrics(tags.get(_VIEW_TAG))
    columns = list(dict.fromkeys([*known, *metrics]))[:_COLUMNS]
    if columns == known or not columns:
        return
    view = {
        "orderByKey": f"metrics.`{columns[0]}`",
        "orderByAsc": False,
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in columns),
            "attributes.`Duration`",
        ],
    }
    client.set_experiment_tag(experiment_id, _VIEW_TAG, json.dumps(view))


def _metrics(view: str | None) -> list[str]:
    """The metrics that a view has as columns."""
    try:
        columns: Mapping[str, Any] = json.loads(view or "{}")
        return [name[9:-1] for name in columns.get("selectedColumns", ()) if name.startswith("metrics.`")]
    except (ValueError, AttributeError):
        return []


def pages(root: Path) -> dict[str, str]:
    """Name, and address within MLflow's server, of each experiment in the root's own store, read without MLflow (whose
    first page is for chats)."""
    file = root / _FILE
    if not file.exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT name, e.experiment_id, t.key FROM experiments e LEFT JOIN experiment_tags t "
            "ON t.experiment_id = e.experiment_id AND t.key = ? "
            "WHERE lifecycle_stage = 'active' AND e.experiment_id != 0",
            (_VIEW_TAG,),
        ).fetchall()
    view = f"?viewStateShareKey={VIEW}&workflowType=machine_learning"
    return {name: f"/#/experiments/{number}/runs{view if tag else ''}" for name, number, tag in rows}
