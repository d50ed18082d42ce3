"""A YAML file and `key=value` overrides as plain data, with the line on which each key stands."""

from __future__ import annotations

import difflib
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslscale.errors import ConfigError

if typing.TYPE_CHECKING:
    import yaml

MAX_YAML_BYTES = 1 << 20
_MAX_DEPTH = 50
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
    if key.count(".") > _MAX_DEPTH:
        raise ConfigError(f"line {line}: more than {_MAX_DEPTH} levels: does an alias hold itself?")
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
