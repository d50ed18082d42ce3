"""Who may import whom, read from the source: no one has to remember it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import runs

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "sslscale").rglob("*.py"), *(ROOT / "pipelines").glob("*.py")])
HEAVY = {
    "numba",
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "deepspeed",
    "timm",
    "webdataset",
    "sklearn",
    "pyarrow",
    "matplotlib",
    "safetensors",
    "rich",
}
CLUSTER = (
    "autoscaling",
    "connection",
    "jobs",
    "mappers",
    "population",
    "rendezvous",
    "runner",
    "serving",
    "trial_events",
    "trials",
    "workers",
)
ONLY = {  # a library -> the one file that may import it
    "ray": {f"sslscale/cluster/{name}.py" for name in CLUSTER},
    "mlflow": {f"sslscale/tracking/{name}.py" for name in ("store", "tracker", "search", "models", "outage")},
    "deepspeed": {"sslscale/train/zero.py"},
    "fsspec": {"sslscale/storage/store.py"},
}
# layers, lowest first: folders, or single files of them. A file may import from its own layer and those below
LAYERS = [
    {"errors", "interrupts", "shapes"},
    {"storage"},
    {"config", "distributed", "graph.artifacts", "graph.resources", "graph.stage_warnings", "train.allocator"},
    {"settings", "methods.*", "graph.dag", "graph.context"},
    {"graph"},
    {"losses", "nn", "data"},
    {"methods"},
    {"train", "evaluate", "report"},
    {"cluster.connection", "cluster.workers", "cluster.mappers", "cluster.population", "cluster.rendezvous"},
    {"cluster"},
    {"stages"},
    {"cli.progress", "cli.trial_progress", "cli.units", "tracking"},
    {"preflight"},
    {"experiment", "cluster.jobs", "tuning", "estimate"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
LIGHT = {
    "errors", "storage", "config", "graph", "graph.artifacts", "graph.dag", "graph.context", "graph.resources",
    "settings", "methods.*", "graph.stage_warnings", "stages", "experiment", "preflight", "cli",
}  # fmt: skip
CORE = {"methods", "nn", "losses", "data", "train", "evaluate", "distributed"}
CORE_MAY = {"torch", "torchvision", "numpy", "PIL"}  # at module level; anything else inside the function that needs it


def imports(path: Path, *, module_level: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(ast.iter_child_nodes(tree)) if module_level else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            if node.module == "sslscale":
                yield from (f"sslscale.{alias.name}" for alias in node.names)
            else:
                yield node.module


def room(module: str) -> str:
    """The layer of `graph.dag` or `methods.simclr.method`: that of the file if one is named, else of the folder."""
    parts = module.split(".")
    if parts[0] == "methods" and (ROOT / "sslscale/methods" / ".".join(parts[1:]) / "__init__.py").is_file():
        return "methods.*" if len(parts) == 2 else "methods"
    return ".".join(parts[:2]) if ".".join(parts[:2]) in LEVEL else parts[0]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "sslscale").with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_and_libraries(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for module in imports(path, module_level=False):
        library = module.split(".")[0]
        if library in ONLY:
            assert name in ONLY[library], f"{name} imports {library}"
    if name.startswith("pipelines/"):
        for module in imports(path, module_level=False):
            assert module.split(".")[0] not in HEAVY, f"{name} imports {module}"
            if module.startswith("sslscale."):
                allowed = {
                    "stages",
                    "settings",
                    "methods.*",
                    "graph.dag",
                    "graph.resources",
                    "config",
                }
                assert room(module.removeprefix("sslscale.")) in allowed, f"{name} imports {module}"
        return
    mine = room(module_of(path))
    for module in imports(path, module_level=False):
        if module.startswith("sslscale.") and mine in LEVEL:
            other = room(module.removeprefix("sslscale."))
            if other.startswith("__"):
                continue
            assert LEVEL[other] <= LEVEL[mine], f"{name} imports {module}, which stands above it"
    if mine in LIGHT:
        for module in imports(path, module_level=True):
            assert module.split(".")[0] not in HEAVY, f"{name} imports {module} at module level"
    if mine.split(".")[0] in CORE:
        for module in imports(path, module_level=True):
            allowed = CORE_MAY | {"numba"} if path.name == "kernels.py" else CORE_MAY  # which augment imports if it can
            assert module.split(".")[0] not in HEAVY - allowed, f"{name} imports {module} at module level"


def test_stages_do_not_import_stages() -> None:
    for path in (ROOT / "sslscale/stages").glob("[a-z]*.py"):  # the package itself declares a training, from two
        assert not [m for m in imports(path, module_level=False) if m.startswith("sslscale.stages")], path
    for path in (ROOT / "sslscale/methods").glob("*/*.py"):
        others = {m for m in imports(path, module_level=False) if m.startswith("sslscale.methods")}
        bases = {
            f"sslscale.methods.{name}"
            for name in ("pretext", "puzzle", "frames", "image_text", "image_sound", "text_lines", "scenes")
        }
        own = f"sslscale.methods.{path.parent.name}"
        shared = {"sslscale.methods.method", "sslscale.settings.method", *bases, own}
        assert {m for m in others if not m.startswith(f"{own}.")} <= shared, f"{path} imports another method"


def test_nothing_unpickles_or_runs_a_shell() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                text = ast.unparse(node)
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system"}, text
                assert "shell=True" not in text, text
                assert name != "torch.load" or "weights_only=True" in text, text
                assert name != "np.load" or "allow_pickle=False" in text, text


CORE_ALONE = """
import sys

MISSING = {missing!r}


class Missing:
    def find_spec(self, name, path=None, target=None):
        frame, asked = sys._getframe(), False
        while frame:  # a library that only asks whether there is such a module is answered by the others
            asked = asked or "importlib.util" in frame.f_code.co_filename
            frame = frame.f_back
        if name.split(".")[0] in MISSING and not asked:
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Missing())
import dataclasses, importlib
import torch
for name in {modules!r}:
    importlib.import_module(name)
from sslscale.methods.method import StepInfo, build_method
from sslscale.train.engine import Engine
from tests.configurations import CONFIGS, batch_of
config = dataclasses.replace(CONFIGS["simclr"], sync_batch_norm=False)
engine = Engine(build_method(config.method, config.model, 10), config, 4, torch.device("cpu"))
parts, _ = engine.train_step({{"images": batch_of(config, "images", 16, 0)}}, StepInfo(0, 0.0, 0.0))
assert float(parts["loss"]) > 0
"""


def test_the_core_trains_with_torch_and_numpy_alone() -> None:
    """As on a GPU machine that has nothing else."""
    missing = (HEAVY | {"yaml", "fsspec", "pandas", "pytest", "scipy"}) - {"torch", "torchvision"}
    rooms = ("methods", "nn", "data", "train", "evaluate")
    files = [f for room in rooms for f in sorted((ROOT / "sslscale" / room).rglob("*.py"))]
    optional = {"kernels", "zero", "from_timm", "export"}  # numba's, DeepSpeed's, timm's
    modules = [f"sslscale.{module_of(f)}" for f in files if f.stem not in optional]
    runs.python(CORE_ALONE.format(missing=missing, modules=modules))
