"""The engine: parts of a batch, one after another, give the update of the whole; compiled or not."""

from __future__ import annotations

import dataclasses
import platform

import pytest
import torch

from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.supervised import Supervised
from sslscale.nn.batch_norm import use_global
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.train.engine import Engine, _part, set_up
from sslscale.train.optim import build_optimizer, weight_decay
from tests import runs
from tests.configurations import CONFIGS, batch_of

CONFIG = TrainConfig(
    method=Supervised(), model=ModelConfig(name="wrn_10_0.5"), image=ImageConfig(size=8), batch_size=12, num_steps=4
)


def updated(config: TrainConfig, *, eval_norms: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    torch.manual_seed(0)
    method = build_method(config.method, config.model, 10)
    engine = Engine(method, config, 4, torch.device("cpu"))
    if eval_norms:
        for module in method.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 3, 8, 8, generator=generator)
    batch = {"labeled": Batch((images,), torch.arange(12), {"label": torch.arange(12) % 10})}
    parts, _ = engine.train_step(batch, StepInfo(0, 0.0, 0.0))
    return dict(method.state_dict()), {name: float(value) for name, value in parts.items()}


@pytest.mark.parametrize("times", [2, 3, 12])
def test_accumulated_parts_give_the_update_of_the_whole_batch(times: int) -> None:
    whole, losses = updated(CONFIG)
    parts, part_losses = updated(dataclasses.replace(CONFIG, accumulate=times))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert part_losses == pytest.approx(losses, rel=1e-5)


def test_parts_that_do_not_divide_are_an_error() -> None:
    with pytest.raises(ValueError, match="accumulate: must divide batch_size"):
        dataclasses.replace(CONFIG, accumulate=5)
    batch = {"labeled": Batch((torch.zeros(5, 3, 8, 8),), torch.arange(5))}  # a worker's share of an odd number
    with pytest.raises(ConfigError, match="does not divide a worker's 5 images"):
        _part(batch, 0, 2)


@pytest.mark.slow
def test_compiled_gives_the_same_update() -> None:
    plain, _ = updated(CONFIG, eval_norms=False)
    compiled, _ = updated(dataclasses.replace(CONFIG, compile=True), eval_norms=False)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_rates_of_biases_and_the_decay_follow_their_own_schedules() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    config = OptimConfig(lr=1.6, bias_lr=0.04, weight_decay=0.04, final_weight_decay=0.4)
    groups = build_optimizer(module, config).param_groups
    assert {(g["params"][0].ndim, round(g["share"] * config.lr, 6), g["decayed"]) for g in groups} == {
        (2, 1.6, True),
        (1, 0.04, False),
    }
    assert [weight_decay(config, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.04, 0.22, 0.4])  # DINO: a cosine
    assert weight_decay(OptimConfig(weight_decay=0.1), 0.7) == 0.1
    adam = build_optimizer(module, OptimConfig(name="adamw", lr=0.1, betas=(0.9, 0.95)))
    assert all(group["betas"] == (0.9, 0.95) for group in adam.param_groups)


FAULTS = """
import resource, sys, torch
from sslscale.train.allocator import keep_freed_memory
torch.set_num_threads(1)
assert sys.argv[1] == "as it is" or keep_freed_memory()
def step():
    x = torch.ones(12 << 20)  # 48 MiB
    return (x * 2 + x).sum().item()
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
assert [step() for _ in range(5)] == [3.0 * (12 << 20)] * 5
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_freed_memory_is_kept_by_the_allocator() -> None:
    as_it_is, kept = (int(runs.python(FAULTS, word)) for word in ("as it is", "kept"))
    assert as_it_is > 5 * 12_000 and kept < as_it_is / 2  # none to a third, by where the heap lies


WHOLE = [name for name, config in CONFIGS.items() if config.method.accumulation_error]


@pytest.mark.parametrize("name", WHOLE)
def test_a_batch_that_is_needed_at_once_is_not_taken_in_parts(name: str) -> None:
    method = CONFIGS[name].method.name
    with pytest.raises(ValueError, match=f"accumulate: {method} needs its batch at once: "):
        dataclasses.replace(CONFIGS[name], accumulate=2)


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {*WHOLE, "vat"}))  # which draws other changes for each part
def test_parts_of_a_batch_have_the_loss_of_the_whole(name: str) -> None:
    """Of every method that allows parts: else it compares images of a batch, and must refuse them."""
    found = []
    for times in (1, 2):
        config = dataclasses.replace(CONFIGS[name], accumulate=times, sync_batch_norm=False)
        torch.manual_seed(0)
        method = build_method(config.method, config.model, 10)
        method.prepare(dict.fromkeys(config.batch_sizes, 200), config)
        engine = Engine(method, config, 8, torch.device("cpu"))
        for module in method.modules():  # of half a batch each, statistics would differ
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        batch = {stream: batch_of(config, stream, size, 0) for stream, size in config.batch_sizes.items()}
        parts, _ = engine.train_step(batch, StepInfo(0, 0.0, 0.0))
        found.append(float(parts["loss"]))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_mixed_images_are_of_one_batch() -> None:
    for method in (Supervised(mixup=0.4), Supervised(cutmix=1.0)):
        with pytest.raises(ValueError, match="accumulate: supervised needs its batch at once: mixup and cutmix mix"):
            dataclasses.replace(CONFIG, method=method, accumulate=2)


def test_synchronised_norms_of_a_gpu_keep_weights_and_names() -> None:
    method = build_method(CONFIG.method, CONFIG.model, 10)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    changed = use_global(method, on_gpu=True)
    norms = [part for part in changed.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(part, torch.nn.SyncBatchNorm) for part in norms)
    after = changed.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_a_gpu_is_set_up_for_speed_or_for_the_same_bits() -> None:
    kept = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        set_up(torch.device("cpu"), deterministic=True)
        assert not torch.are_deterministic_algorithms_enabled()
        set_up(torch.device("cuda"))
        assert torch.backends.cudnn.benchmark and torch.get_float32_matmul_precision() == "high"
        set_up(torch.device("cuda"), deterministic=True)
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.benchmark = kept[1]
