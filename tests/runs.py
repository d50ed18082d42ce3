"""Start the real command as a user would, and look at what it leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

TINY = """
pipeline: noisy_student
data: {source: digits, labels_per_class: 10, test: 0.25, shard_size: 25}
teacher:
  method: {name: supervised}
  model: {name: wrn_10_0.5}
  image: {size: 16, mean: [0.3, 0.3, 0.3], std: [0.37, 0.37, 0.37]}
  batch_size: 50
  num_steps: 120
  log_every: 10
student:
  method: {name: noisy_student, unlabeled_ratio: 1}
  model: {name: wrn_10_0.5, dropout: 0.2, survival: 0.9}
  image: {size: 16, mean: [0.3, 0.3, 0.3], std: [0.37, 0.37, 0.37]}
  augment: {randaugment: {num_ops: 1, magnitude: 3, operations: [rotate, shear_x, translate_y], translate: 0.125}}
  batch_size: 50
  num_steps: 60
  log_every: 10
  save_every: 5
rounds: [{}]
"""

# a user's own pipeline: pack, train, measure
SHORT = """
from dataclasses import dataclass
from functools import partial
from sslscale.graph.artifacts import Checkpoint, Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.settings.train import TrainConfig
from sslscale.stages.evaluate import evaluate
from sslscale.stages.pack import content, pack
from sslscale.stages.train import train


@dataclass(frozen=True, kw_only=True)
class Config:
    data: PackConfig
    train: TrainConfig
    resources: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Weigh:
    unit: int = 1000


def weigh(ctx: RunContext, config: Weigh, *, model: Checkpoint) -> Report:
    return Report(path=str(ctx.path), metrics={"weights": model.num_parameters / config.unit})


def build(config: Config) -> list[Stage]:
    data = stage(pack, config.data, name="data", content=partial(content, config.data))
    model = stage(train, config.train, name="model", resources=config.resources, data=data)
    return [
        stage(evaluate, EvaluateConfig(), name="model/evaluate", model=model, data=data),
        stage(weigh, Weigh(), name="model/weigh", model=model),
    ]
"""

SHORT_CONFIG = """
pipeline: short.py
data: {source: digits, labels_per_class: 40, test: 0.25, shard_size: 100}
train:
  method: {name: supervised}
  model: {name: wrn_10_0.5}
  image: {size: 16}
  batch_size: 40
  num_steps: 400
  log_every: 10
  save_every: 10
"""


def write(folder: Path, text: str, name: str = "tiny.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    if "short.py" in text:
        (folder / "short.py").write_text(SHORT)
    return folder / name


def start(*words: str | Path, env: dict[str, str] | None = None, group: Path | None = None) -> subprocess.Popen[str]:
    """`sslscale WORDS` in a process group of its own, and in this control group of the kernel's, if any."""

    def prepare() -> None:
        # where the tests run in the background of a shell, Ctrl-C is ignored, and would be here
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.Popen(
        [sys.executable, "-m", "sslscale", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, **(env or {})},
        preexec_fn=prepare,
    )


def sslscale(*words: str | Path, code: int = 0, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Run to the end and return stdout and stderr; the exit code must be `code`."""
    process = start(*words, env=env)
    out, err = process.communicate(timeout=280)
    assert process.returncode == code, f"exit {process.returncode}\n{out[-3000:]}\n{err[-3000:]}"
    return out, err


def in_process(capsys: Any, *words: str | Path, code: int = 0) -> tuple[str, str]:
    """The same in this process, which spares the imports; for commands that start none of their own."""
    from sslscale.cli.main import main

    capsys.readouterr()
    found = main([*map(str, words)])
    out, err = capsys.readouterr()
    assert found == code, f"exit {found}\n{out[-3000:]}\n{err[-3000:]}"
    return out, err


def result(out: str) -> dict[str, Any]:
    """The JSON object of the last line."""
    return json.loads(out.strip().splitlines()[-1])


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    """Return as soon as `ready()`; the process must not have ended before."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert process.poll() is None, "it ended before the moment came: " + "".join(process.communicate())
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.005)


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool], timeout_s: float = 120) -> None:
    """kill -9 the driver alone as soon as `ready()`."""
    wait_until(ready, process, timeout_s)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def rows(folder: Path) -> list[dict[str, Any]]:
    """What a stage logged."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stages(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Stages of a result by name."""
    return {s["name"]: s for s in found["stages"]}


def folder_of(root: Path, found: dict[str, Any], name: str) -> Path:
    """The artifact of a stage."""
    key = stages(found)[name]["key"]
    (path,) = (root / "artifacts").glob(f"*/{key}")
    return path


def python(code: str, *words: str) -> str:
    """Run a script in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, timeout_s: float = 90) -> None:
    """Return as soon as something listens on a port of this machine."""
    deadline = time.monotonic() + timeout_s
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, f"nothing listens on {port}"
        time.sleep(0.1)
