"""What every self-supervised method promises: gradients only where something learns, a state that can be resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.methods.deepcluster_v2.method import begins_epoch
from sslscale.methods.method import Method, StepInfo, build_method
from sslscale.methods.supcon import SupCon
from sslscale.nn.ema import cosine_momentum
from sslscale.settings.method import SelfSupervised, SemiSupervised
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.train import checkpoint
from sslscale.train.engine import Engine
from tests.configurations import CONFIGS, FRAMES, semantic_maps, texts, transcripts

SEMI_SUPERVISED = sorted(name for name, config in CONFIGS.items() if isinstance(config.method, SemiSupervised))
SELF_SUPERVISED = sorted(n for n, config in CONFIGS.items() if isinstance(config.method, (SelfSupervised, SupCon)))
OTHERS = sorted(set(CONFIGS) - {*SEMI_SUPERVISED, *SELF_SUPERVISED})
IMAGES, STEPS = 64, 40


def small(name: str) -> TrainConfig:
    return dataclasses.replace(CONFIGS[name], num_steps=STEPS, sync_batch_norm=False)


def make(config: TrainConfig, *, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    method = build_method(config.method, config.model, 10)
    method.prepare(dict.fromkeys(config.batch_sizes, IMAGES), config)
    return method.train()


def batch(config: TrainConfig, step: int) -> dict[str, Batch]:
    generator = torch.Generator().manual_seed(step)
    found = {}
    for spec in config.method.streams:
        count = config.batch_sizes[spec.name]
        sizes = [view.size or config.image.size for view in config.views_of(spec) for _ in range(view.count)]
        frames = (FRAMES,) if spec.clips else ()
        across = config.image.width
        views = tuple(torch.randn(count, *frames, 3, size, across or size, generator=generator) for size in sizes)
        index = torch.randperm(IMAGES, generator=generator)[:count]
        numbers = torch.rand(count, 10, generator=generator)
        given = {"label": index % 3, "soft_label": numbers.softmax(1), "features": numbers, "teacher_logits": numbers}
        given |= {"text": texts(count, generator), "video": index // 4, "transcript": transcripts(index)}
        given["semantic"] = semantic_maps(index, config.image.size)
        given["sound"] = torch.randn(count, 16, 4 * FRAMES, generator=generator)
        found[spec.name] = Batch(views, index, {name: given[name] for name in spec.fields})
    return found


def run(engine: Engine, config: TrainConfig, first: int, last: int) -> list[dict[str, torch.Tensor]]:
    rows = []
    for step in range(first, last):
        torch.manual_seed(step)
        parts, _ = engine.train_step(batch(config, step), StepInfo(step, step / STEPS, step / 4))
        rows.append(parts)
    return rows


@pytest.mark.parametrize("name", [*SELF_SUPERVISED, *SEMI_SUPERVISED])
def test_only_what_learns_has_a_gradient(name: str) -> None:
    config = small(name)
    method = make(config)
    method.before_step(StepInfo(0, 0 / STEPS, 3.0))
    losses = method(batch(config, 0))
    losses.total.backward()
    shown = losses.embedding if name in SELF_SUPERVISED else losses.parts["unlabeled_loss"]
    assert shown is not None and not shown.requires_grad
    assert not any(part.requires_grad for part in losses.parts.values())
    still = {id(weight) for weight in method.frozen}  # in this step
    for key, weight in method.named_parameters():
        if id(weight) in still:
            continue
        learns = weight.grad is not None and bool((weight.grad != 0).any())
        if not weight.requires_grad:
            assert weight.grad is None, key
        elif "mask_token" not in key:  # which no patch of a batch may need
            # a layer before a batch norm has a bias without effect; its gradient is rounding
            assert learns or key.endswith("bias"), key
    assert all(
        not p.requires_grad for n, p in method.named_parameters() if n.split(".")[0] in ("teacher", "slow", "average")
    )


@pytest.mark.parametrize("name", [*SELF_SUPERVISED, *SEMI_SUPERVISED, *OTHERS])
def test_a_state_survives_bit_for_bit_and_goes_on_the_same(name: str, tmp_path: Path) -> None:
    config = small(name)
    engine = Engine(make(config), config, STEPS, torch.device("cpu"))
    run(engine, config, 0, 6)
    checkpoint.save_state(tmp_path, 6, {**engine.state_dict(), "loader": {}})
    found = checkpoint.load_state(tmp_path, torch.device("cpu"))
    assert found is not None
    other = Engine(make(config, seed=1), config, STEPS, torch.device("cpu"))
    other.load_state_dict(found[1])
    mine, theirs = engine.method.state_dict(), other.method.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    for ours, read in zip(run(engine, config, 6, 10), run(other, config, 6, 10), strict=True):
        assert ours.keys() == read.keys() and all(torch.equal(ours[key], read[key]) for key in ours)
    theirs = other.method.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in engine.method.state_dict().items())


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_the_loss_falls(name: str) -> None:
    config = small(name)
    adam = OptimConfig(name="adamw", lr=1e-3)
    config = dataclasses.replace(config, optim=adam)
    method = make(config)
    engine = Engine(method, config, STEPS, torch.device("cpu"))
    one = batch(config, 0)
    kept = {
        k: v.clone()
        for k, v in method.state_dict().items()
        if k.split(".")[0] in ("queue", "queues", "center", "covariance")
    }
    losses = []
    for _ in range(STEPS):
        method.load_state_dict(kept, strict=False)
        torch.manual_seed(0)
        same = StepInfo(0, 0.0, 3.0)  # the same masks and negatives each time
        losses.append(float(engine.train_step(one, same)[0]["loss"]))
    assert min(losses[-5:]) < losses[0]


SLOW: dict[str, Callable[[Method], tuple[torch.nn.Module, torch.nn.Module]]] = {
    "byol": lambda m: (m.target[1], m.projector),  # type: ignore[index, return-value]
    "moco_v2": lambda m: (m.slow[1], m.projector),  # type: ignore[index, return-value]
    "moco_v3": lambda m: (m.slow[1], m.projector),  # type: ignore[index, return-value]
    "dino": lambda m: (m.teacher[1], m.head),  # type: ignore[index, return-value]
    "dinov2": lambda m: (m.teacher_heads, m.heads),  # type: ignore[return-value]
    "tico": lambda m: (m.slow[1], m.projector),  # type: ignore[index, return-value]
}


@pytest.mark.parametrize("name", SLOW)
def test_slow_networks_follow_by_their_momentum_and_norm_by_their_own_batch(name: str) -> None:
    config = small(name)
    method = make(config)
    slow, online = SLOW[name](method)
    before = [p.clone() for p in slow.parameters()]
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.0)
    method.after_step(1, 0.5)
    start = config.method.momentum  # type: ignore[attr-defined]
    momentum = start if name == "moco_v2" else cosine_momentum(start, 0.5)
    for old, now, new in zip(before, slow.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(now, momentum * old + (1 - momentum) * new)
    assert all(module.training for module in slow.modules())


def test_momentum_schedules_match_the_papers() -> None:
    assert cosine_momentum(0.996, 0.0) == pytest.approx(0.996)
    assert cosine_momentum(0.996, 0.5) == pytest.approx(0.998)
    assert cosine_momentum(0.996, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "weight"), [("dino", "head.last"), ("dinov2", "heads.1.last"), ("swav", "prototypes")]
)
def test_last_layers_stay_as_long_as_they_are_frozen(name: str, weight: str) -> None:
    config = small(name)
    engine = Engine(make(config), config, STEPS, torch.device("cpu"))
    layer = engine.method.get_submodule(weight)
    engine.method.before_step(StepInfo(0, 0 / STEPS, 0.0))
    before = layer.weight.clone()  # type: ignore[operator]
    engine.train_step(batch(config, 0), StepInfo(0, 0 / STEPS, 0.0))
    torch.testing.assert_close(layer.weight, before, rtol=1e-6, atol=1e-7)  # SwAV's is made length 1 once more
    engine.train_step(batch(config, 1), StepInfo(1, 1 / STEPS, 1.0))
    assert not torch.equal(layer.weight, before)  # type: ignore[arg-type]


def test_swavs_queue_waits_for_its_epoch_and_to_be_full() -> None:
    config = small("swav")
    method = make(config)
    method.before_step(StepInfo(0, 0 / STEPS, 0.0))
    method(batch(config, 0))
    assert int(method.queues[0].filled) == 0  # type: ignore[index, union-attr]
    for step in range(3):
        method.before_step(StepInfo(step, step / STEPS, 1.0))
        method(batch(config, step))
    assert int(method.queues[0].filled) == 36  # type: ignore[index, union-attr]
    scores = torch.randn(16, 12)
    method.before_step(StepInfo(3, 3 / STEPS, 1.0))
    alone = method._assign(0, scores)  # type: ignore[operator]
    state = method.state_dict()
    state["queues.0.filled"] = torch.zeros_like(state["queues.0.filled"])
    method.load_state_dict(state)
    method.before_step(StepInfo(3, 3 / STEPS, 1.0))
    assert not torch.allclose(alone, method._assign(0, scores))  # type: ignore[operator]


def test_pirls_bank_moves_for_the_images_of_the_batch_alone() -> None:
    config = small("pirl")
    method = make(config)
    bank = method.bank.rows  # type: ignore[union-attr]
    before = bank.clone()  # type: ignore[operator]
    images = batch(config, 0)
    losses = method(images)
    index = images["images"].index
    rows = torch.nn.functional.normalize(losses.embedding, dim=1)
    expected = torch.nn.functional.normalize(0.5 * before[index] + 0.5 * rows, dim=1)
    torch.testing.assert_close(bank[index], expected)  # type: ignore[index]
    others = torch.ones(IMAGES, dtype=torch.bool).scatter(0, index, False)
    assert torch.equal(bank[others], before[others])  # type: ignore[index]
    assert bank.shape == (IMAGES, 128)


def test_moco_v3_can_leave_a_vits_patches_as_they_are() -> None:
    from sslscale.methods.moco_v3 import MoCoV3
    from sslscale.settings.model import ModelConfig

    recipe = MoCoV3(hidden=24, projection=16, freeze_patches=True)
    method = build_method(recipe, ModelConfig(name="vit_32x2_2", grid=4), 10)
    assert not method.backbone.patch_embed.weight.requires_grad  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="has no patches"):
        build_method(recipe, ModelConfig(name="wrn_10_0.5"), 10)


def test_deepcluster_remembers_an_epoch_then_learns_its_clusters() -> None:
    config = small("deepcluster_v2")
    engine = Engine(make(config), config, STEPS, torch.device("cpu"))
    method = engine.method
    before = {name: value.clone() for name, value in method.named_parameters()}
    whole = batch(config, 0)["images"]
    for step in range(4):  # 64 images in 4 batches of 16
        index = torch.arange(16 * step, 16 * step + 16)
        engine.train_step({"images": Batch(whole.views, index)}, StepInfo(step, step / STEPS, step / 4))
    for name, value in method.named_parameters():
        assert torch.equal(value, before[name])  # the first epoch fills the memory, and no weight moves
    memory, centroids = method.memory.rows, method.centroids  # type: ignore[union-attr]
    torch.testing.assert_close(memory.view(64, 2, -1).norm(dim=2), torch.ones(64, 2))  # type: ignore[operator, union-attr]
    torch.testing.assert_close(memory[:16], memory[48:])  # type: ignore[index] (the same views)
    assert not centroids.any()  # type: ignore[operator, union-attr]
    engine.train_step({"images": Batch(whole.views, torch.arange(16))}, StepInfo(4, 4 / STEPS, 1.0))
    torch.testing.assert_close(centroids.norm(dim=2), torch.ones(2, 12))  # type: ignore[operator, union-attr]
    assigned = method.assigned  # type: ignore[union-attr]
    # the first head clusters the first view's embeddings, the second head the second's
    kept = memory.clone()  # type: ignore[operator, union-attr]
    kept[:16] = kept[48:]  # what they were before this step wrote
    for head in range(2):
        nearest = (kept[:, 16 * head : 16 * head + 16] @ centroids[head].T).argmax(1)  # type: ignore[index]
        assert torch.equal(nearest.int(), assigned[head])  # type: ignore[index]
    moved = [name for name, value in method.named_parameters() if not torch.equal(value, before[name])]
    assert moved
    engine.train_step({"images": Batch(whole.views, torch.arange(16))}, StepInfo(5, 5 / STEPS, 1.25))
    assert torch.equal(assigned, method.assigned)  # type: ignore[arg-type] (until the epoch ends)
    with pytest.raises(ConfigError, match="12 are more than the 11 images"):
        method.prepare({"images": 11}, config)


@pytest.mark.parametrize(
    ("images", "batch_size"), [(3, 1), (64, 16), (1000, 7), (50_000, 128), (1_281_167, 4096), (97, 96)]
)
def test_epochs_begin_where_whole_numbers_say(images: int, batch_size: int) -> None:
    for step in range(3000):
        info = StepInfo(step, 0.0, step * batch_size / images)
        expected = step > 0 and step * batch_size // images > (step - 1) * batch_size // images
        assert begins_epoch(info) == expected, step
