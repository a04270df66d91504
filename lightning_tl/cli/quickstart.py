"""`lightning-tl quickstart`: runs the shipped study of this name."""

from __future__ import annotations

import sys

from lightning_tl.cli import study


def main(argv: list[str] | None = None) -> int:
    """Run ``lightning-tl study run --config study/quickstart --out runs/quickstart``; further options are appended."""
    argv = sys.argv[2:] if argv is None else argv
    return study.main(["run", "--config=study/quickstart", "--out=runs/quickstart", *argv])
