"""States that every worker writes its own part of: torch.distributed.checkpoint over safetensors, no pickles.

A part's file says where its rows belong, so any number of workers, and any engine, reads them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_WEIGHTS, _OPTIMIZER = "method.", "optimizer."


def write(folder: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Write this worker's part of a state's tensors, on all workers; returns the rest, which the main one keeps."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    optimizer = state["optimizer"]
    parts = {_WEIGHTS + name: value for name, value in state["method"].items()}
    numbers: dict[int, dict[str, Any]] = {}
    for place, own in optimizer["state"].items():
        large = {name: value for name, value in own.items() if isinstance(value, Tensor) and value.ndim}
        parts |= {f"{_OPTIMIZER}{place}.{name}": value for name, value in large.items()}
        numbers[place] = {name: value for name, value in own.items() if name not in large}
    dcp.save(  # pyright: ignore[reportPrivateImportUsage]
        parts, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True)
    )
    return {"optimizer": {"state": numbers, "param_groups": optimizer["param_groups"]}}


def read(folder: Path, rest: Mapping[str, Any], like: Mapping[str, Any] | None) -> dict[str, Any]:
    """The state that `write` wrote: whole on the CPU, or each tensor sharded as that of the same name in `like`.

    `like` has the method's weights, and under `optimizer` the trainable weights in the optimiser's order.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    reader = HuggingFaceStorageReader(str(folder))
    wanted: dict[str, Any] = {}
    for key, meta in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(meta, TensorStorageMetadata)
        model = _model(key, like)
        fits = isinstance(model, Tensor) and model.shape == meta.size
        wanted[key] = torch.zeros_like(model) if fits else torch.empty(meta.size, dtype=meta.properties.dtype)  # pyright: ignore[reportArgumentType]
    dcp.load(  # pyright: ignore[reportPrivateImportUsage]
        wanted, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=like is None
    )
    method = {key.removeprefix(_WEIGHTS): value for key, value in wanted.items() if key.startswith(_WEIGHTS)}
    state = {place: dict(own) for place, own in rest["optimizer"]["state"].items()}
    for key, value in wanted.items():
        if key.startswith(_OPTIMIZER):
            place, name = key.removeprefix(_OPTIMIZER).split(".", 1)
            state.setdefault(int(place), {})[name] = value
    return {"method": method, "optimizer": {**rest["optimizer"], "state": state}}


def _model(key: str, like: Mapping[str, Any] | None) -> Any:
    """The tensor that a saved one should lie like, if there is any."""
    if like is None:
        return None
    if key.startswith(_WEIGHTS):
        return like["method"].get(key.removeprefix(_WEIGHTS))
    return like["optimizer"][int(key.removeprefix(_OPTIMIZER).split(".", 1)[0])]
