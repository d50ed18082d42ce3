"""What happens when a loss or a gradient is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from sslscale import distributed
from sslscale.data.stream import Stream
from sslscale.errors import DataError
from sslscale.storage import jsonio
from sslscale.train import checkpoint
from sslscale.train.checkpoint import BAD_BATCH
from sslscale.train.engine import Engine


def stop(engine: Engine, means: Mapping[str, float], streams: Mapping[str, Stream], folder: Path | None) -> NoReturn:
    """Raise DataError for gradients that are not finite.

    The keys of the batch, and the weights, which it has not changed, are kept beside the state for `sslscale replay`.
    """
    step = int(engine.first_skipped)
    wrong = [name for name, value in means.items() if not abs(value) < float("inf")] or ["gradients"]
    keys = {name: stream.keys(step) for name, stream in streams.items()}
    shown = "; ".join(f"{name} {', '.join(found[:3])}, ..." for name, found in keys.items())
    where = ""
    weights = engine.state_dict()["method"]  # on all workers: they may hold a part each
    if folder is not None and distributed.is_main():
        file = folder.parent / BAD_BATCH
        checkpoint.save_bad(folder.parent, weights)
        jsonio.write_json(file, {"step": step, "keys": keys})
        where = f", all of them in {file}"
    raise DataError(
        f"{' and '.join(wrong)} not finite at step {step} (its batch: {shown}{where}): the weights were not changed by "
        f"it; {checkpoint.last_good(folder)}; try a lower lr, or max_skipped_steps; "
        "`sslscale replay` runs that batch alone"
    )


def require_finite(means: Mapping[str, float], step: int, folder: Path | None) -> None:
    """Raise DataError if one of the means is not finite."""
    wrong = [name for name, value in means.items() if not abs(value) < float("inf")]
    if wrong:
        values = ", ".join(f"{name} {value:g}" for name, value in means.items())
        raise DataError(
            f"{' and '.join(wrong)} not finite at step {step} ({values}); {checkpoint.last_good(folder)}; try a "
            "lower lr"
        )
