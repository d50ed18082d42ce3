"""What every method's settings say, and how a configuration's `method.name` finds them. No torch: planning reads these.

A method is a folder of sslscale/methods/: `__init__.py` holds its settings, `method.py` its code. A method from outside
the package is a module that can be imported (`name: my_package.my_method`) or a file (`name: my_method.py`). It holds
the settings; the code stands beside them or in a module `method` of the package.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

from sslscale.config import require
from sslscale.errors import ConfigError


class MethodSettings:
    """Base of a method's settings, a frozen dataclass with a field `name`."""

    name: str

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images that each of the method's streams gives to one global batch; its epochs are of the first stream.

        Streams: `labeled`; `pseudo` (pseudo-labelled); `images` (every training image, whatever is known of it);
        `mixed` (the same, with the labels that are known); `unlabeled` (the same, as `images`, beside `labeled`).
        """
        raise NotImplementedError

    def going_on(self) -> Self:
        """The settings of a training that goes on where another ended: without warm-ups and freezes of its own."""
        return self

    def views(self, stream: str) -> tuple[int, int]:
        """How many views an image of this stream has: by `augment`, and after these by `augment_strong`."""
        return self.num_views, 0

    def objection(self, model: Any, size: int) -> str | None:
        """Why the method cannot train this network (a ModelConfig) on views of `size` pixels a side, if it cannot."""
        del model, size
        return None

    @property
    def needs_teacher(self) -> bool:
        """Whether another network, or its logits of every image, must be given."""
        return False

    num_views: ClassVar[int] = 1  # of an image in each stream, where `views` says nothing else
    multi_crop: ClassVar[bool] = False  # whether smaller crops may follow these views

    @property
    def whole_batch(self) -> str:
        """Why a step needs its batch at once, so that it cannot be taken in parts (`accumulate`); empty if it can."""
        return ""

    @classmethod
    def choose(cls, name: object) -> type[MethodSettings]:
        """The settings that `method.name` means; raises ConfigError."""
        return find(name)


def method_names() -> list[str]:
    """The methods that come with sslscale: every folder of sslscale/methods/."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.ispkg)


def find(name: object) -> type[MethodSettings]:
    """The settings class of a method's name, module (`package.module`) or file (`method.py`); raises ConfigError."""
    if not isinstance(name, str) or not (name in method_names() or "." in name):
        near = difflib.get_close_matches(str(name), method_names(), 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no method {name!r}{hint}; methods: {', '.join(method_names())}")
    if "." not in name:
        module = importlib.import_module(f"sslscale.methods.{name}")
    elif name.endswith(".py"):
        module = _of_file(Path(name))
    else:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"{name} cannot be imported: {error}") from None
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    found = [c for c in own if issubclass(c, MethodSettings)]
    if len(found) != 1:
        raise ConfigError(f"{name} must hold one subclass of MethodSettings, not {len(found)}")
    return found[0]


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    name = f"sslscale_method_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    return module


@dataclass(frozen=True, kw_only=True)
class SemiSupervised(MethodSettings):
    """Two streams with epochs of their own, `labeled` and `unlabeled`; `batch_size` counts the labelled images.

    The unlabelled loss weighs `unlabeled_weight`; with `ema` above 0 the result is a running average of the weights.
    """

    weak_views: ClassVar[int] = 1  # of an unlabelled image
    strong_views: ClassVar[int] = 0

    unlabeled_ratio: int = 1
    unlabeled_weight: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        require(self.unlabeled_ratio >= 1, "unlabeled_ratio", "must be 1 or more")
        require(self.unlabeled_weight >= 0, "unlabeled_weight", "must be 0 or more")
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images of each stream in one global batch."""
        return {"labeled": batch_size, "unlabeled": batch_size * self.unlabeled_ratio}

    def views(self, stream: str) -> tuple[int, int]:
        """Weak and strong views of an image."""
        return (1, 0) if stream == "labeled" else (self.weak_views, self.strong_views)
