"""`lightning-tl fit|validate|test|predict`: LightningCLI."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run one of the four commands; ``argv`` begins with its name."""
    from lightning_tl.run import run

    run(argv)
    return 0
