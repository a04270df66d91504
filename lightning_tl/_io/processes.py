"""Processes: how they are started, whether one lives, and children that end with their parent, however it ends."""

from __future__ import annotations

import ctypes
import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to kill this process when its parent ends; to be called in the child, as early as possible.

    Linux means the thread that started the child: one that lives as long as its process.

    Args:
        parent: the parent's process id, if the child knows it: a parent that has ended already is noticed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def worker_context(preload: Sequence[str]) -> Any:
    """Return the way in which worker processes are started: by a fork server where there are any, else anew (Windows).

    Args:
        preload: Modules that the fork server imports once, for all workers.
    """
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def is_alive(process_id: int) -> bool:
    """Return whether a process of this machine is running; where that cannot be asked (Windows), True."""
    if os.name != "posix":
        return True  # there, os.kill(…, 0) ends the process
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
