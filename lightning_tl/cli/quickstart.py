"""`lightning-tl quickstart`: the study that ships under this name, in one word."""

from __future__ import annotations

import sys

from lightning_tl.cli import study


def main(argv: list[str] | None = None) -> int:
    """Run ``lightning-tl study run --config study/quickstart --out runs/quickstart``; more options come after."""
    argv = sys.argv[2:] if argv is None else argv
    return study.main(["run", "--config=study/quickstart", "--out=runs/quickstart", *argv])
