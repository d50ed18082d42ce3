"""JSON files that are either whole or absent, and the canonical form that identities are hashed from."""

from __future__ import annotations

import dataclasses
import enum
import errno
import hashlib
import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fsync_dir(path: Path) -> None:
    """Make a rename inside `path` survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `path` atomically: a reader sees the old file, the new file, or none. A folder raises IsADirectoryError."""
    if path.is_dir():  # `.` has no name to put a temporary file beside
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # that of a write has no name
            error.filename = str(path)
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, to_bytes(value))


def to_bytes(value: Any) -> bytes:
    """`value` as indented JSON."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file; raises FileNotFoundError or json.JSONDecodeError."""
    return json.loads(path.read_text("utf-8"))


SUM = "sha256"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with the sum of its own content, which `unsealed` checks."""
    return {**value, SUM: digest(value, 64)}


def unsealed(value: Any) -> dict[str, Any]:
    """The content of a sealed object without its sum; raises ValueError if it is not what was sealed."""
    if not isinstance(value, dict) or value.get(SUM) != digest(
        rest := {k: v for k, v in value.items() if k != SUM}, 64
    ):
        raise ValueError("its content does not match its own SHA-256: changed or damaged")
    return rest


def canonical(value: Any) -> Any:
    """Reduce `value` to plain JSON in one way only, or raise TypeError.

    Dataclass fields marked `metadata={"identity": False}` say where or how, not what, and are left out. Fields marked
    `metadata={"new": True}` are left out while they have their default, so that keys made before there was such a field
    stay. There is no fall-back to `str()`: a value without a stable form would silently fork every identity that holds
    it.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"a number in a configuration must be finite, not {value}")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, enum.Enum):
        return canonical(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: canonical(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.metadata.get("identity", True)
            and not (field.metadata.get("new", False) and getattr(value, field.name) == field.default)
        }
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("only text keys have a canonical form")
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [canonical(item) for item in value]
    raise TypeError(f"a {type(value).__name__} has no stable identity: {value!r}")


def digest(value: Any, length: int = 12) -> str:
    """Hash the canonical form of `value` to `length` hexadecimal digits of SHA-256."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A config as dotted keys, for people and trackers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        items = ((str(i), item) for i, item in enumerate(value))
    else:
        return {prefix: value}
    return {k: v for n, item in items for k, v in flat(item, f"{prefix}.{n}" if prefix else str(n)).items()}
