"""JSON schema of configurations, so that editors complete keys, show their meaning and mark mistakes."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from sslscale.config.comments import comments

Schema = dict[str, Any]


def schema(pipelines: Mapping[str, type], choices: Callable[[type], Iterable[tuple[str, type]]]) -> Schema:
    """The JSON schema (draft 2020-12) of a file that names one of these pipelines, each given with its `Config`.

    `choices` lists the names and classes that a field of a class with a method `choose` may mean.
    """
    made = _Maker(choices)
    rules = []
    for name, config in pipelines.items():
        made.owner = name
        reference = made.of(config)
        keys = [field.name for field in dataclasses.fields(config)]
        rules.append(
            {
                "if": {"properties": {"pipeline": {"const": name}}, "required": ["pipeline"]},
                "then": {
                    "allOf": [reference],
                    "propertyNames": {"enum": ["pipeline", *keys]},
                },
            }
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sslscale configuration",
        "type": "object",
        "required": ["pipeline"],
        "properties": {
            "pipeline": {
                "description": "The graph: the name of a pipeline, or a Python file of your own.",
                "anyOf": [{"enum": list(pipelines)}, {"type": "string", "pattern": r"\.py$"}],
            }
        },
        "allOf": rules,
        "$defs": made.definitions,
    }


class _Maker:
    def __init__(self, choices: Callable[[type], Iterable[tuple[str, type]]]):
        self.definitions: dict[str, Schema] = {}
        self.owner = ""
        self._choices = choices

    def of(self, hint: Any) -> Schema:
        """The schema of a type annotation."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(argument) for argument in arguments]}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is tuple:
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return {"type": "array", "items": self.of(arguments[0])}
            items = [self.of(argument) for argument in arguments]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if hasattr(hint, "choose") and not dataclasses.is_dataclass(hint):  # a dataclass is one of the choices
            return self._chosen(hint)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return {"$ref": f"#/$defs/{self._define(hint)}"}
        plain = {int: "integer", float: "number", bool: "boolean", type(None): "null"}
        if hint is str:
            return {"type": ["string", "number"]}  # a number stands for its text
        return {"type": plain[hint]} if hint in plain else {}

    def _chosen(self, base: type) -> Schema:
        """One of the classes that `name` may mean, or a module or file of the user's own."""
        rules = []
        names = []
        for name, cls in self._choices(base):
            names.append(name)
            rules.append({"if": {"properties": {"name": {"const": name}}}, "then": self.of_named(cls)})
        key = base.__name__
        self.definitions[key] = {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"anyOf": [{"enum": names}, {"type": "string", "pattern": r"\."}]}},
            "allOf": rules,
        }
        return {"$ref": f"#/$defs/{key}"}

    def of_named(self, cls: type) -> Schema:
        """The schema of one class among several."""
        return {"$ref": f"#/$defs/{self._define(cls)}"}

    def _define(self, cls: type) -> str:
        own = cls.__module__.startswith("sslscale.")
        key = cls.__name__ if own else f"{self.owner}.{cls.__name__}"
        if key in self.definitions:
            return key
        fields = [f for f in dataclasses.fields(cls) if f.init and not f.metadata.get("hidden")]
        hints, notes = typing.get_type_hints(cls), comments(cls)
        found: Schema = {"type": "object", "description": inspect.getdoc(cls) or ""}
        self.definitions[key] = found  # before its fields: it may hold itself
        properties = {}
        for field in fields:
            made = self.of(hints[field.name])
            note = notes.get(field.name, "")
            properties[field.name] = {**made, **({"description": note} if note else {}), **_default(field)}
        required = [
            f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        found["properties"] = properties
        if required:
            found["required"] = required
        whole = key.partition(".")[2] == "Config"  # its file has `pipeline` beside it
        if not whole:
            found["additionalProperties"] = False
        return key


def _default(field: dataclasses.Field) -> Schema:
    value = field.default
    if isinstance(value, bool | int | float | str):
        return {"default": value}
    if isinstance(value, tuple) and all(isinstance(item, bool | int | float | str) for item in value):
        return {"default": list(value)}
    return {"default": None} if value is None else {}
