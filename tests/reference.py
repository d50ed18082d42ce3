"""Writes configs/README.md, the reference of every key, from the dataclasses: python -m tests.reference"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sslscale import experiment
from sslscale.config.comments import comments
from sslscale.config.modules import load_file
from sslscale.settings.method import MethodSettings, find, method_names

FILE = Path(__file__).parent.parent / "configs" / "README.md"
INTRODUCTION = """# Configurations

One YAML file is one whole run. Its first key names the pipeline; the others are the fields of the pipeline's `Config`.
Files are `PIPELINE/METHOD_DATA[_SIZE].yaml`; each opens with its command, paper, hardware and measured result.

```bash
sslscale run configs/noisy_student/digits.yaml seed=1 student.optim.lr=0.02 'rounds=[{}, {}]' --plan
```

- Any key can be overridden on the command line as `dotted.key=value`; the value is YAML (`null`, `[1, 2]`, `1e-3`).
- Unknown keys, missing keys, wrong types and values out of range are errors that name the file, the line and the
  nearest valid key. All of them are reported at once. There is no inheritance and no interpolation.
- `name` chooses among alternatives: `method: {name: byol}`, `optim: {name: adamw}`.
- Paths are relative to the working directory. `seed=N` sets every seed.
- A key marked with * does not change what a stage's result is, so changing it reuses earlier results.

This page is generated from the code by `python -m tests.reference`; CI checks that it is up to date.
"""


def kind(hint: Any) -> str:
    """A type as the reference shows it; sections are links."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if argument is type(None) else kind(argument) for argument in arguments)
    if origin is tuple:
        return f"list of {kind(arguments[0])}"
    if origin is dict:
        return f"name: {kind(arguments[1])}"
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if hint is MethodSettings:
        return "[a method](#methods)"
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if issubclass(hint, MethodSettings):
            return f"[{hint.name}](#{hint.name})"
        pipeline = hint.__module__.removeprefix("sslscale_pipeline_")
        own = "" if pipeline == hint.__module__ else f"{pipeline}-"
        return f"[{hint.__name__}](#{own}{hint.__name__.lower()})"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(hint, str(hint))


def default(field: dataclasses.Field) -> str:
    """A field's default as YAML shows it."""
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "**required**"
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # pyright: ignore[reportCallIssue]
    if dataclasses.is_dataclass(value) or (isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value))):
        return ""
    if isinstance(value, bool) or value is None:
        return {True: "`true`", False: "`false`", None: "`null`"}[value]
    if isinstance(value, tuple):
        return "`[" + ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value) + "]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`" if value != {} else ""


def section(cls: Any, level: int = 3, title: str = "") -> Iterator[str]:
    """One dataclass: its docstring, and a table of its fields."""
    yield f"{'#' * level} {title or cls.__name__}\n"
    yield inspect.getdoc(cls) or ""
    hints = typing.get_type_hints(cls)
    fields = [f for f in dataclasses.fields(cls) if f.init and not f.metadata.get("hidden") and f.name != "name"]
    notes = comments(cls)
    if "name" in hints and not issubclass(cls, MethodSettings):
        fields = [f for f in dataclasses.fields(cls) if f.init and not f.metadata.get("hidden")]
    if fields:
        yield "\n| key | values | default | notes |\n| --- | --- | --- | --- |"
    for field in fields:
        mark = "" if field.metadata.get("identity", True) else " *"
        note = notes.get(field.name, "").replace("|", "\\|")
        yield f"| `{field.name}`{mark} | {kind(hints[field.name])} | {default(field)} | {note} |"
    yield ""


def parts(hint: Any) -> Iterator[Any]:
    """The dataclasses that a type holds."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for argument in typing.get_args(hint):
        yield from parts(argument)


def reference() -> str:
    """The whole page."""
    text = [INTRODUCTION, "## Pipelines\n"]
    waiting: list[Any] = []
    for name in experiment.pipelines():
        module = load_file(experiment.share() / "pipelines" / f"{name}.py", "sslscale_pipeline")
        text += section(module.Config, title=f"`pipeline: {name}`")
        own = [cls for cls in vars(module).values() if getattr(cls, "__module__", "") == module.__name__]
        for cls in own:
            if dataclasses.is_dataclass(cls) and cls is not module.Config:
                text += section(cls, 4, f"{name}: {getattr(cls, '__name__', '')}")
        waiting += [c for cls in own if dataclasses.is_dataclass(cls) for c in held(cls) if c not in own]
    seen: dict[str, Any] = {}
    while waiting:
        cls = waiting.pop(0)
        if cls.__name__ not in seen and not issubclass(cls, MethodSettings):
            seen[cls.__name__] = cls
            waiting += held(cls)
    text.append("## Sections\n")
    for name in sorted(seen):
        text += section(seen[name])
    text.append("## Methods\n")
    text.append("`method: {name: NAME, ...}`. What each does: [sslscale/methods](../sslscale/methods/README.md).\n")
    for name in method_names():
        text += section(find(name), title=f"`{name}`")
        text += (line for cls in held(find(name)) if cls is not MethodSettings for line in section(cls, 4))
    return "\n".join(text).rstrip() + "\n"


def held(cls: Any) -> list[Any]:
    """The dataclasses of a dataclass's fields."""
    return [part for hint in typing.get_type_hints(cls).values() for part in parts(hint)]


if __name__ == "__main__":
    FILE.write_text(reference())
