"""Two workers give what one gives on the same global batch: losses, weights, statistics."""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from sslscale import distributed
from sslscale.config import Recipe, recipe_names
from sslscale.dag import Resources, Strategy
from sslscale.data.loader import Stream
from sslscale.data.samples import open_described, open_images, open_samples
from sslscale.data.shards import read_index
from sslscale.errors import DataError
from sslscale.methods.method import build_method
from sslscale.nn.batch_norm import use_global
from sslscale.recipes.augment import AugmentConfig, JitterConfig, RandAugmentConfig
from sslscale.recipes.barlow_twins import BarlowTwins
from sslscale.recipes.byol import BYOL
from sslscale.recipes.dash import Dash
from sslscale.recipes.deit import DeiT
from sslscale.recipes.dino import DINO
from sslscale.recipes.dinov2 import DINOv2
from sslscale.recipes.emp_ssl import EMPSSL
from sslscale.recipes.feature_distillation import FeatureDistillation
from sslscale.recipes.fixmatch import FixMatch
from sslscale.recipes.flexmatch import FlexMatch
from sslscale.recipes.freematch import FreeMatch
from sslscale.recipes.joint_training import JointTraining
from sslscale.recipes.knowledge_distillation import KnowledgeDistillation
from sslscale.recipes.mae import MAE
from sslscale.recipes.mean_teacher import MeanTeacher
from sslscale.recipes.mixmatch import MixMatch
from sslscale.recipes.moco_v2 import MoCoV2
from sslscale.recipes.moco_v3 import MoCoV3
from sslscale.recipes.model import ImageConfig, ModelConfig
from sslscale.recipes.nnclr import NNCLR
from sslscale.recipes.noisy_student import NoisyStudent
from sslscale.recipes.pi_model import PiModel
from sslscale.recipes.pirl import PIRL
from sslscale.recipes.pseudo_label import PseudoLabel
from sslscale.recipes.remixmatch import ReMixMatch
from sslscale.recipes.scl import SCL
from sslscale.recipes.semi_supervised import SemiSupervised
from sslscale.recipes.simclr import SimCLR
from sslscale.recipes.simsiam import SimSiam
from sslscale.recipes.softmatch import SoftMatch
from sslscale.recipes.supcon import SupCon
from sslscale.recipes.supervised import Supervised
from sslscale.recipes.swav import SwAV
from sslscale.recipes.temporal_ensembling import TemporalEnsembling
from sslscale.recipes.train import OptimConfig, TrainConfig
from sslscale.recipes.uda import UDA
from sslscale.recipes.vat import VAT
from sslscale.recipes.vicreg import VICReg
from sslscale.train.fit import fit
from sslscale.train.strategy import build_engine

STEPS = 6
CONFIG = TrainConfig(
    method=NoisyStudent(unlabeled_ratio=2, ema=0.9),
    model=ModelConfig(name="wrn_10_0.5"),
    image=ImageConfig(size=8),
    augment=AugmentConfig(crop="pad", padding=1, randaugment=RandAugmentConfig(magnitude=4)),
    optim=OptimConfig(lr=0.05),
    batch_size=16,
    num_steps=STEPS,
    sync_batch_norm=True,
    log_every=1,
)

VIEWS = AugmentConfig(crop="resized", scale=(0.3, 1.0))
SMALL = AugmentConfig(crop="resized", scale=(0.1, 0.4), size=6, count=2)
VIT = ModelConfig(name="vit_32x2_2", grid=4)
# where gradients are steep, rounding grows with the step
STEEP = {"moco_v3", "barlow_twins", "vicreg", "emp_ssl", "nnclr", "supcon", "swav", "dinov2", "pirl"}


def of(recipe: Recipe, **more: Any) -> TrainConfig:
    rate = 1e-4 if recipe.name in STEEP else 0.01
    return dataclasses.replace(CONFIG, method=recipe, augment=VIEWS, optim=OptimConfig(lr=rate), **more)


def semi(recipe: SemiSupervised) -> TrainConfig:
    strong = any(recipe.views(stream)[1] for stream in recipe.batch_sizes(1))
    return dataclasses.replace(
        CONFIG,
        method=recipe,
        augment=AugmentConfig(crop="pad", padding=1),
        augment_strong=CONFIG.augment if strong else None,
        optim=OptimConfig(lr=0.01),
        # few enough that images come a second time
        splits=("labeled",) if recipe.name == "temporal_ensembling" else ("labeled", "unlabeled"),
    )


CONFIGS = {
    "noisy_student": CONFIG,
    "simclr": dataclasses.replace(
        CONFIG,
        method=SimCLR(temperature=0.5),
        augment=dataclasses.replace(VIEWS, jitter=JitterConfig(hue=0.0)),
        optim=OptimConfig(name="lars", lr=0.02, trust=0.5),
    ),
    "feature_distillation": dataclasses.replace(CONFIG, method=FeatureDistillation()),
    **{
        config.method.name: config
        for config in (
            of(BarlowTwins(projection=24)),
            of(VICReg(projection=24)),
            of(SimSiam(projection=24, hidden=8)),
            of(BYOL(momentum=0.9, projection=16, hidden=24)),
            of(NNCLR(queue=40, hidden=24, projection=16, predictor=24)),
            of(SCL(projection=24)),
            of(SupCon()),
            of(MoCoV2(queue=40, momentum=0.9)),
            of(MoCoV3(momentum=0.9, hidden=24, projection=16)),
            of(
                SwAV(prototypes=12, hidden=24, projection=16, queue=36, queue_epoch=0.01, freeze_prototypes=0.01),
                augment_local=SMALL,
            ),
            of(DINO(prototypes=24, hidden=24, bottleneck=8, momentum=0.9, freeze_last=0.01), augment_local=SMALL),
            of(
                DINOv2(prototypes=24, hidden=24, bottleneck=8, momentum=0.9, freeze_last=0.01),
                augment_local=SMALL,
                model=VIT,
            ),
            of(PIRL(pretext=("jigsaw", "rotation"), negatives=30), image=ImageConfig(size=16)),
            of(EMPSSL(patches=3, hidden=24, projection=16)),
            of(MAE(width=32, depth=1), model=VIT),
        )
    },
    "joint_training": dataclasses.replace(CONFIG, method=JointTraining(unlabeled_ratio=2, ema=0.9)),
    "mixed_and_adversarial": of(Supervised(mixup=0.4, cutmix=1.0, adversarial=0.5, epsilon=0.1)),
    "knowledge_distillation": of(KnowledgeDistillation(ema=0.9)),
    "deit": of(DeiT(mode="soft"), model=dataclasses.replace(VIT, distillation_token=True)),
    **{
        name: semi(recipe)
        for name, recipe in {
            # with a ratio of 1 one image is as near to two classes as two processors' roundings
            "pseudo_label": PseudoLabel(unlabeled_ratio=2, threshold=0.15, ramp=(0.0, 0.5)),
            "pi_model": PiModel(),
            "temporal_ensembling": TemporalEnsembling(unlabeled_ratio=4),
            "mean_teacher": MeanTeacher(ema=0.9),
            "vat": VAT(epsilon=1.0, ema=0.9, xi=1.0),  # a small difference divides rounding by itself
            "mixmatch": MixMatch(),
            "remixmatch": ReMixMatch(strong=2, batches=4),
            "remixmatch_ctaugment": ReMixMatch(strong=1, batches=4, ctaugment=True),
            "uda": UDA(unlabeled_ratio=3, threshold=0.1, tsa="exp"),
            "fixmatch": FixMatch(unlabeled_ratio=2, threshold=0.1),
            "fixmatch_ctaugment": FixMatch(unlabeled_ratio=2, threshold=0.1, ctaugment=True),
            "dash": Dash(unlabeled_ratio=2, warmup=0.3, every=0.2),
            "flexmatch": FlexMatch(unlabeled_ratio=2, threshold=0.12),
            "freematch": FreeMatch(unlabeled_ratio=2, momentum=0.5, fairness_weight=0.1),
            "softmatch": SoftMatch(unlabeled_ratio=2, momentum=0.5),
        }.items()
    },
}


def configuration(name: str, strategy: Strategy) -> TrainConfig:
    """LARS needs whole weights, which ZeRO cuts: there it is plain SGD."""
    config = CONFIGS[name]
    cut = strategy in ("zero1", "zero2", "zero3") and config.optim.name == "lars"
    return dataclasses.replace(config, optim=OptimConfig(lr=0.01)) if cut else config


def train(
    folder: Path, described: Path, name: str, strategy: Strategy = "ddp"
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    torch.set_num_threads(1)
    config = configuration(name, strategy)
    samples = {
        "labeled": open_samples(folder / "labeled"),
        "pseudo": open_samples(folder / "labeled"),
        "images": open_images(folder, ("labeled", "unlabeled")),
    }
    samples["unlabeled"] = open_images(folder, config.splits)
    soft = (
        torch.nn.functional.one_hot(torch.from_numpy(samples["pseudo"].labels).long(), 10).float().numpy() * 0.9 + 0.01
    )
    samples["pseudo"] = dataclasses.replace(samples["pseudo"], table=soft)
    if config.method.needs_teacher:
        samples["labeled"] = open_described(folder, described, ("labeled",), labels=True)
    if name == "feature_distillation":
        samples["images"] = open_described(folder, described, ("labeled", "unlabeled"))
    streams = {
        name: Stream(
            name,
            samples[name],
            batch_size=size,
            seed=1,
            image=config.image,
            views=config.views(name),
            cache=None,
            cache_bytes=0,
            threads=1,
        )
        for name, size in config.method.batch_sizes(config.batch_size).items()
    }
    torch.manual_seed(0)
    method = build_method(config.method, config.model, 10)
    method.prepare({n: len(s) for n, s in streams.items()}, config)
    engine = build_engine(method, config, STEPS, torch.device("cpu"), Resources(strategy=strategy))
    rows: list[dict[str, float]] = []

    def on_log(step: int, metrics: Mapping[str, float]) -> None:
        rows.append({n: v for n, v in metrics.items() if n != "images_per_s"})

    fit(engine, streams, on_log=on_log)
    return rows, {name: tensor.clone() for name, tensor in engine.state_dict()["method"].items() if tensor is not None}


def worker(rank: int, world: int, folder: str, name: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group-{name}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        result = globals()[name](rank, Path(folder))
        torch.save(result, f"{folder}/{name}-{rank}.pt")
    except Exception:
        Path(f"{folder}/{name}-{rank}.error").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()


def in_two_workers(name: str, folder: Path) -> list[object]:
    start_processes(worker, (2, str(folder), name), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]


def run_training(rank: int, folder: Path) -> object:
    """Every configuration, one after another: processes take long to start."""
    found: dict[str, object] = {}
    for name in CONFIGS:
        try:
            found[name] = train(Path((folder / "data").read_text()), folder / "features", name)
        except Exception:
            found[name] = traceback.format_exc()
            dist.barrier()
    return found


def run_collectives(rank: int, folder: Path) -> object:
    x = torch.tensor([1.0 + rank, 2.0], requires_grad=True)
    total = distributed.all_sum(x)
    (total * torch.tensor([10.0**rank, 1.0])).sum().backward()
    means = distributed.mean_scalars({"a": torch.tensor(float(rank)), "b": torch.tensor(4.0)})
    assert x.grad is not None
    try:
        fit_with_other_data(rank)
        complaint = ""
    except DataError as error:
        complaint = str(error)
    torch.manual_seed(0)
    rows = torch.randn(16, 4, 3, 3) + torch.tensor([0.0, 10.0, 1000.0, 1e5]).view(1, 4, 1, 1)
    norm = use_global(torch.nn.BatchNorm2d(4))
    mine = rows.chunk(2)[rank].clone().requires_grad_()
    normed = norm(mine)
    (normed * torch.linspace(0, 1, 8).view(8, 1, 1, 1)).sum().backward()
    assert isinstance(norm, torch.nn.BatchNorm2d) and mine.grad is not None and norm.running_var is not None
    return {
        "normed": normed.detach(),
        "normed_grad": mine.grad,
        "running_var": norm.running_var,
        "total": total.detach(),
        "grad": x.grad,
        "a": means["a"],
        "agree": distributed.agree(rank + 5),
        "c": complaint,
    }


def fit_with_other_data(rank: int) -> None:
    class Short:
        def __len__(self) -> int:
            return 10 + rank

    class Idle:
        config, num_steps = CONFIG, 1

    fit(Idle(), {"labeled": Short()})  # type: ignore[arg-type, dict-item]


def features(folder: Path, out: Path) -> None:
    """Ten numbers for every image."""
    rng = np.random.default_rng(0)
    for split in ("labeled", "unlabeled"):
        (out / split).mkdir(parents=True, exist_ok=True)
        for number, info in enumerate(read_index(folder / split).shards):
            np.save(out / split / f"features-{number:06d}.npy", rng.normal(size=(info.samples, 10)).astype(np.float16))


@pytest.fixture
def shared(tmp_path: Path, digits: Path) -> Path:
    (tmp_path / "data").write_text(str(digits))
    return tmp_path


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    (folder / "data").write_text(str(digits))
    features(digits, folder / "features")
    return folder / "features", in_two_workers("run_training", folder)  # type: ignore[return-value]


@pytest.mark.parametrize("config", CONFIGS)
def test_two_workers_train_as_one(two_workers: tuple[Path, list[dict[str, Any]]], digits: Path, config: str) -> None:
    described, results = two_workers
    one_rows, one = train(digits, described, config)
    for rank, result in enumerate(results):
        assert not isinstance(result[config], str), result[config]
        rows, state = result[config]
        for name, tensor in one.items():
            torch.testing.assert_close(state[name], tensor, rtol=2e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
        if rank == 0:
            assert len(rows) == STEPS
            for mine, theirs in zip(rows, one_rows, strict=True):
                assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
        else:
            assert rows == []


def test_every_method_is_compared() -> None:
    assert {config.method.name for config in CONFIGS.values()} == set(recipe_names())


def test_collectives_and_the_check_of_equal_data(shared: Path) -> None:
    first, second = in_two_workers("run_collectives", shared)
    for result in (first, second):
        assert result["total"].tolist() == [3.0, 4.0]  # type: ignore[index]
        assert result["grad"].tolist() == [11.0, 2.0]  # type: ignore[index]
        assert result["a"] == 0.5  # type: ignore[index]
        assert result["agree"] == (5, 6)  # type: ignore[index]
        assert "from 10 to 11 labeled images" in result["c"]  # type: ignore[index]


def test_global_batch_norm_keeps_its_digits_where_the_mean_is_large(shared: Path) -> None:
    """Against float64 over the whole batch: features with means of 0 to 100,000 times their spread."""
    results: list[Any] = in_two_workers("run_collectives", shared)
    torch.manual_seed(0)
    rows = torch.randn(16, 4, 3, 3) + torch.tensor([0.0, 10.0, 1000.0, 1e5]).view(1, 4, 1, 1)
    whole, norm = rows.double().requires_grad_(), torch.nn.BatchNorm2d(4).double()
    expected = norm(whole)
    (expected * torch.linspace(0, 1, 8, dtype=torch.float64).repeat(2).view(16, 1, 1, 1)).sum().backward()
    found = torch.cat([result["normed"] for result in results]).double()
    for channel, tolerance in enumerate((1e-5, 1e-5, 1e-3, 3e-2)):  # float32 itself has 7 digits of the input
        assert (found - expected)[:, channel].abs().max() < tolerance
    assert whole.grad is not None and norm.running_var is not None
    grads = torch.cat([result["normed_grad"] for result in results]).double()
    assert (grads - whole.grad)[:, :3].abs().max() < 1e-3
    for result in results:
        torch.testing.assert_close(result["running_var"].double(), norm.running_var, rtol=1e-3, atol=1e-3)
