"""A checkpoint as MLflow loads it: encoded images in, classes or features out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sslscale.errors import DataError
from sslscale.evaluate.model import BATCH, Model


class Predictor:
    """Answers a table with a column `image` of encoded images (JPEG, PNG, WebP; TIFF or arrays if it was trained on
    such) with a row for each."""

    def __init__(self, folder: Path):
        self.model = Model(folder)

    def predict(self, table: Any, params: Any = None) -> Any:
        """Classes with probabilities, or features; raises DataError for an image that cannot be read."""
        del params
        import pandas as pd

        images = [bytes(image) for image in table["image"]]
        rows = []
        for start in range(0, len(images), BATCH):
            rows += self.model.rows(images[start : start + BATCH], probabilities=bool(self.model.classes))
        for number, row in enumerate(rows):
            if isinstance(row, str):
                raise DataError(f"image {number}: {row}")
        if not self.model.classes:
            return pd.DataFrame({"features": [row.tolist() for row in rows]})
        named = [self.model.named(row, 1)[0] for row in rows]
        return pd.DataFrame(named, columns=["class", "probability"])


def _load_pyfunc(path: str) -> Predictor:
    return Predictor(Path(path))
