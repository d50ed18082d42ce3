"""A run that is told to end: what is saved, by which workers at which step, and what is not waited for."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from mlflow.exceptions import MlflowException

from sslscale.cli import cluster
from sslscale.cli.main import main
from sslscale.cluster import connection, memory
from sslscale.data.samples import open_samples
from sslscale.data.stream import Stream
from sslscale.errors import Stopped
from sslscale.graph import dag, execution
from sslscale.graph.artifacts import Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import stage
from sslscale.interrupts import Terminable, sigterm_blocked
from sslscale.methods.method import build_method
from sslscale.methods.supervised import Supervised
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.storage import locks
from sslscale.tracking import outage
from sslscale.tracking.outage import PatientClient, Unreachable
from sslscale.train.engine import Engine
from sslscale.train.fit import fit
from tests.configurations import Rows

CONFIG = TrainConfig(
    method=Supervised(),
    model=ModelConfig(name="wrn_10_0.5"),
    image=ImageConfig(size=8),
    augment=AugmentConfig(),
    batch_size=10,
    num_steps=300,
    save_every=10_000,
    log_every=100,
)


class Asked(Rows):
    """A recorder that is asked to stop, or is not."""

    def __init__(self, folder: Path, stops: bool):
        super().__init__(folder)
        self._stops = stops

    def asked_to_stop(self) -> bool:
        return self._stops


def train(digits: Path, recorder: Rows) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    engine = Engine(build_method(CONFIG.method, CONFIG.model, 10), CONFIG, CONFIG.num_steps or 0, torch.device("cpu"))
    stream = Stream(
        "labeled",
        open_samples(digits / "labeled"),
        batch_size=CONFIG.batch_size,
        seed=0,
        image=CONFIG.image,
        views=(AugmentConfig(),),
        fields=("label",),
        cache=None,
        cache_bytes=0,
        threads=1,
    )
    fit(engine, {"labeled": stream}, recorder=recorder)
    return engine.method.state_dict()


def test_a_training_that_is_asked_to_stop_saves_its_step_and_goes_on_to_the_same_weights(
    digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped, match=r"stopped after step \d+ of 300; its state is saved"):
        train(digits, Asked(tmp_path / "a", stops=True))
    (saved,) = (tmp_path / "a").glob("step-*")
    assert 0 < int(saved.name.removeprefix("step-")) < 300
    resumed, whole = (
        train(digits, Asked(tmp_path / "a", stops=False)),
        train(digits, Asked(tmp_path / "b", stops=False)),
    )
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_only_the_attempt_that_is_meant_is_asked(context: Callable[..., RunContext]) -> None:
    first, second = (dataclasses.replace(context("train"), attempt=name) for name in ("first", "second"))
    assert not first.asked_to_stop()
    first.ask_to_stop()
    assert first.asked_to_stop() and not second.asked_to_stop()  # what a killed driver left stops no later one


class Busy:
    """A runner whose jobs do not end; the run is interrupted as soon as it looks."""

    def __init__(self) -> None:
        self.looked = 0

    def start(self, job: execution.Job) -> None:
        if self.make_folder:
            job.context.path.mkdir(parents=True)

    make_folder = True

    def poll(self, timeout_s: float) -> list[Any]:
        del timeout_s
        self.looked += 1
        if self.looked == 1:
            raise KeyboardInterrupt
        return []


def train_stage(ctx: RunContext, config: TrainConfig) -> Report:
    del config
    return Report(path=str(ctx.path))


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupted_run_asks_what_trains_and_does_not_wait_for_ever(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "GRACE_S", 0.3)
    monkeypatch.setattr(train_stage, "__name__", "train")
    monkeypatch.setattr(train_stage, "__module__", "sslscale.stages.train")
    planned = dag.plan([stage(train_stage, CONFIG, name="teacher")], tmp_path)
    runner = Busy()
    runner.make_folder = begun
    with pytest.raises(KeyboardInterrupt):
        execution.run(planned, tmp_path, runner)
    assert (planned[0].path / "stop").exists() == begun  # one that has not begun has nothing to save
    assert (runner.looked > 1) == begun
    assert locks.try_lock(tmp_path / "locks" / f"{planned[0].key}.lock") is not None


def test_sigterm_interrupts_once_and_then_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        signals = Terminable()
        with pytest.raises(KeyboardInterrupt), signals:
            signal.raise_signal(signal.SIGTERM)
        assert signals.terminated and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_fails_on_the_way_to_the_end_of_an_interrupted_command_ends_it_with_143(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: Any) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ValueError("what it needed has ended") from None
        return 0

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        monkeypatch.setattr(cluster, "list_jobs", interrupted)
        assert main(["jobs", "--address", "http://127.0.0.1:1"]) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err.startswith("error: ValueError: what it needed has ended")


def test_sigterm_waits_while_it_is_blocked_and_comes_afterwards() -> None:
    taken: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: taken.append(number))
    try:
        with sigterm_blocked():
            signal.raise_signal(signal.SIGTERM)  # to this thread
            assert not taken
        assert taken == [signal.SIGTERM]
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGTERM, before)


class Flaky:
    """Answers after so many failures."""

    def __init__(self, failures: float, error: Exception):
        self.failures, self.error, self.calls = failures, error, 0

    def log(self, value: int) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return value


def test_calls_wait_for_a_server_that_is_away_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(outage, "_LAST_TRIES_S", 0.1)
    told: list[int] = []
    away, busy = requests.exceptions.ConnectionError("refused"), MlflowException("failed with error code 503 != 200")
    for error in (away, busy):
        client = Flaky(3, error)
        assert PatientClient(lambda client=client: client, lambda: told.append(1)).log(7) == 7 and client.calls == 4
    assert len(told) == 6
    wrong = PatientClient(lambda: Flaky(1, MlflowException("no such run")), lambda: told.append(1))
    with pytest.raises(MlflowException, match="no such run"):  # which another try would not mend
        wrong.log(1)
    assert len(told) == 6
    gone = PatientClient(lambda: Flaky(float("inf"), away), lambda: None)
    gone.close()
    with pytest.raises(Unreachable):
        gone.log(1)


class OutOfMemoryError(Exception):
    """Ray's and torch's have this name."""


class ActorDiedError(Exception):
    """Ray's has this name."""


def test_memory_that_ran_out_is_told_with_a_smaller_batch_and_a_lost_node_is_not(
    context: Callable[..., RunContext], tmp_path: Path
) -> None:
    log = tmp_path / "t.log"

    def job(**resources: Any) -> execution.Job:
        return execution.Job(
            fn=train_stage, config=CONFIG, inputs={}, description={}, key="k", git="", context=context("t", **resources)
        )

    def told(error: Exception, job: execution.Job, old: int = 0) -> str:
        wrapped = RuntimeError("the trainer failed")
        wrapped.__cause__ = error
        return str(memory.why_it_died(wrapped, job, [tmp_path / "none.log", log], {log: old}))

    assert "t: a worker's memory ran out: its batch_size is 10; try 5" in told(OutOfMemoryError("x"), job())
    assert "the GPU's memory ran out" in told(OutOfMemoryError("CUDA out of memory"), job())
    assert "its batch_size is 10, over 3 workers; try 3" in told(ActorDiedError("it died"), job(num_workers=3))
    assert told(ActorDiedError("the actor died because its node has died."), job()) == "None"
    assert told(ValueError("x"), job()) == "None"
    log.write_text("step 1\n*** SIGSEGV received at time=1 on cpu 0 ***\nPC: @ 0x7 dnnl::impl::parallel()\n")
    assert "t: a worker crashed again and again (SIGSEGV)" in told(ActorDiedError("it died"), job())
    assert "dmesg" in told(ActorDiedError("it died"), job(), old=log.stat().st_size)  # that was an earlier run


def test_the_agents_of_a_cluster_of_ones_own_have_their_ports_before_they_start() -> None:
    """Ray's node waits for agents without one, and gives up where other processes use all cores."""
    from ray._private import parameter

    plain = parameter.RayParams
    with connection._chosen_ports():
        made = parameter.RayParams(metrics_export_port=None, num_cpus=1)
    ports = {getattr(made, name) for name in connection._AGENTS}
    assert len(ports) == 4 and all(20_000 <= port < 32_000 for port in ports)
    assert made.num_cpus == 1 and parameter.RayParams is plain
