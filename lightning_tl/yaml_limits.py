"""YAML that may be damaged or hostile: size, depth and aliases are limited before anything is built of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lightning_tl._io.files import check_regular
from lightning_tl.errors import UserError, one_line, shortened

LONGEST = 1 << 20
"""Most bytes of a configuration."""
_MOST_VALUES = 100_000
_DEEPEST = 60
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):  # type: ignore[misc]
    """Reads ``1e-3`` as a number, as jsonargparse does; PyYAML asks for ``1.0e-3``."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$"), list("-+0123456789")
)


class LimitError(yaml.YAMLError):
    """The text is larger, or nested more deeply, than a configuration is."""


@dataclass
class _Node:
    """Size and depth of a part of the text, with aliases expanded."""

    anchor: str | None = None
    values: int = 1
    depth: int = 1


def check_limits(text: str) -> None:
    """Refuse a YAML text that grows beyond all measure where it is read, without reading it.

    Raises:
        LimitError: It is too long, nested too deeply, has too many values with aliases expanded, or contains itself.
        yaml.YAMLError: It is no YAML.
    """
    if len(text) > LONGEST:
        raise LimitError(f"it has {len(text):,} characters; at most {LONGEST:,}")
    anchors: dict[str, _Node | None] = {}  # None: not closed yet
    open_nodes: list[_Node] = []
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            node = anchors.get(event.anchor or "", _Node())
            if node is None:
                raise LimitError(f"the alias *{shortened(event.anchor)} is inside of what it stands for")
            _close(node, open_nodes)
        elif isinstance(event, yaml.ScalarEvent):
            node = _Node(event.anchor)
            if event.anchor:
                anchors[event.anchor] = node
            _close(node, open_nodes)
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.anchor:
                anchors[event.anchor] = None
            open_nodes.append(_Node(event.anchor))
            if len(open_nodes) > _DEEPEST:
                raise LimitError(f"it is nested more than {_DEEPEST} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            node = open_nodes.pop()
            if node.anchor:
                anchors[node.anchor] = node
            _close(node, open_nodes)


def _close(node: _Node, open_nodes: list[_Node]) -> None:
    """Add a part's size and depth to the one that it is in."""
    if open_nodes:
        above = open_nodes[-1]
        above.values += node.values
        above.depth = max(above.depth, node.depth + 1)
        if above.values > _MOST_VALUES:
            raise LimitError(f"it has more than {_MOST_VALUES:,} values, aliases expanded")
        if above.depth > _DEEPEST:
            raise LimitError(f"it is nested more than {_DEEPEST} levels deep, aliases expanded")


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        UserError: No ordinary file, too large, or not UTF-8.
    """
    check_regular(path, str(path))
    try:
        if path.stat().st_size > LONGEST:
            raise UserError(f"{path}: has more than {LONGEST:,} bytes; it is no configuration")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML ({one_line(error)})") from None


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file. It is shared between calls and must not be changed.

    Raises:
        UserError: The file cannot be read, is not valid YAML, or is beyond the limits; a key is no text.
    """
    try:
        return _parsed(read_text(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise UserError(f"{path}{where}: not valid YAML ({shortened(error.problem or error.context)})") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not valid YAML ({shortened(one_line(error), 300)})") from None


@cache
def _parsed(text: str) -> Any:
    """Parse YAML; cached, as thousands of runs share a few files."""
    check_limits(text)
    content = yaml.load(text, Loader=_Loader)
    _check_keys(content, "")
    return content


def parsed_value(text: str) -> Any:
    """Return the value that an option's text has as YAML; the text itself where it is none."""
    try:
        return _parsed(text)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError):
        return text


def _check_keys(content: Any, where: str) -> None:
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str) and (isinstance(key, bool) or not isinstance(key, int)):
                place = f" under {where}" if where else ""
                raise yaml.YAMLError(f"the key {shortened(repr(key))}{place} is no text: put it in quotes")
            _check_keys(value, f"{where}.{key}" if where else str(key))
    elif isinstance(content, list):
        for value in content:
            _check_keys(value, where)


def limit_parsers() -> None:
    """Let jsonargparse, too, check each text before it reads it: a value may name a further file."""
    import jsonargparse

    if getattr(limit_parsers, "done", False):
        return
    limit_parsers.done = True  # type: ignore[attr-defined]
    parser = jsonargparse.ArgumentParser(parser_mode="omegaconf+")
    parser.add_argument("--key")
    parser.parse_string("key: value")  # the first text makes that mode's loader
    for mode in ("yaml", "omegaconf+"):
        jsonargparse.set_loader(mode, _limited(jsonargparse.get_loader(mode)), (yaml.YAMLError,))


def _limited(load: Any) -> Any:
    def loader(value: str) -> Any:
        check_limits(value)
        try:
            return load(value)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:  # such as a number of 5,000 digits
            raise yaml.YAMLError(one_line(error)) from None

    return loader
