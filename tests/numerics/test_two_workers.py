"""Two workers give what one gives on the same global batch: losses, weights, statistics."""

from __future__ import annotations

import dataclasses
import functools
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from sslscale import distributed
from sslscale.data.index import read_index
from sslscale.data.joined import as_clips, open_captioned, open_described, open_scenes, open_transcribed
from sslscale.data.objects import Objects, encode_mask, write_found
from sslscale.data.samples import open_images, open_samples
from sslscale.data.soft_labels import SoftLabels
from sslscale.data.sound import Spectra
from sslscale.data.stream import Stream
from sslscale.errors import DataError
from sslscale.graph.resources import Resources, Strategy
from sslscale.methods.method import build_method
from sslscale.nn.batch_norm import use_global
from sslscale.settings.kinds import Clips, ImageSound, ImageText, LabeledLines, Scenes
from sslscale.settings.method import method_names
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.train.fit import fit
from sslscale.train.strategy import build_engine
from tests.configurations import CONFIG, CONFIGS, FRAMES, STEPS, Rows, texts, transcripts


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
        "images": open_images(folder, config.splits),
    }
    samples["unlabeled"] = open_images(folder, config.splits)
    soft = (
        torch.nn.functional.one_hot(torch.from_numpy(samples["pseudo"].labels).long(), 10).float().numpy() * 0.9 + 0.01
    )
    samples["pseudo"] = dataclasses.replace(
        samples["pseudo"], soft=SoftLabels(10, soft), entry=np.arange(len(soft), dtype=np.int32)
    )
    if config.method.needs_teacher:
        samples["labeled"] = open_described(folder, described, ("labeled",), labels=True)
    if isinstance(config.method, LabeledLines):
        samples["labeled"] = open_transcribed(folder, described / "transcripts", tuple("0123456789"))
    if isinstance(config.method, Scenes):
        for split, source in (("labeled", "labeled"), ("pseudo", "labeled")):
            samples[split] = open_scenes(folder, (source,), described / "objects")
        samples["classified"] = open_samples(folder / "labeled")
    if isinstance(config.method, ImageText):
        samples["images"] = open_captioned(folder, described / "captions", ("labeled", "unlabeled"))
    if isinstance(config.method, Clips):
        samples["images"] = clips = as_clips(open_images(folder, ("labeled",)), FRAMES)
        if isinstance(config.method, ImageSound):
            spectra = Spectra(described / "sound", ("labeled",), 16, FRAMES)
            samples["images"] = dataclasses.replace(clips, sound=spectra)
    if name == "feature_distillation":
        samples["images"] = open_described(folder, described, ("labeled", "unlabeled"))
    data = dataclasses.replace(config, seed=1)
    streams = {
        spec.name: Stream.of(spec, samples[spec.name], data, cache=None, cache_bytes=0, threads=1)
        for spec in config.method.streams
    }
    torch.manual_seed(0)
    method = build_method(config.method, config.model, 10)
    method.prepare({n: len(s) for n, s in streams.items()}, config)
    engine = build_engine(method, config, STEPS, torch.device("cpu"), Resources(strategy=strategy))
    kept = Rows()
    fit(engine, streams, recorder=kept)
    rows = [{n: v for n, v in row.items() if n != "images_per_s"} for row in kept.rows]
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


def in_workers(name: str, folder: Path, world: int = 2) -> list[object]:
    start_processes(worker, (world, str(folder), name), nprocs=world, start_method="spawn")
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(world)]


def run_training(rank: int, folder: Path) -> object:
    """Every configuration that the folder names, one after another: processes take long to start."""
    found: dict[str, object] = {}
    for name in (folder / "names").read_text().split("\n"):
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
    """Ten numbers for every image, the tokens of a caption, and a spectrogram for every few of them."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for split in ("labeled", "unlabeled"):
        (out / split).mkdir(parents=True, exist_ok=True)
        index = read_index(folder / split)
        for kind in ("captions", "transcripts"):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
            np.save(out / kind / split / "usable.npy", np.ones(index.num_samples, bool))
        for number, info in enumerate(index.shards):
            tokens = texts(info.samples, generator).numpy().astype(np.uint16)
            np.save(out / "captions" / split / f"features-{number:06d}.npy", tokens)
            lines = transcripts(torch.arange(info.samples)).numpy().astype(np.uint16)
            np.save(out / "transcripts" / split / f"features-{number:06d}.npy", lines)
            if split == "labeled":
                (out / "objects").mkdir(exist_ok=True)
                write_found(out / "objects", number, [objects_of(n) for n in range(info.samples)])
            clips = rng.normal(size=(info.samples // FRAMES, 16 * 4 * FRAMES)).astype(np.float16)
            (out / "sound" / split).mkdir(parents=True, exist_ok=True)
            np.save(out / "sound" / split / f"features-{number:06d}.npy", clips)
            np.save(out / split / f"features-{number:06d}.npy", rng.normal(size=(info.samples, 10)).astype(np.float16))


def objects_of(number: int) -> Objects:
    """One to three boxes of a picture of 8 x 8, with masks that fill them."""
    boxes, masks = [], []
    for k in range(1 + number % 3):
        x, y = (number + 2 * k) % 5, (3 * number + k) % 5
        plane = np.zeros((8, 8), bool)
        plane[y : y + 3, x : x + 2] = True
        boxes.append([x, y, x + 2, y + 3])
        masks.append(encode_mask(plane))
    labels = np.arange(len(boxes)) % 10
    return Objects((8, 8), np.array(boxes, np.float32), labels, np.zeros(len(boxes), bool), tuple(masks))


@pytest.fixture
def shared(tmp_path: Path, digits: Path) -> Path:
    (tmp_path / "data").write_text(str(digits))
    return tmp_path


Trained = dict[str, tuple[list[dict[str, float]], dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    folder = tmp_path_factory.mktemp("described")
    features(digits, folder)
    return folder


@pytest.fixture(scope="module")
def alone(digits: Path, described: Path) -> Trained:
    return {name: train(digits, described, name) for name in CONFIGS}


# on three workers, which batches of 16 do not divide over: gathers, batch norm, assignments, soft labels, memory
FEW = ("noisy_student", "swav", "pirl")
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory, digits: Path, described: Path
) -> Callable[[int, str], list[dict[str, Any]]]:
    """What so many workers make of a configuration; batches of 16 divide over 2 and neither over 3 nor over 5."""

    @functools.cache
    def run(world: int, names: tuple[str, ...]) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp("together")
        (folder / "data").write_text(str(digits))
        (folder / "names").write_text("\n".join(names))
        (folder / "features").symlink_to(described)
        return in_workers("run_training", folder, world)  # type: ignore[return-value]

    others = tuple(name for name in CONFIGS if name not in FEW)
    return lambda world, name: run(world, tuple(CONFIGS) if world != 3 else FEW if name in FEW else others)


@pytest.mark.parametrize(
    ("world", "config"),
    [
        *((2, name) for name in CONFIGS),
        *((3, name) if name in FEW else pytest.param(3, name, marks=SLOW) for name in CONFIGS),
        *(pytest.param(5, name, marks=SLOW) for name in CONFIGS),
    ],
)
def test_several_workers_train_as_one(
    together: Callable[[int, str], list[dict[str, Any]]], alone: Trained, world: int, config: str
) -> None:
    results = together(world, config)
    one_rows, one = alone[config]
    for rank, result in enumerate(results):
        assert not isinstance(result[config], str), result[config]
        rows, state = result[config]
        for name, tensor in one.items():
            torch.testing.assert_close(state[name], tensor, rtol=2e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
        if rank == 0:
            assert len(rows) == STEPS
            for mine, theirs in zip(rows, one_rows, strict=True):
                pixels = mine.pop("pixel_accuracy", 0.0), theirs.get("pixel_accuracy", 0.0)  # a share of 16,384
                assert pixels[0] == pytest.approx(pixels[1], abs=1e-3)
                assert mine == pytest.approx({n: v for n, v in theirs.items() if n in mine}, rel=3e-4, abs=1e-5)
                assert theirs.keys() - mine.keys() <= {"pixel_accuracy"}
        else:
            assert rows == []


def test_every_method_is_compared() -> None:
    assert {config.method.name for config in CONFIGS.values()} == set(method_names())


def test_collectives_and_the_check_of_equal_data(shared: Path) -> None:
    first, second = in_workers("run_collectives", shared)
    for result in (first, second):
        assert result["total"].tolist() == [3.0, 4.0]  # type: ignore[index]
        assert result["grad"].tolist() == [11.0, 2.0]  # type: ignore[index]
        assert result["a"] == 0.5  # type: ignore[index]
        assert result["agree"] == (5, 6)  # type: ignore[index]
        assert "from 10 to 11 labeled images" in result["c"]  # type: ignore[index]


def test_global_batch_norm_keeps_its_digits_where_the_mean_is_large(shared: Path) -> None:
    """Against float64 over the whole batch: features with means of 0 to 100,000 times their spread."""
    results: list[Any] = in_workers("run_collectives", shared)
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
