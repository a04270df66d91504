"""The exception for bad input, and helpers for its messages. Imports only the standard library."""

from __future__ import annotations

import difflib
import errno
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: --?([\w.\-]+)", re.IGNORECASE)
_UNKNOWN_KEY = re.compile(
    r"(?:Group '(?P<group>[^']*)' )?(?:does not accept option|Option) '(?P<key>[^']*)'(?: is not accepted)?"
)
_WRONG_VALUE = re.compile(r'Parser key "([^"]+)"(?: element \d+)?:')
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


class UserError(ValueError):
    """The user's input or machine is wrong; the message says what, where, and how to fix it.

    The command line prints only the message; in Python it is an ordinary ``ValueError``.
    """


class StoreError(UserError):
    """A store cannot be used or reached, perhaps only for a while: the caller may try again."""


def nearest(name: object, valid: Iterable[object]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or the list of valid names if none is close."""
    names = sorted(filter(None, map(str, valid)))
    lower = {valid_name.lower(): valid_name for valid_name in names}
    close = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean '{lower[close[0]]}'?" if close else f"; valid: {', '.join(names)}"


def one_line(error: BaseException) -> str:
    """Return an exception's message in one line, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def shortened(text: object, most: int = 120) -> str:
    """Return a text for a message: its beginning and end where it is long, on one line, without control characters."""
    line = "".join(
        char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in str(text)[: 2 * most]
    )
    full = str(text)
    if len(full) <= most:
        return line
    tail = "".join(char if char.isprintable() else "\ufffd" for char in full[-most // 4 :])
    return f"{line[: most // 2]} … {tail}"


def is_disk_full(error: BaseException) -> bool:
    """Return whether an exception means a full disk or an exceeded quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(path: str | Path | None = None, needed: int | None = None) -> str:
    """Return the message for a full disk.

    Args:
        path: the file that could not be written, if known: the ``filename`` of an ``OSError``.
        needed: bytes that the file needs, if known.
    """
    where = f" while writing {path}" if path else ""
    if path and needed is not None:
        parents = Path(path).absolute().parents
        folder = next(parent for parent in parents if parent.exists())
        where += f" (about {_mib(needed)}; {_mib(shutil.disk_usage(folder).free)} are free under {folder})"
    return f"the disk is full{where}: free some space; run the same command again to continue"


def shared_memory_full() -> str:
    """Return the message for a ``/dev/shm``, the memory that loader processes share, without room for a batch."""
    free = shutil.disk_usage("/dev/shm").free
    return (
        f"/dev/shm, the memory that loader processes share, is full ({_mib(free)} are free): set data.num_workers to "
        "0, or give the machine more (docker run --shm-size=8g)"
    )


def memory_full() -> str | None:
    """Return the message for a full ``/dev/shm``; ``None`` if it is not full."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return None
    return shared_memory_full() if free <= 4 << 20 else None


def os_error(error: OSError) -> str:
    """Return the message for an error of the operating system: what, where, and what to do."""
    where = f"{shortened(error.filename, 300)}: " if error.filename else ""
    if is_disk_full(error):
        in_memory = error.filename is None or str(error.filename).startswith("/dev/shm")
        return (memory_full() if in_memory else None) or disk_full(error.filename)
    reason = (error.strerror or one_line(error)).lower()
    return f"{where}{reason}; {_REMEDIES.get(error.errno or 0, 'correct that, and run the same command again')}"


_ANOTHER = "choose another folder, by --out or, for fit and test, by --trainer.default_root_dir"
_REMEDIES = {
    errno.EROFS: f"nothing can be written there: {_ANOTHER}",
    errno.EACCES: f"permission is needed: change it, or {_ANOTHER}",
    errno.EPERM: f"permission is needed: change it, or {_ANOTHER}",
    errno.ENOTDIR: f"a file is where a folder should be: {_ANOTHER}",
    errno.EEXIST: f"a file is where a folder should be: {_ANOTHER}",
    errno.EISDIR: "a folder is where a file should be: give a file, or remove the folder",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "was it moved or deleted? Put it back, or give its new place, and run the same command again",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENFILE: "close other programs, and run the same command again",
    errno.ELOOP: "correct the links, which lead to each other",
    errno.EIO: "the disk or its connection failed: finished work is kept, run the same command again",
    errno.ENOMEM: "the memory is full: use a smaller data.batch_size, or fewer workers",
}


def limited(text: str, most: int = 3000) -> str:
    """Return a message without control characters, and without the middle of it where it is very long."""
    clean = "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)
    return clean if len(clean) <= most else f"{clean[: most * 2 // 3]} … {clean[-most // 4 :]}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def user_error(error: BaseException | None) -> UserError | None:
    """Return the ``UserError`` that a parser wrapped into another exception, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def explain(parser: Any, message: str, error: BaseException | None = None) -> str:
    """Return a parser's error message as one sentence, with the nearest valid option for an unknown one.

    Args:
        parser: The parser, for its valid options.
        message: The parser's message.
        error: The exception behind it. For a value that is a class with arguments, an inner parser's explanation
            is in the chain of causes.
    """
    text = " ".join(message.split())
    parser = getattr(error, "subcommand_parser", None) or parser
    valid = {action.dest for action in parser._actions if action.dest not in ("help", "print_config")}
    valid = {name for name in valid if not name.endswith(".help")}
    if unknown := _UNKNOWN_OPTION.search(text):
        text = f"unknown option --{unknown[1]}{nearest(unknown[1].replace('-', '_'), valid)}"
    elif value := _WRONG_VALUE.match(text):
        text = f"{value[1]}: {_reason(error) or text}"
    elif unknown := _UNKNOWN_KEY.search(text):
        key = ".".join(filter(None, [unknown["group"], unknown["key"]]))
        text = f"unknown key '{key}' in the configuration{nearest(key, valid)}"
    prog = parser.prog.replace(" [options]", "")
    return f"{limited(_in_words(text), 1200)}{_OPTIONS}{prog} --help)"


def _in_words(text: str) -> str:
    """Return a parser's message about a value in plain words, with the nearest valid choice."""
    if (wrong := _WRONG_TYPE.search(text)) and wrong[1] in _TYPES:
        return f"{text[: wrong.start()]}should be {_TYPES[wrong[1]]}, not {wrong[2]}"
    if wrong := _WRONG_CHOICE.search(text):
        choices = [choice.strip("'\"") for choice in wrong[1].split(", ")]
        return f"{text[: wrong.start()]}'{wrong[2]}' is unknown{nearest(wrong[2], choices)}"
    return text


def _reason(error: BaseException | None) -> str:
    """Return the inner parser's explanation, or the first cause."""
    if explained := user_error(error):
        return str(explained).split(_OPTIONS)[0]
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    return "" if error is None else one_line(error)
