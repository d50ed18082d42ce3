"""Checkpoints that are whole or absent: weights as safetensors, the rest loaded by weights-only unpickling.

A training keeps state/step-%08d folders to go on from; a finished one leaves model.safetensors and model.json.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sslscale import distributed
from sslscale.errors import DataError, ResourceError
from sslscale.nn.classifier import Classifier, build_backbone, build_classifier, num_parameters
from sslscale.nn.detector import Detector, OverBackbone, Segmenter, build_detector
from sslscale.nn.ensemble import Backbones, MeanOfMembers
from sslscale.nn.heads import CosineHead
from sslscale.nn.recognizer import Recognizer, build_recognizer
from sslscale.nn.sound_towers import SoundTowers, build_sound_towers
from sslscale.nn.towers import TwoTowers, build_towers
from sslscale.settings.model import FORMAT, ImageConfig, ModelConfig, ModelInfo, read_info
from sslscale.storage import jsonio, sums
from sslscale.train import sharded

log = logging.getLogger(__name__)
KEEP = 2
METHOD = "method.safetensors"
BAD_BATCH = "bad_batch.json"  # the step and the keys of a batch whose gradients were not finite
_BAD_WEIGHTS = "bad_batch.safetensors"  # a method's weights at that step


def save_state(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write state/step-N in one rename and drop all but the newest KEEP; raises ResourceError on a full disk."""
    from safetensors.torch import save_file

    _require_finite(folder, step, state)
    temporary = folder / f"tmp-{uuid.uuid4().hex[:8]}"
    with _writing(folder, step, temporary):
        temporary.mkdir(parents=True)
        weights = {name: tensor.detach().contiguous().cpu() for name, tensor in state["method"].items()}
        save_file(weights, temporary / METHOD)
        _commit(folder, step, temporary, state)


def save_parts(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """The same from a state whose tensors are sharded: called on all workers, each of which writes its part."""
    _require_finite(folder, step, state)
    temporary = folder / f"tmp-{step:08d}"
    with _writing(folder, step, temporary):
        if distributed.is_main():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        distributed.barrier()
        rest = sharded.write(temporary, state)
        if distributed.is_main():
            _commit(folder, step, temporary, {**rest, "loader": state["loader"]})


def _require_finite(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Raise DataError for a state that nobody could go on from; of a sharded one each worker looks at its part."""
    named = list(state["method"].items())
    for place, own in state["optimizer"]["state"].items():
        named += [(f"the optimiser's {name} of weight {place}", value) for name, value in own.items()]
    tensors = {
        name: value.to_local() if isinstance(value, DTensor) else value.detach()
        for name, value in named
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    if not tensors:
        return
    finite = torch.stack([value.isfinite().all().cpu() for value in tensors.values()])
    if not finite.all():
        wrong = [name for name, good in zip(tensors, finite.tolist(), strict=True) if not good]
        raise DataError(
            f"{len(wrong)} of {len(tensors)} tensors not finite at step {step} ({', '.join(wrong[:2])}): the state is "
            f"not saved; {last_good(folder)}; try a lower lr"
        )


def last_good(folder: Path | None) -> str:
    """Which state a training can go back to, in words."""
    saved = sorted(folder.glob("step-*")) if folder is not None else []
    return f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"


@contextlib.contextmanager
def _writing(folder: Path, step: int, temporary: Path) -> Iterator[None]:
    """Turn a failure to write into one clear line, and leave nothing of it."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ResourceError(f"{folder}: the checkpoint of step {step} cannot be written: {error}") from error


def _commit(folder: Path, step: int, temporary: Path, state: Mapping[str, Any]) -> None:
    """Write what is not weights, the sums of all files, and give the folder its name."""
    torch.save({n: state[n] for n in ("optimizer", "scaler") if n in state}, temporary / "optimizer.pt")
    files = {file.name: sums.sha256(file) for file in sorted(temporary.iterdir())}
    commit = {"format": FORMAT, "step": step, "loader": state["loader"], "files": files}
    jsonio.write_json(temporary / "commit.json", jsonio.sealed(commit))
    final = folder / f"step-{step:08d}"
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    jsonio.fsync_dir(folder)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    for left in folder.glob("tmp-*"):  # of an attempt that was killed while writing
        shutil.rmtree(left, ignore_errors=True)


def load_state(
    folder: Path, device: torch.device, like: Mapping[str, Any] | None = None
) -> tuple[int, dict[str, Any]] | None:
    """Load the newest whole state, or None if there is none. A damaged one is named and passed over.

    A state in parts is put together, or read by all workers in parts like those of `like` (see `sharded.read`).
    """
    from safetensors.torch import load_file

    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            commit = jsonio.unsealed(jsonio.read_json(path / "commit.json"))
            for name, expected in commit["files"].items():
                if sums.sha256(path / name) != expected:
                    raise ValueError(f"{name} has changed")
            rest = torch.load(path / "optimizer.pt", map_location=device, weights_only=True)
            if (path / METHOD).exists():
                state = {"method": load_file(path / METHOD, device=str(device)), "optimizer": rest.pop("optimizer")}
            else:
                state = sharded.read(path, rest, like)
            return commit["step"], {**rest, **state, "loader": commit["loader"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged (%s): going back to the one before", path, error)
    return None


def save_model(folder: Path, network: nn.Module, info: ModelInfo) -> None:
    """Write model.safetensors and model.json; raises ResourceError on a full disk."""
    _write_weights(folder / "model.safetensors", network.state_dict())
    try:
        described = {"format": FORMAT, **asdict(info)}
        del described["model"]["channels"]  # the image's
        jsonio.write_json(folder / "model.json", described)
    except OSError as error:
        raise ResourceError(f"{folder}: the model cannot be written: {error}") from error


def _write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}
    temporary = file.with_name(f"model.tmp-{uuid.uuid4().hex[:8]}")
    try:
        save_file(weights, temporary)
        os.replace(temporary, file)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise ResourceError(f"{file}: the weights cannot be written: {error}") from error


def load_model(folder: Path) -> tuple[Classifier, ModelInfo]:
    """Build the classifier of a checkpoint folder in eval mode; raises DataError."""
    info = read_info(folder)
    if info.detector is not None:
        raise DataError(f"{folder}: finds objects and has no classes of images: `eval --protocol detect` measures it")
    if not info.head:
        raise DataError(f"{folder}: a pre-trained backbone without a classifier: fine-tune it or probe it")
    network = build_classifier(info.model, len(info.classes), info.cosine_dim, info.members)
    load_weights(network, folder / "model.safetensors")
    return network.to(memory_format=torch.channels_last).eval(), info  # pyright: ignore[reportCallIssue]


def load_backbone(folder: Path) -> tuple[nn.Module, ModelInfo]:
    """Build the network of a checkpoint folder without its classifier, if it has one, in eval mode."""
    info = read_info(folder)
    if info.head:
        return load_model(folder)[0].backbone, info
    network, _ = build_backbone(info.model)
    load_weights(network, folder / "model.safetensors", prefix=backbone_prefix(info))
    return network.to(memory_format=torch.channels_last).eval(), info  # pyright: ignore[reportCallIssue]


def load_towers(folder: Path) -> TwoTowers:
    """Build the image and the text tower of a checkpoint folder in eval mode; raises DataError if it has no text."""
    info = read_info(folder)
    if info.text is None:
        raise DataError(f"{folder}: has no text tower: its training must be by clip or siglip")
    weights = folder / "model.safetensors"
    network = build_towers(info.model, info.text, has_bias="bias" in _names(weights))
    load_weights(network, weights)
    return network.eval()


def load_recognizer(folder: Path) -> tuple[Recognizer, ModelInfo]:
    """Build the recogniser of a checkpoint folder in eval mode; raises DataError if it is none."""
    info = read_info(folder)
    if info.decoder is None:
        raise DataError(f"{folder}: reads no lines of text: train it by one of the methods that do")
    network = build_recognizer(info.model, len(info.classes))
    load_weights(network, folder / "model.safetensors")
    return network.eval(), info


def load_detector(folder: Path) -> tuple[Detector | Segmenter, ModelInfo]:
    """Build the detector or segmentation network of a checkpoint folder in eval mode; DataError if it is none."""
    info = read_info(folder)
    if info.detector is None:
        raise DataError(f"{folder}: finds no objects: train it by detection")
    network = build_detector(info.detector, info.model, len(info.classes))
    load_weights(network, folder / "model.safetensors")
    return network.eval(), info


def load_sound_towers(folder: Path) -> SoundTowers:
    """Build the image and the sound tower of a checkpoint folder in eval mode; raises DataError if it has no sound."""
    info = read_info(folder)
    if info.sound is None:
        raise DataError(f"{folder}: has no sound tower: its training must be by avc or avts")
    network = build_sound_towers(info.model, info.sound)
    load_weights(network, folder / "model.safetensors")
    return network.eval()


def _names(file: Path) -> set[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as weights:
            return set(weights.keys())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: unreadable weights ({error})") from None


def backbone_prefix(info: ModelInfo) -> str:
    """What stands before the names of a backbone's weights."""
    if info.detector is not None:
        places = {"fcn": "maps.body.backbone.", "linear": "maps.backbone."}
        return places.get(info.detector.name, "model.backbone.body.backbone.")
    return "backbone." if info.head or info.text is not None or info.sound is not None else ""


def save_method(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write everything that a method has learned; raises ResourceError on a full disk."""
    _write_weights(folder / METHOD, weights)


def save_bad(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Keep the weights that met a batch whose gradients were not finite."""
    _write_weights(folder / _BAD_WEIGHTS, weights)


def load_bad(method: nn.Module, folder: Path, step: int) -> bool:
    """Take up the weights that met batch `step`, if it is the one whose gradients were not finite; whether it is."""
    try:
        kept = jsonio.read_json(folder / BAD_BATCH)["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if kept == step and (folder / _BAD_WEIGHTS).exists():
        load_weights(method, folder / _BAD_WEIGHTS)
        return True
    return False


def load_weights(module: nn.Module, file: Path, *, prefix: str = "") -> None:
    """Load weights that must fit exactly; raises DataError that counts what is missing, unexpected or misshapen.

    With a prefix only the weights that bear it are taken, without it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(sums.checked(file))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: unreadable weights ({error})") from None
    weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    unexpected = sorted(weights.keys() - wanted.keys())
    misshapen = sorted(n for n in wanted.keys() & weights.keys() if wanted[n].shape != weights[n].shape)
    if missing or unexpected or misshapen:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
            if names
        ]
        raise DataError(f"{file}: the weights do not fit the network: {'; '.join(parts)}; of {len(wanted)} tensors")
    module.load_state_dict(weights)


def describe_model(network: nn.Module, model: ModelConfig, image: ImageConfig, classes: tuple[str, ...]) -> ModelInfo:
    """The ModelInfo of a network just trained."""
    backbone, head = getattr(network, "backbone", None), getattr(network, "head", None)
    members = len(backbone.members) if isinstance(backbone, Backbones) else 1
    one = head.members[0] if isinstance(head, MeanOfMembers) else head
    return ModelInfo(
        model=model,
        image=image,
        classes=classes,
        num_parameters=num_parameters(network),
        head=isinstance(network, Classifier),
        text=network.config if isinstance(network, TwoTowers) else None,
        sound=network.config if isinstance(network, SoundTowers) else None,
        detector=network.config if isinstance(network, OverBackbone) else None,
        decoder=network.decoder if isinstance(network, Recognizer) else None,
        cosine_dim=one.classes.shape[1] if isinstance(one, CosineHead) else None,
        members=members,
    )


def drop_states(folder: Path) -> None:
    """Remove what a finished training kept to go on from."""
    shutil.rmtree(folder, ignore_errors=True)
