"""No training step makes the host wait for the device: every method's step, the loader, the update, the averages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from sslscale.data.batch import Batch
from sslscale.data.samples import open_samples
from sslscale.data.stream import Stream
from sslscale.data.transfer import Fetched
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.supervised import Supervised
from sslscale.nn.classifier import build_backbone
from sslscale.nn.ema import update_ema
from sslscale.nn.learned_augment import LearnedAugment
from sslscale.nn.memory import SampleMemory
from sslscale.nn.queue import Queue
from sslscale.settings.augment import AugmentConfig, BlurConfig, JitterConfig, RandAugmentConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.streams import Field
from sslscale.settings.train import TrainConfig
from sslscale.train.engine import Engine
from sslscale.train.lars import LARS
from sslscale.train.optim import step_if
from tests.configurations import CONFIGS, FRAMES, TEXT, semantic_maps, transcripts
from tests.device import DEVICE, Device, HostWaits


def batch_of(device: Device, config: TrainConfig, stream: str, size: int, step: int) -> Batch:
    """A batch such as the loader makes: its tensors are on the device, and its numbers on the host too."""
    spec = next(spec for spec in config.method.streams if spec.name == stream)
    frames = (FRAMES,) if spec.clips else ()
    views = tuple(
        device.put(torch.empty(size, *frames, 3, side, config.image.width or side))
        for view in config.views_of(spec)
        for side in [view.size or config.image.size] * view.count
    )
    numbers = torch.arange(size) + step
    given = {
        "label": numbers,
        "video": numbers,
        "transcript": transcripts(numbers),
        "semantic": semantic_maps(numbers, config.image.size),
        "sound": torch.ones(size, 16, 4 * FRAMES),
        "text": torch.ones(size, TEXT.context, dtype=torch.int64),
    }
    fields: dict[Field, torch.Tensor] = {
        name: device.put(given.get(name, torch.empty(size, 10))) for name in spec.fields
    }
    return Batch(views, device.put(numbers), fields, numbers)


class OnGPU(Engine):
    """The engine, on the branch of a GPU."""

    @staticmethod
    def _is_gpu(device: torch.device) -> bool:
        return True


class Arrived(Fetched):
    """What has come to the host a step later: of the right shapes, all zeros, as the device computes nothing here."""

    def __init__(self, *tensors: torch.Tensor):
        self._host = [torch.zeros(tuple(x.shape), dtype=x.dtype) for x in tensors]
        self._event = None


@pytest.mark.parametrize("name", CONFIGS)
def test_no_step_makes_the_host_wait(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIGS[name], sync_batch_norm=False)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *args, **kwargs: self)
    monkeypatch.setattr("sslscale.nn.learned_augment.Fetched", Arrived)
    monkeypatch.setattr("sslscale.nn.ctc.NATIVE", ())
    sizes = config.batch_sizes
    method = build_method(config.method, config.model, 10)
    method.prepare({stream: 200 for stream in sizes}, config)
    if config.method.needs_teacher:
        method.teach(build_method(Supervised(), config.model, 10).result)  # pyright: ignore[reportCallIssue]
    for part in method.modules():
        if isinstance(part, Queue):
            assert not part.full  # it is asked once, when a training begins
        if hasattr(part, "_seen_on_host"):
            part._seen_on_host()  # pyright: ignore[reportCallIssue]
        if isinstance(part, LearnedAugment):
            part._take_up()
    with Device() as device:
        device.move(method)
        for part in method.modules():
            if isinstance(part, SampleMemory):
                part.rows = device.put(part.rows)
        engine = OnGPU(method, config, 10, DEVICE)
        method.train()
        for step in (0, 1, 5, 9):
            batch = {stream: batch_of(device, config, stream, size, step) for stream, size in sizes.items()}
            parts, _ = engine.train_step(batch, StepInfo(step, step / 10, step / 4))
            assert all(value.device == DEVICE for value in parts.values()), parts


VIEW = AugmentConfig(
    crop="resized",
    flip=True,
    jitter=JitterConfig(),
    grayscale=0.5,
    blur=BlurConfig(p=0.5),
    solarize=0.5,
    equalize=0.5,
    cutout=0.5,
    erase=0.5,
)
VIEWS = {
    "every colour": VIEW,
    "pad": AugmentConfig(crop="pad", padding=1, flip=True),
    "randaugment": AugmentConfig(crop="none", randaugment=RandAugmentConfig(magnitude=9)),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("whole", [True, False])
def test_the_loader_makes_views_without_a_wait(
    name: str, whole: bool, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslscale.data.augment._kernels", lambda: None)  # which are a CPU's
    stream = Stream(
        "labeled",
        open_samples(digits / "labeled"),
        batch_size=32,
        seed=0,
        image=ImageConfig(size=8),
        views=(VIEWS[name],),
        cache=None,
        cache_bytes=0,
        threads=1,
        whole_batches=whole,
        device=DEVICE,
    )
    raw = stream.load(*stream.choose(0))
    with Device():
        batch = stream.finish(raw)
        assert batch.views[0].device == DEVICE and batch.views[0].shape == (32, 3, 8, 8)
        assert batch.label.device == DEVICE and batch.index.device == DEVICE
        assert batch.host_index.tolist() == stream.choose(0)[0].tolist()


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (lambda x: x.sum().item(), "aten._local_scalar_dense"),
        (lambda x: x.cpu(), "a copy to the host"),
        (lambda x: x[x > 0], "DynamicOutputShape"),
        (lambda x: x + torch.ones(3), "host and device"),
        (lambda x: torch.ones(3).to(x.device), "a copy to the device that waits"),
        (lambda x: x[torch.tensor([0, 1])], "host and device"),
        (lambda x: bool(x.max() > 0), "aten._local_scalar_dense"),
    ],
)
def test_the_fake_device_detects_host_waits(what: Callable[[torch.Tensor], object], error: str) -> None:
    with Device() as device, pytest.raises(HostWaits, match=error):
        what(device.put(torch.ones(3)))


def test_an_average_and_lars_on_fake_cuda_tensors_wait_nowhere() -> None:
    """On torch's fake CUDA tensors, where an operation that makes the host wait raises, and so does a mixture of
    devices; a network's forward pass, the averages of its weights, and the update."""
    mode = FakeTensorMode()
    with mode, torch.device("cuda"):
        network = build_backbone(ModelConfig(name="wrn_10_0.5"))[0]
        average = build_backbone(ModelConfig(name="wrn_10_0.5"))[0]
        weights = list(network.parameters())
        optimizer = LARS(weights, 0.1, weight_decay=0.1)
    with mode:
        out = network(torch.randn(4, 3, 16, 16, device="cuda"))
        assert out.device.type == "cuda"
        update_ema(average, network, 0.9)
        gradients = [torch.randn_like(weight) for weight in weights]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        norm = torch.nn.utils.get_total_norm(gradients)
        step_if(optimizer, norm.isfinite(), on_gpu=True)
        step_if(optimizer, norm.isfinite(), on_gpu=True)
        with pytest.raises(DataDependentOutputException):
            norm.item()
