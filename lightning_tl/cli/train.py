"""`lightning-tl fit|validate|test|predict`: LightningCLI, unchanged in habit."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run one of the four; ``argv`` begins with its name."""
    from lightning_tl.run import run

    run(argv)
    return 0
