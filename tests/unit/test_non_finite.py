"""Gradients and weights that are not finite: no weight takes them up, no checkpoint holds them, no step waits."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslscale.data.batch import Batch
from sslscale.data.samples import open_samples
from sslscale.data.stream import Stream
from sslscale.errors import DataError
from sslscale.methods.method import build_method
from sslscale.methods.supervised import Supervised
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.storage.jsonio import read_json
from sslscale.train import checkpoint, optim
from sslscale.train.engine import Engine
from sslscale.train.fit import fit
from sslscale.train.lars import LARS
from tests.configurations import Rows

step_if = inspect.unwrap(optim.step_if)  # without the checks of annotations: the flag below is no tensor


class OnDevice:
    """A flag that a test gives to the branch of a GPU, on which the host must not look at it."""

    device = torch.device("cuda")

    def __init__(self, value: bool):
        self._value = torch.tensor(value)

    def __invert__(self) -> Tensor:
        return ~self._value

    def __bool__(self) -> bool:
        raise AssertionError("the host looked at what the device knows")


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 3)


class Together(LARS):
    """LARS, on the branch of a GPU."""

    @staticmethod
    def grouped(weights: Sequence[Tensor]) -> bool:
        return True


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "lars": lambda p: LARS(p, 0.1, weight_decay=0.01),
    "lars_together": lambda p: Together(p, 0.1, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("on_device", [False, True])
def test_a_step_with_non_finite_gradients_changes_nothing(name: str, on_device: bool) -> None:
    """The branch of a GPU, whose kernels see the flag, and the branch of a CPU give the weights of no such step."""
    flag = (lambda value: OnDevice(value)) if on_device else torch.tensor
    found = []
    for bad in (False, True):
        layer = network()
        optimizer = OPTIMIZERS[name](layer.parameters())
        for step in range(6):
            generator = torch.Generator().manual_seed(step)
            gradient = torch.randn(3, 5, generator=generator)
            if bad and step in (2, 4):
                layer.weight.grad = torch.full((3, 5), float("nan"))
                layer.bias.grad = torch.full((3,), float("inf"))
                step_if(optimizer, flag(False), on_gpu=on_device)  # pyright: ignore[reportArgumentType]
            layer.weight.grad, layer.bias.grad = gradient, gradient[:, 0].clone()
            step_if(optimizer, flag(True), on_gpu=on_device)  # pyright: ignore[reportArgumentType]
        found.append(torch.cat([layer.weight.flatten(), layer.bias]).detach())
    assert found[0].isfinite().all() and torch.equal(found[0], found[1])


@pytest.mark.parametrize("adapt", [True, False])
def test_lars_of_all_weights_at_once_is_lars_of_each(adapt: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch of a GPU against the loop, with steps left out on the way, and a weight of all zeros."""
    found = []
    for together in (True, False):
        monkeypatch.setattr(LARS, "grouped", staticmethod(lambda weights, together=together: together))
        layers = nn.Sequential(network(), nn.Linear(3, 4))
        nn.init.zeros_(layers[1].weight)  # pyright: ignore[reportArgumentType]
        optimizer = LARS(layers.parameters(), 0.1, weight_decay=0.01, trust=0.1, adapt=adapt)
        for step in range(6):
            generator = torch.Generator().manual_seed(step)
            for weight in layers.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
                if step in (1, 4):
                    weight.grad[0] = float("nan")
            step_if(optimizer, OnDevice(step not in (1, 4)), on_gpu=True)  # pyright: ignore[reportArgumentType]
        found.append(torch.cat([weight.flatten() for weight in layers.parameters()]).detach())
    assert found[0].isfinite().all()
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


def test_rmsprop_stays_finite_on_a_gpu() -> None:
    layer = network()
    optimizer = torch.optim.RMSprop(layer.parameters(), lr=0.01, momentum=0.9)
    for value in (1.0, float("nan"), 1.0):
        layer.weight.grad, layer.bias.grad = torch.full((3, 5), value), torch.full((3,), value)
        step_if(optimizer, OnDevice(value == 1.0), on_gpu=True)  # pyright: ignore[reportArgumentType]
    assert layer.weight.isfinite().all() and layer.bias.isfinite().all()


def test_a_state_that_is_not_finite_is_never_saved_and_the_good_one_stays(tmp_path: Path) -> None:
    layer = network()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(2, 5)).sum().backward()
    optimizer.step()

    def state() -> dict[str, Any]:
        return {"method": layer.state_dict(), "optimizer": optimizer.state_dict(), "loader": {"step": 1}}

    checkpoint.save_state(tmp_path, 1, state())
    optimizer.state[layer.weight]["momentum_buffer"][0, 0] = float("inf")
    with pytest.raises(DataError, match=r"1 of 4 tensors not finite at step 2 \(the optimiser's momentum_buffer"):
        checkpoint.save_state(tmp_path, 2, state())
    with torch.no_grad():
        layer.bias[1] = float("nan")
    with pytest.raises(
        DataError, match=rf"not finite at step 3 \(bias.* last good checkpoint is {tmp_path}/step-00000001"
    ):
        checkpoint.save_state(tmp_path, 3, state())
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000001"]
    found = checkpoint.load_state(tmp_path, torch.device("cpu"))
    assert found is not None and found[0] == 1


CONFIG = TrainConfig(
    method=Supervised(ema=0.9),
    model=ModelConfig(name="wrn_10_0.5"),
    image=ImageConfig(size=8),
    optim=OptimConfig(lr=0.05),
    batch_size=20,
    num_steps=8,
    log_every=4,
    save_every=4,
)


def train(folder: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, bad: set[int], **changes: Any) -> Any:
    """Train on digits; the images of the steps named are infinite. Returns the engine and the rows of its log."""
    samples = open_samples(digits / "labeled")
    stream = Stream(
        "labeled",
        samples,
        batch_size=20,
        seed=0,
        image=CONFIG.image,
        views=(AugmentConfig(),),
        cache=None,
        cache_bytes=0,
        threads=1,
    )
    config = dataclasses.replace(CONFIG, **changes)
    torch.manual_seed(0)
    engine = Engine(build_method(config.method, config.model, 10), config, 8, torch.device("cpu"))
    real = Engine._forward
    steps = iter(range(8))

    def forward(self: Engine, batch: Mapping[str, Batch]) -> Any:
        if next(steps) in bad:
            view = torch.full_like(batch["labeled"].views[0], float("inf"))
            batch = {"labeled": dataclasses.replace(batch["labeled"], views=(view,))}
        return real(self, batch)

    monkeypatch.setattr(Engine, "_forward", forward)
    kept = Rows(folder / "state")
    fit(engine, {"labeled": stream}, recorder=kept)
    return engine, kept.rows


def test_a_training_stops_at_gradients_that_are_not_finite(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"loss not finite at step 5 \(its batch: labeled digits/\d+.*step-00000004"):
        train(tmp_path, digits, monkeypatch, {5})
    assert [f.name for f in (tmp_path / "state").iterdir()] == ["step-00000004"]
    assert len(read_json(tmp_path / "bad_batch.json")["keys"]["labeled"]) == 20


def test_non_finite_steps_may_be_skipped(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, rows = train(tmp_path, digits, monkeypatch, {1, 6}, max_skipped_steps=2)
    assert all(value.isfinite().all() for value in engine.method.state_dict().values() if value.is_floating_point())
    assert [row["skipped_steps"] for row in rows] == [1, 2]
    assert all(0 < row["loss"] < 4 for row in rows)  # a mean over the steps that were taken
    monkeypatch.undo()
    with pytest.raises(DataError, match="not finite at step 1 "):
        train(tmp_path / "more", digits, monkeypatch, {1, 2, 6}, max_skipped_steps=2)
