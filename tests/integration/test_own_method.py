"""A method and a graph from outside the package train as those of the package do (tests/examples)."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from sslscale import experiment
from sslscale.errors import ConfigError
from sslscale.methods.method import StepInfo, build_method
from sslscale.settings.method import find
from sslscale.storage.jsonio import read_json
from sslscale.train.engine import Engine
from tests import runs
from tests.configurations import CONFIG, batch_of
from tests.examples.alignment import alignment, uniformity

EXAMPLES = Path(__file__).parent.parent / "examples"
CONFIGURATION = EXAMPLES / "alignment_digits.yaml"


@pytest.mark.slow
def test_the_example_runs_from_its_files(tmp_path: Path) -> None:
    out, _ = runs.sslscale("run", CONFIGURATION, "pretrain.num_steps=20", "--root", tmp_path / "root", "--json")
    stages = runs.stages(runs.result(out))
    assert stages["pretrain"]["metrics"]["loss"] < 0 and -4 < stages["spread"]["metrics"]["uniformity"] < 0
    (description,) = (tmp_path / "root/artifacts/train").glob("*/stage.json")
    assert read_json(description)["config"]["method"]["name"] == "alignment"  # no path is part of an identity


SETTINGS = "from sslscale.settings.method import MethodSettings\nclass Mine(MethodSettings):\n    pass\n"
DATACLASS = """
from dataclasses import dataclass
from sslscale.settings.method import MethodSettings
@dataclass(frozen=True)
class Mine(MethodSettings):
    name: str = "mine"
"""
SEND = """
import pickle, sys
from sslscale.methods.method import build_method
from sslscale.settings.model import ModelConfig
settings = pickle.loads(bytes.fromhex(sys.argv[1]))
print(type(build_method(settings, ModelConfig(name="wrn_10_0.5"), 10)).__name__, settings.projection)
"""


def test_its_settings_carry_their_file_to_other_processes(tmp_path: Path) -> None:
    import pickle

    file = tmp_path / "mine.py"
    file.write_text((EXAMPLES / "alignment.py").read_text())
    settings = find("mine.py", tmp_path)(projection=8)  # pyright: ignore[reportCallIssue]
    sent = pickle.dumps(settings).hex()
    file.unlink()
    assert runs.python(SEND, sent).strip() == "AlignmentMethod 8"


def test_two_files_of_one_name_are_two_methods(tmp_path: Path) -> None:
    text = (EXAMPLES / "alignment.py").read_text()
    found = []
    for name, default in (("a", "64"), ("b", "48")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(text.replace("projection: int = 64", f"projection: int = {default}"))
        found.append(find("mine.py", tmp_path / name))
    first, second = (cls() for cls in found)
    assert (first.projection, second.projection) == (64, 48)  # pyright: ignore[reportAttributeAccessIssue]
    assert find("mine.py", tmp_path / "a") is found[0]
    made = build_method(first, CONFIG.model, 10)
    assert made.projector.out_features == 64  # pyright: ignore[reportAttributeAccessIssue]


def test_a_module_is_found_by_its_dotted_name() -> None:
    cls = find("tests.examples.alignment")
    assert cls is sys.modules["tests.examples.alignment"].Alignment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ny = x.z\n", r"mine\.py:2: AttributeError"),
        ("x = (\n", r"mine\.py:1: SyntaxError"),
        ("x = 1\n", r"mine\.py must hold one subclass of MethodSettings, not 0"),
        (SETTINGS, "Mine must be a dataclass whose `name` has a default"),
        (DATACLASS, "Mine declares no streams"),
    ],
)
def test_errors_in_a_method_file_name_its_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    for _ in range(2):  # what failed once is not taken for loaded
        with pytest.raises(ConfigError, match=expected):
            find("mine.py", tmp_path)


def test_unknown_modules_and_files_are_reported() -> None:
    with pytest.raises(ConfigError, match=r"method\.name: no\.such\.module cannot be imported"):
        experiment.load(str(CONFIGURATION), ["pretrain.method.name=no.such.module"])
    with pytest.raises(ConfigError, match=r"there is no file other\.py"):
        experiment.load(str(CONFIGURATION), ["pretrain.method.name=other.py"])


def test_its_loss_is_the_papers() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(6, 5, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    pairs = [(i, j) for i in range(6) for j in range(i)]
    expected = sum(float((-2 * (x[i] - x[j]).square().sum()).exp()) for i, j in pairs) / len(pairs)
    assert float(uniformity(x, 2.0).exp()) == pytest.approx(expected, rel=1e-12)
    near = sum(float((x[i] - y[i]).square().sum()) for i in range(6)) / 6
    assert float(alignment(x, y, 2.0)) == pytest.approx(near, rel=1e-12)


def test_it_trains_through_the_engine() -> None:
    settings = find("alignment.py", EXAMPLES)(projection=8)  # pyright: ignore[reportCallIssue]
    config = dataclasses.replace(CONFIG, method=settings, sync_batch_norm=False)
    engine = Engine(build_method(settings, config.model, 10), config, 4, torch.device("cpu"))
    parts, _ = engine.train_step({"images": batch_of(config, "images", 16, 0)}, StepInfo(0, 0.0, 0.0))
    assert parts["loss"] == parts["alignment"] + parts["uniformity"]
