"""A parser's YAML as a JSON Schema (draft 7, which editors know best), made from the types of its options.

Files are laid over each other and completed by options, so no key is required. Values that a parser computes by
interpolation (``${trainer.max_steps}``) are accepted where it knows interpolation.
"""

from __future__ import annotations

import argparse
import collections.abc
import enum
import importlib
import inspect
import os
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import is_dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

from jsonargparse import ArgumentParser

DRAFT = "http://json-schema.org/draft-07/schema#"

_NO_KEYS = ("ActionConfigFile", "_ActionConfigLoad", "_HelpAction", "_ActionHelpClassPath", "_ActionPrintConfig")
_SCALARS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    set: {"type": "array"},
}
_LISTS = (list, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_GROUPS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
# whose classes are described with their arguments; those of other packages may be named by a dotted path
_DESCRIBED = ("lightning_tl.", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.", "torch.optim.")
_INTERPOLATION = {
    "type": "string",
    "pattern": r"\$\{",
    "description": "The value of another key: ${trainer.max_steps}.",
}


def config_schema(parser: ArgumentParser, title: str, interpolation: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of what a parser takes by ``--config``.

    Args:
        parser: The parser; without sub-commands.
        title: The schema's title.
        interpolation: Whether the parser resolves ``${key}``.
    """
    builder = _Builder(interpolation)
    schema = {"$schema": DRAFT, "title": title, **builder.of_parser(parser)}
    if builder.definitions:
        schema["definitions"] = dict(sorted(builder.definitions.items()))
    return schema


class _Builder:
    """Builds schemas and keeps those of classes, each once."""

    def __init__(self, interpolation: bool) -> None:
        self.interpolation = interpolation
        self.definitions: dict[str, Any] = {}

    def of_parser(self, parser: ArgumentParser) -> dict[str, Any]:
        """Return an object with a property for each option of a parser, nested where names have dots."""
        schema = _group()
        for action in parser._actions:
            if type(action).__name__ in _NO_KEYS or action.dest == argparse.SUPPRESS:
                continue
            *groups, key = action.dest.split(".")
            inside = schema
            for group in groups:
                inside = inside["properties"].setdefault(group, _group())
            inside["properties"][key] = schema_of = self.of_action(action)
            if self.interpolation and _allows(schema_of, "array"):
                about = f"Added to {key} of the files before this one."
                inside["properties"][f"{key}+"] = {**schema_of, "description": about}
        return schema

    def of_action(self, action: argparse.Action) -> dict[str, Any]:
        """Return the schema of one option."""
        if isinstance(action, argparse._StoreTrueAction | argparse._StoreFalseAction):
            schema: dict[str, Any] = {"type": "boolean"}
        elif action.choices:
            schema = {"enum": list(action.choices)}
        else:
            schema = self.of_type(getattr(action, "_typehint", None) or action.type or str)
        if action.nargs in ("+", "*") or (isinstance(action.nargs, int) and action.nargs > 1):
            schema = {"type": "array", "items": schema}
        default = None if action.default is argparse.SUPPRESS else action.default
        if default is None and not action.required:
            schema = _any_of([schema, {"type": "null"}])
        if self.interpolation and schema and not _allows(schema, "string"):
            schema = _any_of([schema, self.reference("interpolation", lambda: dict(_INTERPOLATION))])
        if not action.option_strings:
            schema = {**schema, "x-positional": True}
        about = "" if action.help in (None, argparse.SUPPRESS) else " ".join(str(action.help).split())
        if about and "%(" not in about:
            schema = {**schema, "description": about}
        if isinstance(default, bool | int | float | str):
            schema = {**schema, "default": default}
        return schema

    def of_type(self, hint: Any) -> dict[str, Any]:
        """Return the schema of values of a type; an empty one, which accepts all, for what has no form in YAML."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self.of_type(arguments[0])
        if hint in (Any, object):
            return {}
        if hint in _SCALARS:
            return dict(_SCALARS[hint])
        if origin is typing.Literal:
            return {"enum": list(arguments)}
        if origin is typing.Union or isinstance(hint, types.UnionType):
            return _any_of([self.of_type(each) for each in arguments])
        if origin is tuple:
            return self.of_tuple(arguments)
        if origin is collections.abc.Callable:
            made = arguments[1] if len(arguments) == 2 else None
            children = _described(made) if isinstance(made, type) else []
            by_class = self.of_class(made) if children and isinstance(made, type) else {}
            return _any_of([{"type": "string"}, by_class])
        if origin in _LISTS:
            items = self.of_type(arguments[0]) if arguments else {}
            return {"type": "array", **({"items": items} if items else {})}
        if origin in _GROUPS:
            values = self.of_type(arguments[1]) if len(arguments) == 2 else {}
            return {"type": "object", **({"additionalProperties": values} if values else {})}
        if origin is not None or not isinstance(hint, type):
            return {}
        return self.of_class(hint)

    def of_tuple(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """Return the schema of a tuple: a list of this length."""
        repeated = len(arguments) == 2 and arguments[1] is Ellipsis
        items = _any_of([self.of_type(each) for each in arguments if each is not Ellipsis])
        length = {} if repeated else {"minItems": len(arguments), "maxItems": len(arguments)}
        return {"type": "array", **({"items": items} if items else {}), **length}

    def of_class(self, kind: type) -> dict[str, Any]:
        """Return the schema of a class: a number, a group of keys, or the name of a subclass with its arguments."""
        if issubclass(kind, enum.Enum):
            return {"enum": list(kind.__members__)}
        for scalar in (bool, int, float, str):
            if issubclass(kind, scalar):
                return dict(_SCALARS[scalar])
        if issubclass(kind, PurePath) or kind is os.PathLike:
            return {"type": "string"}
        if is_dataclass(kind):
            return self.reference(kind.__name__, partial(self.of_arguments, kind))
        children = _described(kind)
        if not children:
            return _any_of([{"type": "string"}, _class_group({"type": "string"}, {})])
        return self.reference(f"{kind.__name__}_by_class_path", partial(self.of_subclasses, children))

    def reference(self, name: str, make: collections.abc.Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a reference to a definition, which is made where it is new."""
        if name not in self.definitions:
            self.definitions[name] = {}  # a class may have arguments of its own kind
            self.definitions[name] = make()
        return {"$ref": f"#/definitions/{name}"}

    def of_subclasses(self, children: Sequence[type]) -> dict[str, Any]:
        """Return the schema of objects given by ``class_path`` and ``init_args``, or only by the class's name.

        A file that lies over another may leave the class out, and may then give the arguments with no ``init_args``.
        """
        names = [child.__name__ for child in children]
        class_path = {"anyOf": [{"enum": names}, {"type": "string", "pattern": r"^[^.\s]+(\.[^.\s]+)+$|\$\{"}]}
        rules, arguments = [], set()
        for child in children:
            reference = self.reference(f"{child.__name__}_arguments", partial(self.of_arguments, child))
            arguments.update(self.definitions[f"{child.__name__}_arguments"].get("properties", ()))
            is_this = {"required": ["class_path"], "properties": {"class_path": {"pattern": _paths(child)}}}
            rules.append({"if": is_this, "then": {"properties": {"init_args": reference}}})
        return {
            "anyOf": [class_path, {**_class_group(class_path, {key: {} for key in sorted(arguments)}), "allOf": rules}]
        }

    def of_arguments(self, kind: type) -> dict[str, Any]:
        """Return the schema of a class's arguments; any group where its signature cannot be read."""
        parser = ArgumentParser(add_help=False)
        try:
            parser.add_class_arguments(kind, fail_untyped=False)
        except (ValueError, TypeError, AttributeError):
            return {"type": "object"}
        schema = self.of_parser(parser)
        if about := inspect.getdoc(kind):
            schema["description"] = " ".join(about.split("\n\n")[0].split())
        return schema


def _group() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _class_group(class_path: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object given by its class, or only by arguments, of a class that is known already."""
    given = {"class_path": class_path, "init_args": {"type": "object"}, "dict_kwargs": {"type": "object"}}
    return {
        "type": "object",
        "anyOf": [
            {"additionalProperties": False, "properties": given},
            {"additionalProperties": False, "properties": arguments},
        ],
    }


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of values that one of several accepts; several plain types become a list of types."""
    flat: list[dict[str, Any]] = []
    for schema in schemas:
        kinds = schema.get("type")
        if set(schema) == {"type"} and isinstance(kinds, list):
            parts = [{"type": kind} for kind in kinds]
        else:
            parts = schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
        flat += [each for each in parts if each not in flat]
    if not flat or {} in flat:
        return {}
    if len(flat) == 1:
        return flat[0]
    if all(set(each) == {"type"} and isinstance(each["type"], str) for each in flat):
        return {"type": [each["type"] for each in flat]}
    return {"anyOf": flat}


def _allows(schema: dict[str, Any], kind: str) -> bool:
    """Return whether a schema accepts all values of a JSON type."""
    if "anyOf" in schema:
        return any(_allows(each, kind) for each in schema["anyOf"])
    if set(schema) - {"type", "items", "description", "default"}:
        return False
    named = schema.get("type", [])
    return kind == named or kind in named


def _paths(kind: type) -> str:
    """Return the pattern of a class's names: by itself, or after the packages from which it can be imported."""
    package = kind.__module__.partition(".")[0]
    return rf"^({package}\.([a-z_0-9]+\.)*)?{kind.__name__}$"


def _described(base: type) -> list[type]:
    """Return the public, concrete classes of a kind whose arguments are described, by name."""
    found: dict[str, type] = {}
    waiting, seen = [base], {base}
    while waiting:
        kind = waiting.pop()
        try:
            below: list[type] = kind.__subclasses__()
        except TypeError:  # a metaclass
            continue
        waiting += [child for child in below if child not in seen]
        seen.update(below)
        path = f"{kind.__module__}.{kind.__qualname__}"
        if path.startswith(_DESCRIBED) and not inspect.isabstract(kind) and _is_public(kind):
            found.setdefault(kind.__name__, kind)
    return [found[name] for name in sorted(found)]


def _is_public(kind: type) -> bool:
    """Return whether a class can be imported by its name and its modules and itself are public."""
    module = importlib.import_module(kind.__module__)
    return getattr(module, kind.__name__, None) is kind and not re.match("_|Test", kind.__name__)
