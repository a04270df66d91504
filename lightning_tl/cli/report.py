"""`lightning-tl report`: the page of a folder of results."""

from __future__ import annotations

from pathlib import Path

from lightning_tl.cli.parsing import command_parser, parse


def main(argv: list[str] | None = None) -> int:
    """Write the report and print its path."""
    parser = command_parser("report", "Write report.html, one self-contained page, from the fits in a folder.")
    parser.add_argument("folder", type=Path, help="Folder with fits.json, as `lightning-tl law --out` writes it.")
    options = parse(parser, argv)
    from lightning_tl.study.report_page import write_report

    print(write_report(options.folder))
    return 0
