"""One real run of the whole graph, shared by the tests that look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import runs


class Finished(NamedTuple):
    root: Path
    config: Path
    result: dict[str, Any]
    out: str
    err: str

    def folder(self, name: str) -> Path:
        return runs.folder_of(self.root, self.result, name)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    config = runs.write(folder, runs.TINY)
    root = folder / "runs"
    out, err = runs.sslscale("run", config, "--root", root, "--json")
    return Finished(root, config, runs.result(out), out, err)
