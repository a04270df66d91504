"""What may be skipped, and why; anything else that is skipped fails the suite."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

# the reason of the skip → what the machine lacks
ALLOWED = {
    "TEST_BLENDER names no Blender": "a Blender program beside the Python package",
    "no Chromium": "a browser, for the report's page; .ci/run installs one",
    "no /dev/full": "a device that only Linux has",
    "no /dev/shm here": "a file system in memory",
    "cannot mount here": "the right to mount, which root has",
    "needs the right to make mount namespaces": "the same",
    "the shipped schemas were made with": "the versions that constraints.txt pins",
}
if sys.version_info[:2] != (3, 11):
    ALLOWED["needs the render extra"] = "Blender's package, which has wheels for Python 3.11 only"


def unexplained(reports: Iterable[Any]) -> list[str]:
    """Return the skipped tests whose reason is not in the list.

    Args:
        reports: Of pytest, of skipped tests; ``longrepr`` is (file, line, reason).
    """
    reasons = {}
    for report in reports:
        where = report.longrepr
        reasons[report.nodeid] = str(where[2] if isinstance(where, tuple) else where)
    return [f"{name}: {reason}" for name, reason in reasons.items() if not any(known in reason for known in ALLOWED)]
