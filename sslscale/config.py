"""One YAML file plus `key=value` overrides -> frozen dataclasses, with every error found in one pass.

Strict: an unknown key, a missing key, a wrong type or a value out of range is an error that names the file, the
line, the dotted key and the nearest valid name. There is no inheritance, interpolation or environment look-up. A
field typed as a union of dataclasses is chosen by its `name` key; a field typed `Recipe` is chosen by the name of a
file in sslscale/recipes/. A field marked `metadata={"hidden": True}` is the pipeline's to set, not the file's.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Union

from sslscale.errors import ConfigError

if typing.TYPE_CHECKING:
    import yaml

MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 100_000  # aliases are expanded, so a few lines could otherwise stand for millions
_FLOAT = re.compile(r"[+-]?(\d[\d_]*)(\.\d*)?([eE][+-]?\d+)$")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration: the dotted key, where it stands, and what to do."""

    key: str
    text: str
    line: int | None = None


@dataclass
class Document:
    """A YAML file as plain data, with the line on which each dotted key stands."""

    source: str
    data: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)

    def fail(self, problems: list[Problem]) -> ConfigError:
        """Build one error that lists every problem, in the order of the file."""
        problems = sorted(problems, key=lambda problem: (problem.line or 0, problem.key))
        lines = []
        for problem in problems:
            where = f":{problem.line}" if problem.line else ""
            lines.append(f"{self.source}{where}: {problem.key + ': ' if problem.key else ''}{problem.text}")
        head = "" if len(lines) == 1 else f"{len(lines)} errors in the configuration:\n  "
        return ConfigError(head + "\n  ".join(lines))


def read(path: str | Path, overrides: typing.Sequence[str] = ()) -> Document:
    """Read a YAML file and lay `a.b.c=value` overrides over it; raises ConfigError."""
    path = Path(path)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        near = difflib.get_close_matches(str(path), [str(p) for p in path.parent.glob("*.y*ml")], 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{path}: there is no such file{hint}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) > MAX_YAML_BYTES:
        raise ConfigError(f"{path}: {len(text):,} bytes are too many for a configuration")
    return overlay(parse(text.decode("utf-8", "replace"), str(path)), overrides)


def overlay(document: Document, overrides: typing.Sequence[str]) -> Document:
    """Lay `a.b.c=value` overrides over a document; raises ConfigError."""
    import yaml

    problems = []
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            problems.append(Problem("", f"override {override!r} is not of the form key.path=value"))
            continue
        try:
            parsed = parse_value(value)
            _assign(document.data, key, parsed)
        except (yaml.YAMLError, ValueError) as error:
            problems.append(Problem(key, f"override {override!r}: {_first_line(error)}"))
        stale = [line for line in document.lines if line == key or line.startswith(key + ".")]
        for line in stale:
            del document.lines[line]
    if problems:
        raise document.fail(problems)
    return document


def parse(text: str, source: str) -> Document:
    """Parse YAML text into plain data; duplicate keys and anything but plain values are errors."""
    import yaml

    document = Document(source, {})
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or _first_line(error)
        raise ConfigError(f"{source}{where}: this is not valid YAML: {reason}") from None
    if node is None:
        return document
    problems: list[Problem] = []
    data = _convert(node, "", document.lines, problems, [0])
    if not isinstance(data, dict):
        problems.append(Problem("", "the file must be a mapping of key: value"))
    if problems:
        raise document.fail(problems)
    document.data = data
    return document


def parse_value(text: str) -> Any:
    """Parse the right side of an override as YAML (so `[1, 2]`, `null` and `1e-3` mean what they do in a file)."""
    import yaml

    node = yaml.compose(text, Loader=yaml.SafeLoader)
    problems: list[Problem] = []
    value = None if node is None else _convert(node, "", {}, problems, [0])
    if problems:
        raise ValueError(problems[0].text)
    return value


def _convert(node: yaml.Node, key: str, lines: dict[str, int], problems: list[Problem], count: list[int]) -> Any:
    import yaml

    count[0] += 1
    line = node.start_mark.line + 1
    if count[0] > MAX_YAML_NODES:
        raise ConfigError(f"line {line}: more than {MAX_YAML_NODES:,} values: are aliases nested?")
    if key:
        lines.setdefault(key, line)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            here = key_node.start_mark.line + 1
            if not isinstance(name, str) or name == "<<":
                problems.append(Problem(key, "only plain keys are allowed", here))
                continue
            dotted = f"{key}.{name}" if key else name
            if name in result:
                problems.append(Problem(dotted, "the key stands here a second time", here))
            lines[dotted] = here
            result[name] = _convert(value_node, dotted, lines, problems, count)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_convert(item, f"{key}.{i}", lines, problems, count) for i, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    if node.tag == "tag:yaml.org,2002:str":
        # YAML 1.1 reads 1e-3 as text; everyone who writes it means the number.
        return float(node.value) if node.style is None and _FLOAT.match(node.value) else node.value
    if node.tag.rsplit(":", 1)[-1] in ("int", "float", "bool", "null"):
        try:
            return yaml.SafeLoader("").construct_object(node)
        except ValueError as error:
            problems.append(Problem(key, _first_line(error), line))
            return None
    problems.append(Problem(key, f"values of type {node.tag.rsplit(':', 1)[-1]} are not allowed", line))
    return None


def _assign(data: Any, dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for depth, name in enumerate(parents):
        if isinstance(data, list):
            data = data[_index(data, name)]
            continue
        child = data.get(name)
        if child is None:
            child = data[name] = {}
        if not isinstance(child, dict | list):
            raise ValueError(f"{'.'.join(parents[: depth + 1])} is {child!r}, which has no keys of its own")
        data = child
    if isinstance(data, list):
        data[_index(data, last)] = value
    else:
        data[last] = value


def _index(data: list[Any], name: str) -> int:
    if not name.isdigit() or int(name) >= len(data):
        raise ValueError(f"{name!r} is not an index of a list of {len(data)}")
    return int(name)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


# --- plain data -> dataclasses -------------------------------------------------------------------------------


class Recipe:
    """Base of a method's settings: `name: byol` in a file means the Recipe in sslscale/recipes/byol.py."""

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


def build(cls: type, document: Document, data: Any = None, key: str = "") -> Any:
    """Make a `cls` of the document's data; raises ConfigError with every problem there is."""
    problems: list[Problem] = []
    value = _build(cls, document.data if data is None else data, key, document.lines, problems)
    if problems:
        raise document.fail(problems)
    return value


def _build(hint: Any, data: Any, key: str, lines: dict[str, int], problems: list[Problem]) -> Any:
    def wrong(text: str) -> None:
        problems.append(Problem(key, text, _line(lines, key)))

    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        options = [argument for argument in arguments if argument is not type(None)]
        if len(options) == 1:
            return _build(options[0], data, key, lines, problems)
        if all(dataclasses.is_dataclass(option) for option in options):
            return _build_named(options, data, key, lines, problems)
        for option in options:
            attempt: list[Problem] = []
            value = _build(option, data, key, lines, attempt)
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
            _build(kind, item, f"{key}.{i}", lines, problems)
            for i, (kind, item) in enumerate(zip(kinds, data, strict=True))
        )
        spoilt = len(problems) > before and any(item is None for item in items)
        return None if spoilt else items
    if origin is dict:
        if not isinstance(data, dict):
            wrong(f"expected key: value pairs, not {data!r}")
            return {}
        return {n: _build(arguments[1], v, f"{key}.{n}", lines, problems) for n, v in data.items()}
    if hint is Recipe:
        return _build_recipe(data, key, lines, problems)
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, data, key, lines, problems)
    if hint is float and isinstance(data, int | float) and not isinstance(data, bool):
        if not math.isfinite(data):
            wrong(f"{data} is not a finite number")
        return float(data)
    if hint in (int, str, bool) and type(data) is hint:
        return data
    if hint is int and isinstance(data, float) and data.is_integer():
        return int(data)
    if hint is str and isinstance(data, int | float) and not isinstance(data, bool):
        return str(data)
    wrong(f"expected {describe(hint)}, not {data!r}")
    return None


def _build_dataclass(cls: Any, data: Any, key: str, lines: dict[str, int], problems: list[Problem]) -> Any:
    if not isinstance(data, dict):
        problems.append(Problem(key, f"expected the keys of {cls.__name__}, not {data!r}", _line(lines, key)))
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init and not f.metadata.get("hidden")}
    before = len(problems)
    for name in data:
        if name not in fields:
            dotted = f"{key}.{name}" if key else name
            near = difflib.get_close_matches(name, fields, 1, 0.6)
            known = "" if near else f"; known keys: {', '.join(sorted(fields))}"
            problems.append(Problem(dotted, f"there is no such key{_mean(near)}{known}", _line(lines, dotted)))
    values = {}
    for name, spec in fields.items():
        dotted = f"{key}.{name}" if key else name
        if name in data:
            values[name] = _build(hints[name], data[name], dotted, lines, problems)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            problems.append(Problem(dotted, f"is required ({describe(hints[name])}) and missing", _line(lines, key)))
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
                problems.append(Problem(dotted, text, _line(lines, dotted)))
                broken.add(field)
                continue
            if not broken:  # else it may come of what stands in for that
                problems.append(Problem(key, str(error), _line(lines, key)))
        except (TypeError, AttributeError):  # what is missing or broken has no default, and is reported already
            assert broken
        else:
            return made  # with defaults for what is broken, so that what holds it is checked too
        return None


def _build_named(options: list[Any], data: Any, key: str, lines: dict[str, int], problems: list[Problem]) -> Any:
    names = {typing.get_args(typing.get_type_hints(option)["name"])[0]: option for option in options}
    name = data.get("name") if isinstance(data, dict) else None
    if name not in names:
        near = difflib.get_close_matches(str(name), names, 1, 0.5)
        problems.append(
            Problem(
                f"{key}.name",
                f"{name!r} is not one of {', '.join(map(repr, names))}{_mean(near)}",
                _line(lines, key),
            )
        )
        return None
    return _build_dataclass(names[name], data, key, lines, problems)


def recipe_names() -> list[str]:
    """Name every file in sslscale/recipes/ that holds a method's settings."""
    return sorted(
        path.stem
        for path in (Path(__file__).parent / "recipes").glob("*.py")
        if f'name: Literal["{path.stem}"]' in path.read_text("utf-8")
    )


def _build_recipe(data: Any, key: str, lines: dict[str, int], problems: list[Problem]) -> Any:
    name = data.get("name") if isinstance(data, dict) else None
    if name not in recipe_names():
        near = difflib.get_close_matches(str(name), recipe_names(), 1, 0.5)
        text = f"there is no method {name!r}{_mean(near)}; methods: {', '.join(recipe_names())}"
        problems.append(Problem(f"{key}.name", text, _line(lines, key)))
        return None
    module = importlib.import_module(f"sslscale.recipes.{name}")
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    (cls,) = [c for c in own if issubclass(c, Recipe)]
    return _build_dataclass(cls, data, key, lines, problems)


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


def require(condition: bool, name: str, text: str) -> None:
    """Raise the ValueError that `build` reports at the field `name`; for use in `__post_init__`."""
    if not condition:
        raise ValueError(f"{name}: {text}")
