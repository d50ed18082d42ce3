"""Stages, their identities, and the plan. Nothing here knows torch, Ray, MLflow or learning.

A stage is an inert description: a function, a frozen config, and the stages it reads. Its key is a hash of what it is
(function, config, the keys of its inputs, the content of outside data), never of where or how it runs (paths,
resources, workers, log cadence), so the same experiment twice is free. An artifact is finished when its record.json
exists, which is written last.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sslscale.errors import DataError
from sslscale.graph.artifacts import Artifact, from_fields
from sslscale.graph.resources import Resources
from sslscale.storage import sums
from sslscale.storage.jsonio import canonical, digest
from sslscale.storage.mirror import RECORD

DESCRIPTION = "stage.json"
_COMPARED = 100  # earlier results that a stage to run is compared with, to say why it runs
F = TypeVar("F", bound=Callable[..., Artifact])


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One node of the graph. Making it runs nothing and touches no disk."""

    name: str  # for people: teacher, student_1/score; never part of the key
    fn: Callable[..., Artifact]
    config: Any
    inputs: Mapping[str, Stage]
    content: Callable[[Path], str] | None = None  # identity of data outside the root, given the root
    resources: Resources = field(default_factory=Resources)

    @property
    def kind(self) -> str:
        """The function's name; that of a user's own module with its module before it."""
        module = self.fn.__module__
        return self.fn.__name__ if module.startswith("sslscale.") else f"{module}.{self.fn.__name__}"


def cpu_only(fn: F) -> F:
    """Mark a stage's function that does not use a GPU, so that none is reserved for it."""
    fn.cpu_only = True  # pyright: ignore[reportFunctionMemberAccess]
    return fn


def stage(
    fn: Callable[..., Artifact],
    config: Any,
    *,
    name: str,
    resources: Resources | None = None,
    content: Callable[[Path], str] | None = None,
    **inputs: Stage,
) -> Stage:
    """Describe a stage. A wrong input name fails here, at declaration, before anything runs."""
    try:
        inspect.signature(fn).bind(None, config, **inputs)
    except TypeError as error:
        raise TypeError(f"stage {name!r} cannot call {fn.__name__}: {error}") from None
    for key, value in inputs.items():
        if not isinstance(value, Stage):
            raise TypeError(f"stage {name!r}: input {key!r} must be a Stage, not {type(value).__name__}")
    return Stage(
        name=name,
        fn=fn,
        config=config,
        inputs=inputs,
        content=content,
        resources=resources or Resources(),
    )


def topological(targets: Sequence[Stage]) -> list[Stage]:
    """All stages that the targets need, inputs before users, in the order of declaration."""
    order: list[Stage] = []
    seen: set[int] = set()

    def visit(node: Stage) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        for parent in node.inputs.values():
            visit(parent)
        order.append(node)

    for target in targets:
        visit(target)
    names: set[str] = set()
    for node in order:
        if node.name in names:
            raise ValueError(f"two stages are named {node.name!r}")
        names.add(node.name)
    return order


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What will happen to one stage, and why."""

    stage: Stage
    key: str
    path: Path
    state: str  # "cached" or "run"
    why: str
    input_keys: Mapping[str, str]

    @property
    def description(self) -> dict[str, Any]:
        """What the key is the hash of."""
        return describe(self.stage, self.input_keys, None)


def describe(node: Stage, input_keys: Mapping[str, str], content: str | None) -> dict[str, Any]:
    """The identity of a stage as plain JSON."""
    identity = {"stage": node.kind, "config": canonical(node.config), "inputs": dict(input_keys)}
    return identity if content is None else {**identity, "content": content}


def plan(targets: Sequence[Stage], root: str | Path) -> list[Planned]:
    """For every stage, whether its result exists, and if not, why it would run. Reads the root, writes nothing."""
    root = Path(root)
    planned: list[Planned] = []
    keys: dict[int, str] = {}
    known: dict[str, list[dict[str, Any]]] = {}
    for node in topological(targets):
        input_keys = {name: keys[id(parent)] for name, parent in sorted(node.inputs.items())}
        content = node.content(root) if node.content else None
        identity = describe(node, input_keys, content)
        key = digest(identity)
        keys[id(node)] = key
        path = root / "artifacts" / node.kind / key
        if (path / RECORD).exists():
            state, why = "cached", "cached"
        else:
            state = "run"
            if node.kind not in known:
                known[node.kind] = earlier(root, node.kind, most=_COMPARED)
            why = _why(identity, path, known[node.kind])
        planned.append(Planned(stage=node, key=key, path=path, state=state, why=why, input_keys=input_keys))
    return planned


def earlier(root: Path, kind: str, most: int | None = None) -> list[dict[str, Any]]:
    """The records of all finished stages of a kind, or of the `most` recent; unreadable ones are passed over."""
    found = []
    folders = [folder for folder in (root / "artifacts" / kind).glob("*") if (folder / RECORD).exists()]
    if most is not None and len(folders) > most:
        folders = sorted(folders, key=lambda folder: (folder / RECORD).stat().st_mtime_ns)[-most:]
    for file in sorted(folder / RECORD for folder in folders):
        try:
            found.append(sums.read_record(file))
        except (OSError, ValueError):
            continue
    return found


def _why(identity: Mapping[str, Any], path: Path, records: list[dict[str, Any]]) -> str:
    if (path / DESCRIPTION).exists():
        return "unfinished: goes on where it stopped"
    nearest: tuple[int, str] | None = None
    for record in records:
        changes = differences(record, identity)
        if nearest is None or len(changes) < nearest[0]:
            shown = "; ".join(changes[:2]) + (f"; {len(changes) - 2} more" if len(changes) > 2 else "")
            nearest = (len(changes), f"{shown} (nearest {record.get('key', '?')})")
    return nearest[1] if nearest else "no earlier result"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the fields in which two identities differ, config fields first."""
    changes = _diff("", old.get("config"), new.get("config"))
    old_inputs, new_inputs = old.get("inputs", {}), new.get("inputs", {})
    changes += [
        f"input {n} changed" for n in sorted({*old_inputs, *new_inputs}) if old_inputs.get(n) != new_inputs.get(n)
    ]
    if old.get("content") != new.get("content"):
        changes.append("the source's content changed")
    return changes


def _diff(key: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in sorted({*old, *new})
            for line in _diff(f"{key}.{name}" if key else name, old.get(name), new.get(name))
        ]
    return [] if old == new else [f"{key}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def load(path: Path) -> Artifact:
    """Load a finished artifact; raises DataError if its record is missing or unreadable."""
    try:
        record: dict[str, Any] = sums.read_record(path / RECORD)
        return from_fields(record["kind"], path, record["fields"])
    except FileNotFoundError:
        raise DataError(f"{path}: not a finished artifact (it has no {RECORD})") from None
    except sums.DamagedRecord:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path / RECORD}: unreadable record ({error}); remove the folder to redo it") from None
