"""kill -9 at random moments, again and again, until the run ends: what is there then is what an undisturbed run leaves.

    python -m tests.faults.chaos --kill driver --kills 100 --out OUT
    python -m tests.faults.chaos --kill worker --kills 100 --out OUT resources.train.num_workers=2
    python -m tests.faults.chaos --kill node --kills 30 --out OUT
    python -m tests.faults.chaos --kill driver --store --kills 30 --out OUT
    python -m tests.faults.chaos --kill term --kills 30 --out OUT

`driver` kills the command and all that it started; `worker` one of its worker processes; `node` takes one of three
nodes and brings another; `term` sends the command SIGTERM, and tells how long it took to end. With `--store` the root
is in an S3 server (moto's), and every other machine whose driver was killed is gone with all its files: the command
goes on elsewhere. Prints one line for each kill, and a count at the end; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests import runs

_WHOLE = (".safetensors", ".parquet", ".npy", ".tar", "index.json", "model.json")  # the rest has times in it
_PATIENCE_S = 400


class Outcome(NamedTuple):
    kills: int
    runs: int  # that ended, and were compared
    attempts: int
    differences: list[str]
    slowest_s: float  # from SIGTERM to the end


def contents(root: Path) -> dict[str, str]:
    """The sum of every file that a run's result consists of, by its path."""
    files = (f for f in root.glob("artifacts/*/*/**/*") if f.is_file() and f.name.endswith(_WHOLE))
    return {f.relative_to(root).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def differences(golden: Path, root: Path) -> list[str]:
    """Files that one root has and the other has not, or not the same."""
    expected, found = contents(golden), contents(root)
    assert expected
    wrong = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    left = (f for f in root.glob("artifacts/**/*.tmp*") if not f.name.startswith("mlflow.json"))  # see `sslscale gc`
    return wrong + [f"{f}: left over" for f in sorted(left)]


def _workers(driver: int) -> list[psutil.Process]:
    """The processes that compute for a run."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::"):
                found.append(process)
    return found


def _kill(what: str, process: subprocess.Popen[str], choice: random.Random, nodes: Any) -> str:
    """Kill something of a run; returns what it was, or nothing where there was nothing to kill."""
    if what == "driver":
        tree = [p for p in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True))]
        for one in tree:
            with contextlib.suppress(psutil.Error):
                one.kill()
        return "driver"
    if what == "term":
        process.terminate()
        return "SIGTERM"
    if what == "worker":
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if there := _workers(process.pid):
                victim = choice.choice(there)
                name = victim.cmdline()[0]
                os.kill(victim.pid, signal.SIGKILL)
                return name
        return ""
    cluster, alive = nodes
    cluster.remove_node(alive.pop(choice.randrange(len(alive))), allow_graceful=False)
    alive.append(cluster.add_node(num_cpus=1))
    return "node"


@contextlib.contextmanager
def _cluster(what: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Three nodes on this machine, where nodes are killed."""
    if what != "node":
        yield None, {}
        return
    os.environ.update(RAY_worker_niceness="0", RAY_USAGE_STATS_ENABLED="0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "gcs_server_port": runs.free_port()})
    try:
        yield (cluster, [cluster.add_node(num_cpus=1) for _ in range(3)]), {"RAY_ADDRESS": cluster.address}
    finally:
        cluster.shutdown()


class Store:
    """An S3 server with a bucket, as the root of runs whose machines may be lost."""

    def __init__(self, out: Path):
        self.scratch, port = out / "machine", runs.free_port()
        words = [sys.executable, "-m", "moto.server", "-p", str(port)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "SSLSCALE_SCRATCH": str(self.scratch),
        }
        runs.wait_for_port(port)
        os.environ.update({name: value for name, value in self.env.items() if name.startswith("AWS")})
        self._client().create_bucket(Bucket="lab")

    @staticmethod
    def _client() -> Any:
        import boto3

        return boto3.client("s3")

    def fetch(self, root: Path) -> None:
        """What the store has of a root, as files."""
        client, prefix = self._client(), f"{root.name}/"
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="lab", Prefix=prefix):
            for found in page.get("Contents", []):
                file = root / found["Key"].removeprefix(prefix)
                file.parent.mkdir(parents=True, exist_ok=True)
                client.download_file("lab", found["Key"], str(file))

    def lose(self) -> None:
        """The machine is gone, and another one has nothing of it."""
        for _ in range(100):
            shutil.rmtree(self.scratch, ignore_errors=True)
            if not self.scratch.exists():
                return
            time.sleep(0.1)


def chaos(
    out: Path,
    what: str,
    kills: int,
    seed: int,
    overrides: Sequence[str] = (),
    *,
    env: dict[str, str] | None = None,
    store: bool = False,
    tell: Any = lambda text: None,
) -> Outcome:
    """Run the graph of `runs.TINY` again and again in new roots, until so much was killed; compare each that ended."""
    config = runs.write(out, runs.TINY)
    choice = random.Random(seed)
    killed = ended = attempts = 0
    wrong: list[str] = []
    slowest = 0.0
    with _cluster(what) as (nodes, own), contextlib.ExitStack() as ending:
        remote = Store(out) if store else None
        if remote is not None:
            ending.callback(remote.process.kill)
        env = {**own, **(remote.env if remote else {}), **(env or {})}
        started = time.monotonic()
        runs.sslscale("run", config, *overrides, "--root", out / "golden", env=env)
        whole = time.monotonic() - started
        tell(f"undisturbed: {whole:.0f} s")
        while killed < kills or ended == 0:
            root = out / f"run-{ended}"
            shutil.rmtree(root, ignore_errors=True)
            while True:
                attempts += 1
                place = f"s3://lab/{root.name}" if remote else root
                process = runs.start("run", config, *overrides, "--root", place, env=env)
                started = time.monotonic()
                while killed < kills:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(choice.uniform(0.1 * whole, 0.9 * whole))
                    if process.poll() is not None:
                        break
                    if name := _kill(what, process, choice, nodes):
                        killed += 1
                        stages = len(list(root.glob("artifacts/*/*/record.json")))
                        tell(f"{killed}: {name} after {time.monotonic() - started:.1f} s, with {stages} stages done")
                    if what == "term":
                        break
                    if what == "driver":
                        if remote is not None and choice.random() < 0.5:
                            process.wait()
                            remote.lose()
                            tell("  and its machine is gone")
                        break
                asked = time.monotonic()
                _, err = process.communicate(timeout=_PATIENCE_S)
                if process.returncode == 143 and what == "term":
                    slowest = max(slowest, time.monotonic() - asked)
                    tell(f"  it ended {time.monotonic() - asked:.1f} s later")
                    continue
                if process.returncode == 0:
                    break
                if process.returncode > 0:  # more workers were lost than max_failures
                    tell(f"  ended with {process.returncode}: {(err.strip().splitlines() or [''])[0][:150]}")
                    assert "Traceback" not in err, err
            if remote is not None:
                remote.fetch(root)
            found = differences(out / "golden", root)
            wrong += [f"run {ended}: {name}" for name in found]
            tell(f"run {ended} ended; {len(found)} files differ")
            ended += 1
            if not found:
                shutil.rmtree(root)
    return Outcome(killed, ended, attempts, wrong, slowest)


def main() -> int:
    """The command at the top."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kill", choices=("driver", "worker", "node", "term"), default="driver")
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--store", action="store_true")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("overrides", nargs="*")
    given = options.parse_args()
    found = chaos(
        given.out,
        given.kill,
        given.kills,
        given.seed,
        given.overrides,
        store=given.store,
        tell=lambda text: print(text, flush=True),
    )
    for name in found.differences[:20]:
        print(name)
    if found.slowest_s:
        print(f"the slowest end after SIGTERM took {found.slowest_s:.1f} s")
    print(f"{found.kills} kills, {found.attempts} starts, {found.runs} runs compared, {len(found.differences)} differ")
    return int(bool(found.differences))


if __name__ == "__main__":
    sys.exit(main())
