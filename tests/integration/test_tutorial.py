"""The tutorial's commands, as they stand, on images that are not in the package."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from sslscale.data import ready_sets
from tests import runs

PAGE = runs.ROOT / "sslscale" / "cli" / "README.md"


def label(file: Path, truth: dict[str, str]) -> None:
    """Do what the page asks a person for: write classes into the list."""
    with open(file, newline="") as text:
        rows = list(csv.DictReader(text))
    with open(file, "w", newline="") as text:
        table = csv.DictWriter(text, [*rows[0]])
        table.writeheader()
        table.writerows({**row, "label": truth[row["key"]]} for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_tutorial_works(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    items = ready_sets.digits().items[:600]
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for number, item in enumerate(items):
            name = f"{item.key.rpartition('/')[2]}.png"
            with Image.open(io.BytesIO(item.read())) as image:
                image.resize((24, 24)).save(tmp_path / "photos" / name)
            if number < 200:
                table.writerow([name, f"digit {item.label}"])
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(commands) >= 9
    env = {**os.environ, "PYTHONPATH": str(runs.ROOT)}
    truth = {item.key.rpartition("/")[2]: f"digit {item.label}" for item in items}
    for command in commands:
        if command.startswith("sslscale data label"):
            label(tmp_path / "list.csv", truth)
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    for name in ("photos.yaml", "predictions.csv", "features.parquet", "model.onnx", "sslscale.schema.json"):
        assert (tmp_path / name).stat().st_size > 100
    assert len(list((tmp_path / "runs" / "reports").glob("photos-*.html"))) == 3
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 601
