"""Checkpoints as MLflow models: loaded as a pyfunc they take encoded images; nothing of them is pickled."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sslscale.errors import ConfigError, UserError
from sslscale.settings.model import ImageConfig, read_info
from sslscale.settings.pixels import RGB
from sslscale.storage.addresses import masked
from sslscale.tracking.store import address, connect, store

_FILES = ("model.json", "model.safetensors")
_EXAMPLE, _REQUEST = "input_example.json", "serving_input_example.json"
_LOADER = "sslscale.evaluate.pyfunc"


def write_model(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint as an MLflow model with signature and example into a new folder; raises DataError.

    A classifier answers with a class and its probability, a backbone with its features.
    """
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import Array

    from sslscale import __version__

    info = read_info(checkpoint)
    (out / "checkpoint").mkdir(parents=True)
    for name in _FILES:
        shutil.copyfile(checkpoint / name, out / "checkpoint" / name)
    answer: list[ColSpec | TensorSpec] = (
        [ColSpec("string", "class"), ColSpec("double", "probability")]
        if info.head
        else [ColSpec(Array("double"), "features")]
    )
    image: list[ColSpec | TensorSpec] = [ColSpec("binary", "image")]
    example = pd.DataFrame({"image": [base64.encodebytes(_picture(info.image)).decode()]})
    text = str(example.to_json(orient="split", index=False))
    (out / _EXAMPLE).write_text(text, "utf-8")
    (out / _REQUEST).write_text(f'{{"dataframe_split": {text}}}', "utf-8")
    (out / "requirements.txt").write_text(f"sslscale=={__version__}\nmlflow\n", "utf-8")
    model = Model(signature=ModelSignature(Schema(image), Schema(answer)))
    model.saved_input_example_info = {
        "artifact_path": _EXAMPLE,
        "serving_input_path": _REQUEST,
        "type": "dataframe",
        "pandas_orient": "split",
    }
    add_to_model(model, loader_module=_LOADER, data="checkpoint")
    model.save(str(out / "MLmodel"))


def _picture(image: ImageConfig) -> bytes:
    """A PNG of a model's size, for the example; of other pixels than 8-bit RGB an array."""
    import numpy as np
    from PIL import Image

    size, pixels = image.size, image.pixels
    if pixels != RGB:
        from sslscale.data.channels import npy

        low, high = pixels.range or (0, 255 if pixels.bits == 8 else 65535)
        values = np.linspace(low, high, size * size).reshape(size, size)
        kind = np.float32 if pixels.range is not None else np.uint8 if pixels.bits == 8 else np.uint16
        return npy(np.broadcast_to(values.astype(kind), (pixels.channels, size, size)))
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).convert("RGB").save(file, "png")
    return file.getvalue()


def log_model(client: Any, run_id: str, checkpoint: Path) -> None:
    """Put a checkpoint, as a model, on the run that trained it."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(checkpoint, Path(folder) / "model")
        client.log_artifacts(run_id, str(Path(folder) / "model"), "model")


def register(root: Path, checkpoint: Path, name: str, alias: str | None) -> str:
    """Register a checkpoint of a root as the next version of a model, and return the version.

    Raises ConfigError for a checkpoint whose training is not in the store, UserError if the store refuses.
    """
    from mlflow.exceptions import MlflowException

    from sslscale.storage.jsonio import read_json

    if not re.fullmatch(r"[\w .-]+", name):
        raise ConfigError(f"{name!r}: name a model by letters, digits, spaces, dots and dashes")
    try:
        note = read_json(checkpoint / "mlflow.json")
    except (OSError, ValueError):
        note = {}
    if note.get("store") != address(root):
        raise ConfigError(f"{checkpoint}: its training is not in the tracking store {address(root)}; was it run there?")
    client = connect(root)
    os.environ["MLFLOW_TRACKING_URI"] = store(root)
    try:
        run = client.get_run(note["run_id"])
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        version = client.create_model_version(name, source, run.info.run_id).version
        if alias is not None:
            client.set_registered_model_alias(name, alias, version)
    except MlflowException as error:
        raise UserError(f"{name}: {address(root)}: {masked(str(error)).splitlines()[0]}") from None
    return str(version)
