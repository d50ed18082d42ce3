"""Passwords, tokens and keys in the environment or in an address reach no file, no log, no page and no output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sslscale.cli.main import main
from sslscale.cluster import jobs
from sslscale.storage import addresses
from sslscale.tracking import store as tracking
from tests import runs

PASSWORD = "Planted-Pass-8841"  # noqa: S105
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-key-3175",
    "HF_TOKEN": "planted-token-6620",
    "SOME_API_KEY": "planted-api-9093",
}
PLANTED = [PASSWORD, *SECRETS.values()]


def files_with_secrets(*folders: Path) -> list[str]:
    """Files below these folders in which a secret stands."""
    found = []
    for file in (file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()):
        data = file.read_bytes()
        found += [f"{file}: {secret}" for secret in PLANTED if secret.encode() in data]
    return found


@pytest.fixture
def locked_server(tmp_path: Path) -> Iterator[int]:
    """The port of MLflow's server, which asks for a user and a password."""
    folder, port = tmp_path / "server", runs.free_port()
    folder.mkdir()
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    words = ["-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    words += ["--artifacts-destination", str(folder / "files")]
    env = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
    }
    quiet: Any = subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, *words], stdout=quiet, stderr=quiet, start_new_session=True, env={**os.environ, **env}
    )
    try:
        runs.wait_for_port(port)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_secrets_of_the_environment_are_found_nowhere(locked_server: int, tmp_path: Path) -> None:
    """A run that is tracked by a server with a password, one that the server refuses, and one that fails."""
    from mlflow import MlflowClient

    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "runs"
    temporary = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))  # Ray's sockets need a short path
    place = f"127.0.0.1:{locked_server}"
    env = {
        **SECRETS,
        "MLFLOW_TRACKING_URI": f"http://admin:{PASSWORD}@{place}",
        "TMPDIR": str(temporary),
        "RAY_TMPDIR": str(temporary),
        "SSLSCALE_SCRATCH": str(tmp_path / "scratch"),
    }
    words = ("run", config, "train.num_steps=40", "--root", root)
    told = [*runs.sslscale(*words, "--json", env=env)]
    wrong = {**env, "MLFLOW_TRACKING_URI": f"http://admin:{SECRETS['HF_TOKEN']}@{place}"}
    told += runs.sslscale(*words, "train.batch_size=20", "--json", env=wrong)
    assert "warning: tracking at http://127.0.0.1" in told[-1]
    told += runs.sslscale(*words, "train.optim.lr=1e9", "--debug", code=1, env=env)
    told += runs.sslscale("doctor", "--root", root, env=env)

    names = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        client = MlflowClient(f"http://{place}")
        tracked = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert {"model", "model/evaluate"} <= {str(run.info.run_name) for run in tracked}  # the password was used

    written = [root, tmp_path / "scratch", temporary, tmp_path / "server"]
    assert any(temporary.rglob("raylet.out")), "Ray wrote elsewhere"
    assert files_with_secrets(*written) == []
    assert [secret for secret in PLANTED if secret in "".join(told)] == []


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:pass@host:5000/x", "http://***@host:5000/x"),
        ("https://token@host", "https://***@host"),
        ("postgresql+psycopg2://me:p@ss@host/mlflow", "postgresql+psycopg2://***@host/mlflow"),
        (
            "API request to http://me:pass@host/api failed; see ftp://a:b@c",
            "API request to http://***@host/api failed; see ftp://***@c",
        ),
        ("s3://lab/me:x@y", None),
        ("abfs://container@account.dfs.core.windows.net/x", None),
        ("http://127.0.0.1:5000/?mail=me:x@y", None),
        ("sqlite:////home/me/mlflow.db", None),
    ],
)
def test_addresses_are_shown_without_passwords(address: str, shown: str | None) -> None:
    assert addresses.masked(address) == (shown or address)
    assert addresses.has_secret(address) == (shown is not None)


def test_a_tracking_servers_password_leaves_its_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:p%40ss:w@host:5000/x")
    assert tracking.store(tmp_path) == tracking.store(tmp_path) == tracking.address(tmp_path) == "https://host:5000/x"
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://host:5000/x"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "p@ss:w")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql://me:pass@host/x")  # MLflow reads a database's from its address
    assert tracking.store(tmp_path) == "mysql://me:pass@host/x"
    assert tracking.address(tmp_path) == "mysql://***@host/x"


def test_a_job_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may see a cluster's jobs sees their variables."""
    for name, value in {**SECRETS, "AWS_ENDPOINT_URL": "http://store", "MLFLOW_TRACKING_USERNAME": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@host")
    sent = jobs.passed_on()
    assert sent["MLFLOW_TRACKING_URI"] == "http://host" and sent["MLFLOW_TRACKING_USERNAME"] == "me"
    assert sent["AWS_ENDPOINT_URL"] == "http://store" and not set(PLANTED) & set(sent.values())
    assert jobs.kept_back() == ["MLFLOW_TRACKING_PASSWORD"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"mysql://me:{PASSWORD}@host/x")
    assert "MLFLOW_TRACKING_URI" not in jobs.passed_on()
    assert jobs.kept_back() == ["MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD"]


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "CONFIG", f"data.source=sftp://me:{PASSWORD}@host/x"),
        ("plan", "CONFIG", f"train.augment=[https://{PASSWORD}@host]"),
        ("run", "CONFIG", "--root", f"ftp://me:{PASSWORD}@host/x"),
        ("verify", "--root", f"https://{PASSWORD}@host/x"),
    ],
)
def test_an_address_with_a_password_is_refused_where_it_would_be_written(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration and a root stand in records, reports and MLflow."""
    config = str(runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"))
    _, err = runs.in_process(capsys, *(config if word == "CONFIG" else word for word in words), code=2)
    assert "://***@host" in err and "may not hold a password" in err and err.count("\n") == 1
    assert PASSWORD not in err


@pytest.mark.parametrize("source", ["pipe:touch FILE", "pipe:touch FILE #.tar", "!touch FILE", "$(touch FILE)"])
def test_no_source_starts_a_command(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """WebDataset runs what follows `pipe:`; here a source is a path or a store's address."""
    config = str(runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"))
    source = source.replace("FILE", str(tmp_path / "made"))
    for words in (
        ("plan", config, f"data.source={source}"),
        ("data", "index", source, str(tmp_path / "out")),
        ("data", "pack", source, str(tmp_path / "out")),
    ):
        assert main([*words]) in (2, 3)
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
    assert not (tmp_path / "made").exists()
