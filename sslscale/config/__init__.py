"""One YAML file plus `key=value` overrides -> frozen dataclasses, with every error found in one pass.

Strict: an unknown key, a missing key, a wrong type or a value out of range is an error that names the file, the line,
the dotted key and the nearest valid name. There is no inheritance, interpolation or environment look-up.
"""

from __future__ import annotations


def require(condition: bool, name: str, text: str) -> None:
    """Raise the ValueError that `build` reports at the field `name`; for use in `__post_init__`."""
    if not condition:
        raise ValueError(f"{name}: {text}")
