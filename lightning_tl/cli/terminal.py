"""The process's own streams and signals: any of them may be closed, of another encoding, or interrupted."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
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
def _answering(
    number: signal.Signals, default: object, answer: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """Answer a signal, unless it belongs to the program that calls this: its answer is not the default one."""
    before = signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or before is not default:
        yield
        return
    signal.signal(number, answer)
    try:
        yield
    finally:
        signal.signal(number, before)


def acknowledged_at_once() -> AbstractContextManager[None]:
    """Answer Ctrl-C with a word before the work is stopped, which may take a while; a second one ends the process."""

    def answer(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(2, _INTERRUPTING)
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        raise KeyboardInterrupt

    return _answering(signal.SIGINT, signal.default_int_handler, answer)


def stopped_by_sigterm() -> AbstractContextManager[None]:
    """Let SIGTERM stop the work in order, as Ctrl-C does; a second one ends the process.

    Not for trainings: Lightning has its own way, which it uses only where no other handler is set.
    """

    def answer(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    return _answering(signal.SIGTERM, signal.SIG_DFL, answer)
