"""A user's own Python file as a module: a pipeline or a method, whose text can be sent to other machines."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from sslscale.errors import ConfigError, UserError

_SOURCE = "__sslscale_source__"


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, source: str, path: str):
        self._source, self._path = source, path

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_code(self, fullname: str):
        return self.source_to_code(self._source, self._path)


def find_file(name: str, folder: Path) -> Path:
    """A file named relative to `folder` or to the working directory; raises ConfigError."""
    for path in (folder / name, Path(name)):
        if path.is_file():
            return path
    raise ConfigError(f"there is no file {name}")


def load_file(path: Path, prefix: str) -> ModuleType:
    """Execute a file as the module PREFIX_STEM; raises ConfigError that names the line of an error in it."""
    try:
        return load_source(f"{prefix}_{path.stem}", path.read_text("utf-8"), str(path))
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line, text = (error.lineno, error.msg) if isinstance(error, SyntaxError) else ([1, *lines][-1], error)
        raise ConfigError(f"{path}:{line}: {type(error).__name__}: {text}") from error


def load_source(name: str, source: str, path: str) -> ModuleType:
    """Execute source text as the module `name`, unless that is what it holds already; `path` is for tracebacks."""
    known = sys.modules.get(name)
    if known is not None and source_of(known) == source:
        return known
    spec = importlib.util.spec_from_loader(name, _Loader(source, path), origin=path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    setattr(module, _SOURCE, source)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def source_of(module: ModuleType) -> str | None:
    """The text of a module that `load_source` made; None for one that is found by import."""
    return getattr(module, _SOURCE, None)
