"""The file that imports ray.job_submission: a run handed to a cluster, its log, its end.

What is sent is this package, the pipelines and the configuration, so the cluster needs the libraries alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslscale import experiment
from sslscale.errors import ConfigError, ResourceError, UserError
from sslscale.storage import addresses
from sslscale.tracking.store import store

# not MLFLOW_TRACKING_PASSWORD: whoever may see a cluster's jobs sees their variables
_PASSED_ON = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")
_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_OLDEST_RAY = (2, 59)


def passed_on() -> dict[str, str]:
    """The variables of this process that a job gets; one that holds a password stays here."""
    store(Path())  # a web server's password leaves its address
    found = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {name: value for name, value in found.items() if not addresses.has_secret(value)}


def kept_back() -> list[str]:
    """The variables that a job may need, and that are not sent because they are secrets."""
    there = [name for name in (*_PASSED_ON, "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN") if name in os.environ]
    return [name for name in there if name not in passed_on()]


@dataclass(frozen=True)
class JobInfo:
    """One of a cluster's jobs."""

    id: str
    status: str
    command: str
    started: float | None  # seconds since 1970
    seconds: float | None
    exit_code: int | None
    message: str


class Jobs:
    """The jobs of one cluster, behind its dashboard's address; every call raises ResourceError if that cannot be
    reached or refuses."""

    def __init__(self, address: str):
        if not re.match(r"https?://", address):
            raise ConfigError(f"--address {address}: is the dashboard's, such as http://127.0.0.1:8265")
        self._address = address
        token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
        if "RAY_AUTH_TOKEN" in os.environ or token.is_file():  # a client without the mode is refused in spite of it
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        with self._clear():
            from ray.job_submission import JobSubmissionClient

            self._client = JobSubmissionClient(address)
            self.ray_version = str(self._client._do_request("GET", "/api/version").json()["ray_version"])
        if tuple(map(int, self.ray_version.split(".")[:2])) < _OLDEST_RAY:
            raise ResourceError(
                f"{address}: the cluster runs Ray {self.ray_version}; sslscale needs "
                f"{'.'.join(map(str, _OLDEST_RAY))} or later there"
            )

    @contextlib.contextmanager
    def _clear(self) -> Iterator[None]:
        try:
            yield
        except (ConnectionError, OSError) as error:
            raise ResourceError(
                f"{self._address}: no Ray dashboard answers there ({type(error).__name__}); is the cluster up, and its "
                "port at hand (ssh -L 8265:127.0.0.1:8265 HEAD)?"
            ) from None
        except UserError:
            raise
        except Exception as error:
            text = str(error).strip()
            if "401" in text or "403" in text or "uthentic" in text:
                raise ResourceError(
                    f"{self._address}: the cluster asks for its token: put it into ~/.ray/auth_token (mode 600) or "
                    "name its file in RAY_AUTH_TOKEN_PATH"
                ) from None
            raise ResourceError(f"{self._address}: {(text or type(error).__name__).splitlines()[0][:300]}") from None

    def submit(self, config: str, overrides: Sequence[str], root: str) -> str:
        """Send a configuration, checked here first; returns the job's id."""
        loaded = experiment.load(config, overrides)
        if addresses.has_secret(root):
            raise ConfigError(f"--root {addresses.masked(root)}: {addresses.ADVICE}")
        if "://" not in root and not Path(root).is_absolute():
            raise ConfigError(f"--root {root}: must be a path or URL that every node of the cluster sees as this one")
        name = re.sub(r"[^a-z0-9]+", "-", Path(config).stem.lower()).strip("-")
        job = f"sslscale-{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
        with tempfile.TemporaryDirectory() as folder:
            file = _stage(Path(folder), config)
            words = ["python", "-m", "sslscale", "run", file, *loaded.overrides, "--root", root]
            for wait_s in (1, 3, 9, 0):  # a head that has just started has nobody yet to take a job
                try:
                    return self._send(job, words, folder, {"config": config, "root": root})
                except ResourceError as error:
                    if "No available agent" not in str(error) or not wait_s:
                        raise
                time.sleep(wait_s)
        raise AssertionError

    def _send(self, job: str, words: Sequence[str], folder: str, note: dict[str, str]) -> str:
        with self._clear():
            return self._client.submit_job(
                entrypoint=shlex.join(words),
                submission_id=job,
                runtime_env={
                    "working_dir": folder,
                    "env_vars": passed_on(),
                },
                metadata=note,
                entrypoint_num_cpus=0,
            )

    def follow(self, job: str) -> Iterator[str]:
        """The job's log as it grows, until it ends."""
        seen = 0
        while True:
            with self._clear():
                status = str(self._client.get_job_status(job).value)
                text = self._client.get_job_logs(job)
            if len(text) > seen:
                yield text[seen:]
                seen = len(text)
            if status in _ENDED:
                return
            time.sleep(1)

    def info(self, job: str) -> JobInfo:
        """What the cluster knows of a job; raises ConfigError if there is none of this name."""
        found = {one.id: one for one in self.all()}
        if job not in found:
            near = [name for name in found if name.startswith("sslscale-")][-3:]
            raise ConfigError(
                f"{self._address} has no job {job}" + (f"; the last are {', '.join(near)}" if near else "")
            )
        return found[job]

    def all(self) -> list[JobInfo]:
        """Every job that was submitted, the oldest first."""
        with self._clear():
            found: list[Any] = [one for one in self._client.list_jobs() if one.submission_id]
        return sorted((_info(one) for one in found), key=lambda one: one.started or 0)

    def stop(self, job: str) -> JobInfo:
        """Ask a job to end, and wait until it has."""
        self.info(job)
        with self._clear():
            self._client.stop_job(job)
        deadline = time.monotonic() + 60
        while (found := self.info(job)).status not in _ENDED and time.monotonic() < deadline:
            time.sleep(0.5)
        return found


def _info(found: Any) -> JobInfo:
    started = found.start_time / 1000 if found.start_time else None
    ended = found.end_time / 1000 if found.end_time else time.time()
    return JobInfo(
        id=found.submission_id,
        status=str(found.status.value),
        command=found.entrypoint,
        started=started,
        seconds=ended - started if started else None,
        exit_code=found.driver_exit_code,
        message=(found.message or "").strip(),
    )


def _stage(folder: Path, config: str) -> str:
    """Lay what a run needs into a folder as a checkout has it; returns the configuration's name there."""
    package = Path(experiment.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "_share", "*.pyc")
    shutil.copytree(package, folder / "sslscale", ignore=ignored)
    for name in ("pipelines", "configs"):
        shutil.copytree(experiment.share() / name, folder / name, ignore=ignored)
    file = experiment.find(config)
    own = folder / "experiment"
    own.mkdir()
    shutil.copyfile(file, own / file.name)
    for pipeline in file.parent.glob("*.py"):  # the user's own, named relative to the configuration
        shutil.copyfile(pipeline, own / pipeline.name)
    return f"experiment/{file.name}"
