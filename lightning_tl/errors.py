"""The one exception that bad input raises, and what its messages share."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from typing import Any

_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: --?([\w.\-]+)", re.IGNORECASE)
_UNKNOWN_KEY = re.compile(
    r"(?:Group '(?P<group>[^']*)' )?(?:does not accept option|Option) '(?P<key>[^']*)'(?: is not accepted)?"
)
_WRONG_VALUE = re.compile(r'Parser key "([^"]+)":')
_WRONG_TYPE = re.compile(r"Expected a <class '(\w+)'>\. Got value: (.*)$")
_WRONG_CHOICE = re.compile(r"Expected a typing\.Literal\[([^\]]*)\]\. Got value: (.*)$")
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "tuple": "a list of values, such as [low, high]",
    "dict": "a group of keys and values",
}
_OPTIONS = "\n(options: "


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(ValueError):
    """Something the user gave is wrong: the message says what, where, and how to mend it.

    The command line prints the message alone; from Python it is an ordinary ``ValueError``.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or the list of valid names where none is close."""
    names = sorted(map(str, valid))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(names)}"


def disk_full(error: OSError) -> str:
    """Return what to say where writing failed for want of space."""
    where = f" while writing {error.filename}" if error.filename else ""
    return f"the disk is full{where}: free some space; the same command goes on from what is finished"


def user_error(error: BaseException | None) -> UserError | None:
    """Return the ``UserError`` behind an exception that a parser or instantiator wrapped it into, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def explain(parser: Any, message: str, error: BaseException | None = None) -> str:
    """Return a parser's complaint as one sentence, with the nearest valid option where one was unknown.

    Args:
        parser: The parser, for its valid options.
        message: What it says.
        error: What it says it about. Where a value is a class with arguments of its own, a parser of these has
            explained them already, deep in the chain of causes.
    """
    text = " ".join(message.split())
    parser = getattr(error, "subcommand_parser", None) or parser
    valid = {action.dest for action in parser._actions if action.dest not in ("help", "print_config")}
    if unknown := _UNKNOWN_OPTION.search(text):
        text = f"unknown option --{unknown[1]}{nearest(unknown[1].replace('-', '_'), valid)}"
    elif value := _WRONG_VALUE.match(text):
        text = f"{value[1]}: {_reason(error) or text}"
    elif unknown := _UNKNOWN_KEY.search(text):
        key = ".".join(filter(None, [unknown["group"], unknown["key"]]))
        text = f"unknown key '{key}' in the configuration{nearest(key, valid)}"
    prog = parser.prog.replace(" [options]", "")
    return f"{_in_words(text)}{_OPTIONS}{prog} --help)"


def _in_words(text: str) -> str:
    """Return a parser's complaint about a value in plain words, with the nearest of the valid choices."""
    if (wrong := _WRONG_TYPE.search(text)) and wrong[1] in _TYPES:
        return f"{text[: wrong.start()]}should be {_TYPES[wrong[1]]}, not {wrong[2]}"
    if wrong := _WRONG_CHOICE.search(text):
        choices = [choice.strip("'\"") for choice in wrong[1].split(", ")]
        return f"{text[: wrong.start()]}cannot be {wrong[2]}{nearest(wrong[2], choices)}"
    return text


def _reason(error: BaseException | None) -> str:
    """Return the inner parser's explanation, else what the chain of causes begins with."""
    if explained := user_error(error):
        return str(explained).split(_OPTIONS)[0]
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    return "" if error is None else " ".join(str(error).split())
