"""Mistakes in a run's arguments that its parser does not see, or cannot place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_tl.config_files import read_yaml
from lightning_tl.errors import UserError, nearest
from lightning_tl.transfer.chain import known_methods

_KEY = re.compile(r"^unknown key '([\w.]+)'|^((?:[\w.]+: )+)")
_UNKNOWN = re.compile(r"unknown key '([\w.]+)'")
_INNER = re.compile(r"^([\w.]+): unknown key '([\w.]+)'")
# methods in a parser's message about a list of them: with a class_path, or as plain names
_NAMED = re.compile(r"class_path(?:=|': )'([\w.]+)'|(?:(?<=\[)|(?<=, ))'([\w.]+)'(?=[,\]])")
_WITH_ARGUMENTS = re.compile(r"class_path='[\w.]*?(\w+)', init_args=Namespace\(([^()]*)\)")


def _pairs(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options with their values, without hyphens; of ``--key value`` and ``--key=value`` alike."""
    waiting = ""
    for argument in args:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            if equals:
                yield key, value
            waiting = "" if equals else key
        elif waiting:
            yield waiting, argument
            waiting = ""


def _files(args: Sequence[str]) -> list[Path]:
    return [Path(value) for key, value in _pairs(args) if key in ("config", "c")]


def _lookup(content: Any, key: str) -> Any:
    """Return the value of a dotted key, of which ``init_args`` may be missing; None where there is none."""
    for part in key.split("."):
        if not isinstance(content, dict):
            return None
        if part not in content and isinstance(content.get("init_args"), dict):
            content = content["init_args"]
        if part not in content:
            return None
        content = content[part]
    return content


def given_values(args: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Return the values that the arguments, or their configuration files, give to some keys: key → value."""
    found: dict[str, Any] = {}
    for file in _files(args):
        for key in keys:
            if file.is_file() and (value := _lookup(read_yaml(file), key)) is not None:
                found[key] = value
    return found | {key: yaml.safe_load(value) for key, value in _pairs(args) if key in keys}


def check_classes(given: dict[str, Any], data: Any) -> None:
    """Refuse a number of classes for the model that the data contradict; the data's number is the one that counts.

    Raises:
        UserError: They differ.
    """
    actual = getattr(data, "num_classes", None)
    for key, value in given.items():
        if actual is not None and value != actual:
            raise UserError(
                f"{key} is {value}, but {type(data).__name__} has {actual} classes: leave it out, as the number comes "
                "from the data"
            )


def wrong_methods(text: str) -> str:
    """Return a parser's message about ``model.transfer``, in words where it is about a list of methods.

    The parser only says that the list is no method, with all values; what is wrong is most often an argument that is
    missing.

    Args:
        text: The message.
    """
    start = text.find("Not a valid subclass of TransferMethod. Got value: [")
    if start < 0:
        return text
    known, problems = known_methods(), []
    for pair in _NAMED.findall(text, start):
        name = "".join(pair).rpartition(".")[2]
        if name not in known:
            problems.append(f"no method '{name}'{nearest(name, known)}")
    for name, given in _WITH_ARGUMENTS.findall(text, start):
        arguments = inspect.signature(known[name]).parameters.values() if name in known else ()
        needed = [each.name for each in arguments if each.default is each.empty]
        problems += [f"{name} needs {each}" for each in needed if f"{each}=None" in given]
    what = "; ".join(problems) or "the name or the value of an argument in the list is wrong"
    return f"{text[:start]}{what}; give each method as {{class_path: NAME, init_args: {{argument: value}}}}"


def check_braces(args: Sequence[str]) -> None:
    """Refuse ``{size:32}``, which YAML reads as the key ``size:32`` without a value.

    Raises:
        UserError: A colon without a space after it.
    """
    for key, text in _pairs(args):
        if not text.startswith("{"):
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            continue
        glued = [name for name, entry in value.items() if entry is None and ":" in str(name)] if value else []
        if isinstance(value, dict) and glued:
            raise UserError(f"--{key} {text}: put a space after the colon of '{glued[0]}'")


def in_its_file(error: UserError, args: Sequence[str]) -> UserError:
    """Return the error with the configuration file that holds the wrong key, where one does."""
    message = str(error)
    match = _KEY.match(message)
    if match is None:
        return error
    parts = [match[1]] if match[1] else match[2].removesuffix(": ").split(": ")
    if inner := _INNER.match(message):
        parts = [f"{inner[1]}.{inner[2]}"]
    options = [option.replace(".init_args.", ".") for option, _ in _pairs(args)]
    unknown = _UNKNOWN.search(message)
    named = ".".join([*parts, unknown[1]] if unknown and not match[1] else parts)
    if named in options or any(f"{'.'.join(parts)}.".startswith(f"{option}.") for option in options):
        return error
    for count in range(len(parts), 0, -1):  # the last ones may be no keys
        for file in reversed(_files(args)):
            if file.is_file() and _holds(read_yaml(file), ".".join(parts[:count])):
                return UserError(f"{file}: {message}")
    return error


def _holds(content: Any, key: str) -> bool:
    """Return whether a file has a key, or, of an error that names only its last part, that part anywhere."""
    if _lookup(content, key) is not None:
        return True
    if "." in key or not isinstance(content, dict):
        return False
    return key in content or any(_holds(value, key) for value in content.values())
