"""Child processes that end with their parent, also where the parent is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

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
