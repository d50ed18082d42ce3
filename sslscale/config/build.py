"""Plain data -> frozen dataclasses.

A field typed as a union of dataclasses is chosen by its `name` key. A class with a class method `choose(name, folder)`
says which of its subclasses a `name` means. A field marked `metadata={"hidden": True}` is set by the pipeline.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union

from sslscale.config.document import Document, Problem
from sslscale.errors import ConfigError
from sslscale.storage import addresses


def build(cls: type, document: Document, data: Any = None, key: str = "") -> Any:
    """Make a `cls` of the document's data; raises ConfigError with every problem there is."""
    data = document.data if data is None else data
    problems = list(_secrets(data, key, document))
    value = None if problems else _build(cls, data, key, document, problems)
    if problems:
        raise document.fail(problems)
    return value


def _secrets(data: Any, key: str, document: Document) -> Iterator[Problem]:
    """Addresses with passwords: a configuration is written into records, reports, logs and MLflow."""
    if isinstance(data, str) and addresses.has_secret(data):
        yield Problem(key, f"{addresses.masked(data)}: {addresses.ADVICE}", _line(document.lines, key))
    elif isinstance(data, dict | list | tuple):
        for name, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _secrets(value, f"{key}.{name}" if key else str(name), document)


def _build(hint: Any, data: Any, key: str, document: Document, problems: list[Problem]) -> Any:
    def wrong(text: str) -> None:
        problems.append(Problem(key, text, _line(document.lines, key)))

    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        options = [argument for argument in arguments if argument is not type(None)]
        if len(options) == 1:
            return _build(options[0], data, key, document, problems)
        if all(dataclasses.is_dataclass(option) for option in options):
            return _build_named(options, data, key, document, problems)
        for option in options:
            attempt: list[Problem] = []
            value = _build(option, data, key, document, attempt)
            if not attempt:
                return value
        wrong(f"{data!r} is none of {', '.join(describe(option) for option in options)}")
        return None
    if origin is Literal:
        if data in arguments and not (isinstance(data, bool) ^ any(isinstance(a, bool) for a in arguments)):
            return data
        near = difflib.get_close_matches(str(data), [str(a) for a in arguments], 1, 0.5)
        wrong(f"{data!r} is not one of {', '.join(map(repr, arguments))}{_mean(near)}")
        return None
    if origin is tuple:
        if not isinstance(data, list | tuple):
            wrong(f"expected a list, not {data!r}")
            return None
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            kinds = [arguments[0]] * len(data)
        else:
            kinds = list(arguments)
            if len(kinds) != len(data):
                wrong(f"expected {len(kinds)} values, not {len(data)}")
                return None
        before = len(problems)
        items = tuple(
            _build(kind, item, f"{key}.{i}", document, problems)
            for i, (kind, item) in enumerate(zip(kinds, data, strict=True))
        )
        spoilt = len(problems) > before and any(item is None for item in items)
        return None if spoilt else items
    if origin is dict:
        if not isinstance(data, dict):
            wrong(f"expected key: value pairs, not {data!r}")
            return {}
        before = len(problems)
        made = {n: _build(arguments[1], v, f"{key}.{n}", document, problems) for n, v in data.items()}
        return None if len(problems) > before and any(value is None for value in made.values()) else made
    if hasattr(hint, "choose"):
        return _build_chosen(hint, data, key, document, problems)
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, data, key, document, problems)
    if hint is float and isinstance(data, int | float) and not isinstance(data, bool):
        try:
            value = float(data)
        except OverflowError:  # an integer
            value = math.inf
        if not math.isfinite(value):
            wrong(f"{data} is not a finite number" if isinstance(data, float) else "the number is too large")
            return None
        return value
    if hint in (int, str, bool) and type(data) is hint:
        return data
    if hint is int and isinstance(data, float) and data.is_integer():
        return int(data)
    if hint is str and isinstance(data, int | float) and not isinstance(data, bool):
        return str(data)
    wrong(f"expected {describe(hint)}, not {data!r}")
    return None


def _build_dataclass(cls: Any, data: Any, key: str, document: Document, problems: list[Problem]) -> Any:
    if not isinstance(data, dict):
        problems.append(Problem(key, f"expected the keys of {cls.__name__}, not {data!r}", _line(document.lines, key)))
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init and not f.metadata.get("hidden")}
    before = len(problems)
    for name in data:
        if name not in fields:
            dotted = f"{key}.{name}" if key else name
            near = difflib.get_close_matches(name, fields, 1, 0.6)
            known = "" if near else f"; known keys: {', '.join(sorted(fields))}"
            problems.append(Problem(dotted, f"there is no such key{_mean(near)}{known}", _line(document.lines, dotted)))
    values = {}
    for name, spec in fields.items():
        dotted = f"{key}.{name}" if key else name
        if name in data:
            values[name] = _build(hints[name], data[name], dotted, document, problems)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            problems.append(
                Problem(dotted, f"is required ({describe(hints[name])}) and missing", _line(document.lines, key))
            )
    reported = {problem.key.removeprefix(f"{key}." if key else "").split(".")[0] for problem in problems[before:]}
    broken = {name for name in fields if name in reported and values.get(name) is None}
    while True:  # a value out of range is noted and replaced by its default, so that the next one is found too
        try:
            made = cls(**{name: value for name, value in values.items() if name not in broken})
        except ValueError as error:
            name, separator, text = str(error).partition(": ")
            dotted = f"{key}.{name}" if key else name
            field = name.split(".")[0]
            if separator and field in fields and field not in broken:
                problems.append(Problem(dotted, text, _line(document.lines, dotted)))
                broken.add(field)
                continue
            if not broken:  # else it may come of what stands in for that
                problems.append(Problem(key, str(error), _line(document.lines, key)))
        except (TypeError, AttributeError):  # what is missing or broken has no default, and is reported already
            assert broken
        else:
            return made  # with defaults for what is broken, so that what holds it is checked too
        return None


def _build_named(options: list[Any], data: Any, key: str, document: Document, problems: list[Problem]) -> Any:
    names = {typing.get_args(typing.get_type_hints(option)["name"])[0]: option for option in options}
    name = data.get("name") if isinstance(data, dict) else None
    if name not in names:
        near = difflib.get_close_matches(str(name), names, 1, 0.5)
        problems.append(
            Problem(
                f"{key}.name",
                f"{name!r} is not one of {', '.join(map(repr, names))}{_mean(near)}",
                _line(document.lines, key),
            )
        )
        return None
    return _build_dataclass(names[name], data, key, document, problems)


def _build_chosen(base: Any, data: Any, key: str, document: Document, problems: list[Problem]) -> Any:
    name = data.get("name") if isinstance(data, dict) else None
    try:
        cls = base.choose(name, Path(document.source).parent)
    except ConfigError as error:
        problems.append(Problem(f"{key}.name", str(error), _line(document.lines, key)))
        return None
    return _build_dataclass(cls, {**data, "name": cls.name}, key, document, problems)


def _line(lines: dict[str, int], key: str) -> int | None:
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key)


def _mean(near: list[str]) -> str:
    return f"; did you mean {near[0]!r}?" if near else ""


def describe(hint: Any) -> str:
    """Say in words what values a type annotation allows."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else describe(a) for a in arguments)
    if origin is tuple:
        return f"a list of {describe(arguments[0])}"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
