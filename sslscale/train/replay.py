"""One batch of a training again, alone: what its images are, and where its gradients stop being finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from sslscale.data.loader import Loader
from sslscale.methods.method import StepInfo
from sslscale.train import checkpoint
from sslscale.train.opening import Training

SHOWN = 10  # weights that are named


def replay(training: Training, folder: Path, step: int) -> dict[str, Any]:
    """Run batch `step` forward and backward: with the weights that met it, if the training in `folder` stopped there,
    else with those of its newest state, or with the first ones.

    Returns plain JSON: the step of these weights, the keys of each stream's images, the range of each view's values,
    the parts of the loss, and the weights whose gradients are not finite. Nothing is written.
    """
    engine, streams = training.engine, training.streams
    found = engine.load(folder / "state")
    weights = step if checkpoint.load_bad(engine.method, folder, step) else 0 if found is None else found[0]
    loader = Loader(streams, step + 1)
    loader.load_state_dict({**loader.state_dict(), "step": step})
    (batch,) = loader
    first = streams[training.first]
    engine.method.train()
    now = StepInfo(step, step / engine.num_steps, step * engine.config.batch_size / len(first))
    parts, gradients = engine.gradients(batch, now)
    wrong = [name for name, value in gradients.items() if not value.isfinite().all()]
    return {
        "step": step,
        "weights_of_step": weights,
        "keys": {name: stream.keys(step) for name, stream in streams.items()},
        "views": {name: [_range(view) for view in one.views] for name, one in batch.items()},
        "parts": {name: float(value) for name, value in parts.items()},
        "gradients": len(gradients),
        "not_finite": wrong,
    }


def _range(view: Tensor) -> list[float]:
    return [float(view.min()), float(view.max())]
