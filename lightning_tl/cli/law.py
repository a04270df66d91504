"""`lightning-tl law`: fit scaling laws to a table of results and say what to do."""

from __future__ import annotations

from lightning_tl.cli.parsing import command_parser, parse


def main(argv: list[str] | None = None) -> int:
    """Fit every group of a table; write ``fits.json``, ``fits.csv`` and ``law.png``; print a table and the advice.

    Args:
        argv: Arguments after ``lightning-tl law``; default the process's.

    Returns:
        0 where at least one group was fitted, 1 where none was.

    Raises:
        UserError: The table or an option is wrong.
    """
    parser = command_parser("law", "Fit error = D*n^-alpha + C to a table of results, and say what to do.")
    parser.add_argument("results", type=str, help="CSV with a row a fine-tuning run (our results.csv needs no options)")
    parser.add_argument("--out", type=str | None, default=None, help="folder to write into (default: beside the table)")
    parser.add_argument(
        "--target_error", "--target-error", type=float | None, default=None, help="error to reach, in (0, 1)"
    )
    parser.add_argument("--form", type=str, default="transfer", help="transfer (D*n^-alpha + C) or power (C = 0)")
    options = parse(parser, argv)

    from pathlib import Path

    from lightning_tl.errors import UserError, nearest
    from lightning_tl.laws.advice import advise
    from lightning_tl.laws.analysis import analyse
    from lightning_tl.laws.forms import FORMS
    from lightning_tl.laws.output import terminal_table, write
    from lightning_tl.laws.plots import law_figure
    from lightning_tl.laws.table import groups, read_table

    if options.form not in FORMS:
        raise UserError(f"no form '{options.form}'{nearest(options.form, FORMS)}")
    out = Path(options.out) if options.out else Path(options.results).parent
    fits = analyse(groups(read_table(options.results)), FORMS[options.form]())
    advice = advise(fits, options.target_error)
    settings = {"results": str(options.results), "form": options.form, "target_error": options.target_error}
    paths = write(fits, advice, out, settings)
    figure = out / "law.png"
    law_figure(fits).savefig(figure)
    print(terminal_table(fits))
    print()
    for item in advice.headline[: max(len(advice.headline) - len(fits), 0)]:
        print(item)
    for words in advice.groups:
        print(f"\n{words.label}: " + "\n  ".join(words.sentences))
    print(f"\nwrote {paths['json']}, {paths['csv']}, {figure}")
    return 0 if any(item.law for item in fits) else 1
