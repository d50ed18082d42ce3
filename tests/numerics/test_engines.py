"""Two workers that share the weights out (FSDP, ZeRO 0 to 3) give what one gives; any engine reads another's state."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from sslscale.errors import ConfigError
from sslscale.graph.resources import Resources, Strategy
from sslscale.methods.method import Method, build_method
from sslscale.settings.kinds import ImageText
from sslscale.settings.train import OptimConfig
from sslscale.train.blocks import blocks
from sslscale.train.engine import Engine
from sslscale.train.fsdp import FSDPEngine
from sslscale.train.strategy import build_engine
from tests.configurations import CONFIGS
from tests.numerics import test_method_state as state_tests
from tests.numerics import test_two_workers as two_workers
from tests.numerics.test_two_workers import features

CPU = torch.device("cpu")
# averages, queues, edited and frozen weights, memories, gradients inside the forward, heads that a step does not use
STRATEGIES: dict[Strategy, list[str]] = {
    "fsdp": ["noisy_student", "dino", "pirl", "vat", "multi_pretext_alternate", "clip"],
    "zero0": ["noisy_student"],
    "zero1": ["dino"],
    "zero2": ["swav"],
    "zero3": ["noisy_student", "dino", "vat"],
}


def able(strategy: Strategy) -> list[str]:
    """The configurations that an engine can train."""
    return [n for n, config in CONFIGS.items() if strategy != "zero3" or not isinstance(config.method, ImageText)]


# state of one engine -> engine that goes on; the last are one worker's
CROSSINGS: list[tuple[str, str]] = [
    ("ddp", "zero3"),
    ("zero3", "fsdp"),
    ("fsdp", "parts"),
    ("parts", "zero1"),
    ("zero1", "zero2"),
    ("zero2", "ddp"),
    ("ddp", "fsdp+offload"),
    ("fsdp+offload", "zero2+offload"),
    ("zero2+offload", "zero3+offload"),
    ("zero3+offload", "fsdp"),
]
FIRST, LAST = 3, 6
ADAM = dataclasses.replace(
    CONFIGS["noisy_student"], optim=OptimConfig(name="adamw", lr=1e-3, clip_norm=0.5), sync_batch_norm=False
)


def engine_of(kind: str, method: Method) -> Engine:
    name, _, offload = kind.partition("+")
    strategy: Any = "fsdp" if name == "parts" else name
    resources = Resources(strategy=strategy, sharded_checkpoints=name == "parts", offload=bool(offload))
    engine: Any = build_engine(method, ADAM, LAST, CPU, resources)
    if name == "fsdp":  # each library is asked whether it heard
        heard = engine.method._get_fsdp_state()._fsdp_param_group.fsdp_params[0].offload_to_cpu
        assert heard == bool(offload)
    elif name.startswith("zero"):
        assert engine._engine.zero_cpu_offload() == bool(offload)
        assert bool(engine._engine.zero_offload_param()) == (bool(offload) and name == "zero3")
    return engine


def go_on(kind: str, folder: Path, first: int, last: int) -> dict[str, Any]:
    """Train from the state of step `first`, write that of step `last`, and return the weights."""
    method = state_tests.make(ADAM)
    for module in method.modules():  # of half a batch each, statistics would differ
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    engine = engine_of(kind, method)
    assert (engine.load(folder) or (0, None))[0] == first
    half = slice(dist.get_rank() * 8, dist.get_rank() * 8 + 8) if dist.is_initialized() else slice(None)
    for step in range(first, last):
        whole = state_tests.batch(ADAM, step)
        batch = {
            name: dataclasses.replace(
                b,
                views=tuple(v[half if name == "labeled" else _double(half)] for v in b.views),
                index=b.index[half if name == "labeled" else _double(half)],
                fields={n: x[half if name == "labeled" else _double(half)] for n, x in b.fields.items()},
            )
            for name, b in whole.items()
        }
        torch.manual_seed(step)
        engine.train_step(batch, state_tests.StepInfo(step, step / LAST, 0.0))
    engine.save(folder, last, {})
    found = {name: value.clone() for name, value in engine.state_dict()["method"].items() if value is not None}
    network = engine.network()  # what a checkpoint holds: here the running average
    if not dist.is_initialized() or dist.get_rank() == 0:
        found |= {f"kept.{name}": value.clone() for name, value in network.state_dict().items()}
    return found


def _double(part: slice) -> slice:
    return part if part.start is None else slice(part.start * 2, part.stop * 2)


def worker(rank: int, folder: str, every: bool) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", DS_ACCELERATOR="cpu"
    )
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.set_num_threads(1)
    root = Path(folder)
    found: dict[str, Any] = {}
    for strategy, names in STRATEGIES.items():
        for name in able(strategy) if every else names:
            try:
                found[f"{strategy} {name}"] = two_workers.train(
                    Path((root / "data").read_text()), root / "features", name, strategy
                )
            except Exception:
                found[f"{strategy} {name}"] = traceback.format_exc()
                dist.barrier()
    for before, after in [] if every else CROSSINGS:
        path = root / f"{before}-{after}"
        try:
            go_on(before, path, 0, FIRST)
            if before == "zero2" and rank == 0:  # for one worker alone
                shutil.copytree(path, root / "alone")
            found[f"{before} -> {after}"] = go_on(after, path, FIRST, LAST)
        except Exception:
            found[f"{before} -> {after}"] = traceback.format_exc()
            dist.barrier()
    torch.save(found, root / f"found-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def start(folder: Path, digits: Path, every: bool) -> Path:
    (folder / "data").write_text(str(digits))
    features(digits, folder / "features")
    start_processes(worker, (str(folder), every), nprocs=2, start_method="spawn")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    return start(tmp_path_factory.mktemp("engines"), digits, every=False)


def compare(folder: Path, digits: Path, strategy: Strategy, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, name, two_workers.configuration(name, strategy))
        one_rows, one = two_workers.train(digits, folder / "features", name)
    result = torch.load(folder / "found-0.pt", weights_only=True)[f"{strategy} {name}"]
    assert not isinstance(result, str), result
    rows, state = result
    assert state.keys() == one.keys()
    for key, value in one.items():
        torch.testing.assert_close(state[key], value, rtol=2e-4, atol=5e-5, msg=lambda m, k=key: f"{k}: {m}")
    assert len(rows) == len(one_rows)
    for mine, theirs in zip(rows, one_rows, strict=True):
        assert mine == pytest.approx(theirs, rel=3e-4, abs=1e-5)


@pytest.mark.parametrize(("strategy", "name"), [(s, name) for s, names in STRATEGIES.items() for name in names])
def test_workers_that_share_the_weights_train_as_one(
    trained: Path, digits: Path, strategy: Strategy, name: str
) -> None:
    compare(trained, digits, strategy, name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_method_trains_under_every_engine(tmp_path: Path, digits: Path) -> None:
    folder = start(tmp_path, digits, every=True)
    for strategy, name in itertools.product(STRATEGIES, CONFIGS):
        compare(folder, digits, strategy, name)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, torch.Tensor]:
    """What one worker's weights are after all steps."""
    return go_on("ddp", tmp_path_factory.mktemp("straight"), 0, LAST)


@pytest.mark.parametrize(("before", "after"), CROSSINGS)
def test_any_engine_goes_on_from_anothers_state(
    trained: Path, straight: Mapping[str, torch.Tensor], before: str, after: str
) -> None:
    state = torch.load(trained / "found-0.pt", weights_only=True)[f"{before} -> {after}"]
    assert not isinstance(state, str), state
    assert state.keys() == straight.keys() and any(key.startswith("kept.") for key in state)
    for key, value in straight.items():
        torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
        if key.startswith("kept."):
            assert torch.equal(state[key], state["average." + key.removeprefix("kept.")])
    files = {file.name for file in (trained / f"{before}-{after}" / f"step-{LAST:08d}").iterdir()}
    assert ("method.safetensors" in files) == (after != "parts")
    assert after != "parts" or len([f for f in files if f.endswith(".safetensors")]) == 2


@pytest.mark.parametrize("folder", ["alone", "parts-zero1"])
def test_one_worker_goes_on_from_two(
    trained: Path, straight: Mapping[str, torch.Tensor], folder: str, tmp_path: Path
) -> None:
    shutil.copytree(trained / folder / f"step-{FIRST:08d}", tmp_path / f"step-{FIRST:08d}")
    state = go_on("ddp", tmp_path, FIRST, LAST)
    for key, value in straight.items():
        torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


def test_activations_computed_twice_change_nothing() -> None:
    for name in ("noisy_student", "dino", "dinov2"):
        config = state_tests.small(name)
        found = []
        for twice in (False, True):
            method = state_tests.make(config)
            engine = build_engine(method, config, state_tests.STEPS, CPU, Resources(checkpoint_activations=twice))
            state_tests.run(engine, config, 0, 3)
            found.append(engine.method.state_dict())
        assert blocks(method)  # pyright: ignore[reportPossiblyUnboundVariable]
        for key, value in found[0].items():
            torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-7, msg=lambda m, k=key: f"{k}: {m}")


def test_half_precision_scales_its_loss_and_skips_what_overflows(tmp_path: Path) -> None:
    config = dataclasses.replace(state_tests.small("noisy_student"), precision="fp16")
    engine = build_engine(state_tests.make(config), config, state_tests.STEPS, CPU, Resources())
    before = {name: value.clone() for name, value in engine.method.named_parameters()}
    first = engine.state_dict()["scaler"]["scale"]
    state_tests.run(engine, config, 0, 12)
    assert engine.state_dict()["scaler"]["scale"] <= first
    assert any(not torch.equal(before[name], value) for name, value in engine.method.named_parameters())
    assert all(bool(torch.isfinite(value).all()) for value in engine.method.parameters())
    engine.save(tmp_path, 12, {})
    other = build_engine(state_tests.make(config, seed=1), config, state_tests.STEPS, CPU, Resources())
    other.load(tmp_path)
    assert other.state_dict()["scaler"] == engine.state_dict()["scaler"]


@pytest.mark.parametrize(
    ("change", "strategy", "message"),
    [
        ({"precision": "fp16"}, "fsdp", "fsdp trains in bf16 or fp32"),
        ({"precision": "fp16"}, "zero2", "zero trains in bf16 or fp32"),
        ({"compile": True}, "zero3", "not with zero"),
        ({"method": CONFIGS["clip"].method}, "zero3", "zero3 cannot train clip"),
        ({"optim": OptimConfig(name="lars")}, "zero1", "lars needs the norm of each weight"),
    ],
)
def test_unsupported_engine_settings_are_refused(change: dict[str, Any], strategy: Strategy, message: str) -> None:
    config = dataclasses.replace(ADAM, **change)
    method = build_method(config.method, config.model, 10)
    try:
        with pytest.raises(ConfigError, match=message):
            build_engine(method, config, 1, CPU, Resources(strategy=strategy))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def test_resources_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="sharded_checkpoints: fsdp writes them, zero3 does not"):
        Resources(strategy="zero3", sharded_checkpoints=True)
    with pytest.raises(ValueError, match="offload: ddp keeps everything"):
        Resources(offload=True)


def test_fsdp_gathers_the_weights_of_blocks_in_bf16_and_keeps_them_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_on_a_gpu(norm: torch.nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:  # where autocast casts all to float32
        return torch.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", as_on_a_gpu)
    monkeypatch.setattr(FSDPEngine, "_float32_norms", lambda self: (torch.nn.modules.batchnorm._BatchNorm,))
    for name in ("dinov2", "noisy_student"):  # a ViT, and a network with batch norm
        config = dataclasses.replace(state_tests.small(name), precision="bf16", sync_batch_norm=False)
        found = []
        for strategy in ("ddp", "fsdp"):
            try:
                engine = build_engine(
                    state_tests.make(config), config, state_tests.STEPS, CPU, Resources(strategy=strategy)
                )
                seen: set[torch.dtype] = set()
                for leaf in (m for block in blocks(engine.method) for m in block.modules() if hasattr(m, "weight")):
                    leaf.register_forward_hook(lambda module, _, __, seen=seen: seen.add(module.weight.dtype))  # pyright: ignore[reportArgumentType]
                state_tests.run(engine, config, 0, 1)
                assert seen == {torch.bfloat16 if (strategy, name) == ("fsdp", "dinov2") else torch.float32}
                assert all(weight.dtype == torch.float32 for weight in engine.method.parameters())
                state_tests.run(engine, config, 1, 4)
                found.append(engine.state_dict()["method"])
            finally:
                if dist.is_initialized():
                    dist.destroy_process_group()
        for key, value in found[0].items():
            torch.testing.assert_close(found[1][key], value, rtol=2e-2, atol=2e-3, msg=lambda m, k=key: f"{k}: {m}")
