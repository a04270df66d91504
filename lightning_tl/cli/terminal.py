"""The process's own streams and signals: any of them may be closed, of another encoding, or interrupted."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

_INTERRUPTING = b"\ninterrupting: work in progress is stopped, finished work is kept (Ctrl-C again ends at once)\n"


class Terminated(KeyboardInterrupt):
    """SIGTERM came, as from ``kill``, a batch system or a shutdown: the work is stopped as by Ctrl-C."""


def prepare_streams() -> None:
    """Make output safe: closed streams become the null device, characters that an encoding lacks are written as codes.

    A closed descriptor would be given to the next file that is opened, and output would be written into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (it lives as long as the process)
        else:
            reconfigure: Any = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                with suppress(ValueError, OSError):
                    reconfigure(errors="backslashreplace")


@contextmanager
def acknowledged_at_once() -> Iterator[None]:
    """Answer Ctrl-C with a word before the work is stopped, which may take a while; a second one ends the process."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield  # it belongs to the program that calls this
        return

    def answer(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(2, _INTERRUPTING)
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM stop the work in order, as Ctrl-C does; a second one ends the process.

    Not for trainings: Lightning has its own way, which it uses only where no other handler is set.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is not signal.SIG_DFL:
        yield  # it belongs to the program that calls this
        return

    def answer(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
