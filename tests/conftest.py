"""Shared fixtures: real images (scikit-learn's digits), packed once a session."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

import tests.checker  # noqa: F401  which the hook names

os.environ.setdefault("OMP_NUM_THREADS", "2")
if "SSLSCALE_SCRATCH" not in os.environ:  # what this machine keeps for runs must not outlive the tests
    os.environ["SSLSCALE_SCRATCH"] = tempfile.mkdtemp(prefix="sslscale-tests-")
    atexit.register(shutil.rmtree, os.environ["SSLSCALE_SCRATCH"], ignore_errors=True)
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# shapes and types of annotated tensors are checked at every call in this process, but for numba's functions
PACKAGE = Path(__file__).parent.parent / "sslscale"
CHECKED = ["losses", "methods", "nn", "evaluate", "train"]
CHECKED += [f"data.{file.stem}" for file in (PACKAGE / "data").glob("*.py") if file.stem not in ("__init__", "kernels")]
install_import_hook([f"sslscale.{name}" for name in CHECKED], "tests.checker.check")

from sslscale.data import ready_sets
from sslscale.data.pack import pack
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from tests.finished import finished

__all__ = ["finished"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed digits: 100 labelled, about 1,250 unlabelled in 5 shards, 450 test images."""
    folder = tmp_path_factory.mktemp("digits")
    pack(PackConfig(source="digits", labels_per_class=10, test=0.25, shard_size=250), folder, threads=2)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 digits as PNG files in class folders: what a user has."""
    root = tmp_path_factory.mktemp("images")
    for item in ready_sets.digits().items[:200]:
        path = root / str(item.label) / f"{item.key.split('/')[-1]}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(item.read())
    return root


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., RunContext]:
    """Makes a RunContext in a root of the test's own."""

    def make(name: str = "stage", **resources: Any) -> RunContext:
        path = tmp_path / "artifacts" / name
        path.mkdir(parents=True, exist_ok=True)
        return RunContext(path=path, root=tmp_path, name=name, resources=Resources(**resources), threads=2)

    return make
