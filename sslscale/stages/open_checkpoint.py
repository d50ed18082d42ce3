"""A checkpoint from anywhere as an artifact of this root."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from sslscale.data.fingerprint import file_hash
from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.settings.model import FILES, ImageConfig, read_info
from sslscale.storage import mirror
from sslscale.storage.jsonio import digest


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """The folder of a checkpoint; what is in it is its identity, not where it lies."""

    path: str = field(metadata={"identity": False})
    version: int = field(default=1, init=False)


def images_of(path: str) -> list[ImageConfig]:
    """The images that a checkpoint takes; none if it is not there, which `content` tells."""
    folder = mirror.local(path, FILES)
    return [read_info(folder).image] if (folder / FILES[0]).is_file() else []


def content(config: CheckpointConfig, root: Path) -> str:
    """Identity of the checkpoint; raises DataError if there is none."""
    del root
    folder = mirror.local(config.path, FILES)
    if not (folder / FILES[0]).is_file() or not (folder / FILES[1]).is_file():
        raise DataError(f"{config.path}: no checkpoint there (it has no {' and '.join(FILES)}); see `sslscale ls`")
    return digest([file_hash(folder / name) for name in FILES])


@cpu_only
def open_checkpoint(ctx: RunContext, config: CheckpointConfig) -> Checkpoint:
    """Copy the checkpoint's two files, so that it stays when its origin goes."""
    folder = mirror.local(config.path, FILES)
    for name in FILES:
        shutil.copyfile(folder / name, ctx.path / name)
    info = read_info(ctx.path)
    return Checkpoint(path=str(ctx.path), num_parameters=info.num_parameters, step=0)
