"""`lightning-tl quickstart`: the whole way in one command."""

from __future__ import annotations

import time
from pathlib import Path

from lightning_tl.cli.parsing import command_parser, parse
from lightning_tl.study.quickstart import Quickstart, quickstart

DESCRIPTION = """Render two data sets, pre-train on growing parts of each, fine-tune on a few real handwritten digits,
fit the scaling law, and write report.html. It can be interrupted at any time and goes on where it stopped."""


def main(argv: list[str] | None = None) -> int:
    """Run the quickstart."""
    parser = command_parser("quickstart", DESCRIPTION)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="Folder of everything that is made.")
    parser.add_class_arguments(Quickstart)
    given = parse(parser, argv)
    settings = Quickstart(**{name: given[name] for name in Quickstart.__dataclass_fields__})
    begun = time.monotonic()
    quickstart(settings, given.out)
    from lightning_tl.cli import law, report

    law.main([str(given.out / "results.csv"), f"--out={given.out}", f"--target_error={settings.target_error}"])
    report.main([str(given.out)])
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes")
    return 0
