"""What every method's settings declare, and how a configuration's `method.name` finds them. Planning reads these.

A method is a folder of sslscale/methods/: `__init__.py` holds its settings, `method.py` its code. A method from outside
the package is a module that can be imported (`name: my_package.my_method`) or a file (`name: my_method.py`). It holds
the settings; the code stands beside them or in a module `method` of the package.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslscale.config import modules, require
from sslscale.errors import ConfigError
from sslscale.settings.streams import StreamSpec, ViewSpec
from sslscale.storage.jsonio import digest

if TYPE_CHECKING:
    from sslscale.settings.model import ModelConfig


class MethodSettings:
    """Base of a method's settings: a frozen dataclass with a field `name`, and what the method reads."""

    name: str

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """What the method reads. `batch_size` counts the samples of the first stream, and so do epochs."""
        raise NotImplementedError

    def without_warmup(self) -> MethodSettings:
        """The settings of a training that continues another one: no warm-ups and freezes of its own."""
        return self

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Why the method cannot train this network on views of `size` pixels a side; None if it can."""
        del model, size
        return None

    def unsupported_batch(self, batch_size: int) -> str | None:
        """Why the method cannot train on global batches of this size; None if it can."""
        del batch_size
        return None

    @property
    def needs_teacher(self) -> bool:
        """Whether another network, or its logits for every image, must be given."""
        return False

    @property
    def rgb_only(self) -> bool:
        """Whether the method needs 8-bit RGB images."""
        return False

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch; empty if they can."""
        return ""

    @classmethod
    def choose(cls, name: object, folder: Path) -> type[MethodSettings]:
        """The settings that `method.name` means in a configuration in `folder`; raises ConfigError."""
        return find(name, folder)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The settings of a user's file carry its text with them, as other machines may not have it."""
        module = sys.modules[type(self).__module__]
        source = modules.source_of(module)
        if source is None:
            return super().__reduce_ex__(protocol)
        return _restore, (module.__name__, source, module.__file__, type(self).__name__, self.__dict__)


def _restore(module_name: str, source: str, path: str, class_name: str, values: dict[str, Any]) -> MethodSettings:
    cls = getattr(modules.load_source(module_name, source, path), class_name)
    made = cls.__new__(cls)
    made.__dict__.update(values)
    return made


def method_names() -> list[str]:
    """The methods that come with sslscale: every folder of sslscale/methods/."""
    return sorted(
        module.name for module in pkgutil.iter_modules([str(Path(__file__).parent.parent / "methods")]) if module.ispkg
    )


def find(name: object, folder: Path = Path()) -> type[MethodSettings]:
    """The settings class of a method's name, module (`package.module`) or file (`method.py`); raises ConfigError."""
    if not isinstance(name, str) or not (name in method_names() or "." in name):
        near = difflib.get_close_matches(str(name), method_names(), 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no method {name!r}{hint}; methods: {', '.join(method_names())}")
    if "." not in name:
        module = importlib.import_module(f"sslscale.methods.{name}")
    elif name.endswith(".py"):
        path = modules.find_file(name, folder)
        # two files of one name are two modules
        module = modules.load_file(path, f"sslscale_method_{digest(str(path.resolve()), 8)}")
    else:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # whatever the user's module raises
            raise ConfigError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    found = [c for c in own if issubclass(c, MethodSettings)]
    if len(found) != 1:
        raise ConfigError(f"{name} must hold one subclass of MethodSettings, not {len(found)}")
    (cls,) = found
    if not dataclasses.is_dataclass(cls) or not isinstance(getattr(cls, "name", None), str):
        raise ConfigError(f"{name}: {cls.__name__} must be a dataclass whose `name` has a default")
    if cls.streams is MethodSettings.streams:
        raise ConfigError(f"{name}: {cls.__name__} declares no streams")
    return cls


FIRST, SECOND = ViewSpec("first"), ViewSpec("second")
LOCAL = ViewSpec("local", optional=True)  # multi-crop: smaller crops beside the two views
WEAK = ViewSpec("weak")
STRONG = ViewSpec("strong", required=True)


class SelfSupervised(MethodSettings):
    """Methods that read every training image, labels unread."""

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """The views of an image."""
        return FIRST, SECOND

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """One stream, `images`."""
        return (StreamSpec(name="images", source="all", views=self.views),)


def without_patches(method: str, model: ModelConfig, size: int | None = None) -> str | None:
    """Why a method that works on patches cannot train this network, on views of `size` pixels if its positions are
    fixed to the places; None if it can."""
    if model.patch is None:
        return f"{method} works on patches, which {model.name} has not: take a vit_SIZE_PATCH"
    if size is None or size // model.patch == model.grid:
        return None
    return f"grid: is {model.grid}, but images of {size} pixels have {size // model.patch} patches side by side"


class Pretext(SelfSupervised):
    """Pretext tasks: the label is made of the image itself, of one view."""

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """One view."""
        return (ViewSpec("view"),)

    @property
    def rgb_only(self) -> bool:
        """Most make their labels of colours, or hide colours that would give them away."""
        return True


class MultiCrop(SelfSupervised):
    """Methods that compare two views with smaller crops, if `views.local` of the training names them."""

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """Two views, and local ones."""
        return FIRST, SECOND, LOCAL


@dataclass(frozen=True, kw_only=True)
class SemiSupervised(MethodSettings):
    """Two streams with epochs of their own, `labeled` and `unlabeled`; `batch_size` counts the labelled images.

    The unlabelled loss is multiplied by `unlabeled_weight`. With `ema` above 0 the result is a running average of the
    weights.
    """

    unlabeled_ratio: int = 1
    unlabeled_weight: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        require(self.unlabeled_ratio >= 1, "unlabeled_ratio", "must be 1 or more")
        require(self.unlabeled_weight >= 0, "unlabeled_weight", "must be 0 or more")
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    @property
    def labeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of a labelled image."""
        return (WEAK,)

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of an unlabelled image."""
        return WEAK, STRONG

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """`labeled` and `unlabeled`."""
        return (
            StreamSpec(name="labeled", source="labeled", fields=("label",), views=self.labeled_views),
            StreamSpec(name="unlabeled", source="unlabeled", ratio=self.unlabeled_ratio, views=self.unlabeled_views),
        )
