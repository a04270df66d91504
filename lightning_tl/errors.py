"""The one exception that bad input raises, and what its messages share."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from typing import Any

_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: --?([\w.\-]+)", re.IGNORECASE)
_UNKNOWN_KEY = re.compile(r"(?:Group '(?P<group>[^']*)' )?does not accept (?:option|key) '(?P<key>[^']*)'")


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


def explain(parser: Any, message: str) -> str:
    """Return a parser's complaint as one sentence, with the nearest valid option where one was unknown."""
    text = " ".join(message.split())
    valid = {action.dest for action in parser._actions if action.dest not in ("help", "print_config")}
    if unknown := _UNKNOWN_OPTION.search(text):
        text = f"unknown option --{unknown[1]}{nearest(unknown[1].replace('-', '_'), valid)}"
    elif unknown := _UNKNOWN_KEY.search(text):
        key = ".".join(filter(None, [unknown["group"], unknown["key"]]))
        text = f"unknown key '{key}' in the configuration{nearest(key, valid)}"
    command = parser.prog.replace(" [options]", "")
    return f"{text}\n(options: {command} --help)"
