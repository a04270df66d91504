"""`lightning-tl law`: fit scaling laws to a table of results and say what to do."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_tl.cli.parsing import command_parser, parse, with_underscores
from lightning_tl.laws.law_options import LawOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_tl.laws.advice import Advice
    from lightning_tl.laws.group_fits import GroupResult

#: More groups than this get one line each in the terminal; fits.json has every sentence.
_TALKATIVE = 12


def main(argv: list[str] | None = None) -> int:
    """Fit every group of a table; write ``fits.json``, ``fits.csv`` and figures; print a table and the advice.

    Args:
        argv: Arguments after ``lightning-tl law``; default the process's. Hyphens may stand for underscores in
            options.

    Returns:
        0 where at least one group was fitted, 1 where none was.

    Raises:
        UserError: The table or an option is wrong.
    """
    about = "Fit error = D*n^-alpha + C, or another law, to a table, and say what to do. --fix-d may stand for --fix_d."
    parser = command_parser("law", about)
    parser.add_argument("results", type=Path, help="CSV with one row per fine-tuning run, such as our results.csv")
    parser.add_argument("--out", type=Path | None, help="folder to write into (default: beside the table)")
    parser.add_class_arguments(LawOptions)
    arguments = sys.argv[1:] if argv is None else argv
    settings = parse(parser, [with_underscores(item, LawOptions.__dataclass_fields__) for item in arguments])
    options = LawOptions(**{field.name: settings[field.name] for field in fields(LawOptions)})
    return fit_table(settings.results, settings.out or settings.results.parent, options)


def fit_table(results: Path, out: Path, options: LawOptions) -> int:
    """Fit every group of a table; see :func:`main`.

    Args:
        results: CSV with one row per fine-tuning run.
        out: Folder to write into.
        options: How to fit, and what to ask.
    """
    options.check()

    from lightning_tl.laws.advice import advise
    from lightning_tl.laws.fits_output import terminal_table, write
    from lightning_tl.laws.group_fits import analyse, fitted
    from lightning_tl.laws.image_sampling import read_replicates
    from lightning_tl.laws.results_table import groups, read_table

    curves = groups(read_table(results), options.columns(), read_replicates(results))
    fits = analyse(curves, options.law_form(), options.method())
    advice = advise(fits, options.target_error, options.spending())
    paths = list(write(fits, advice, out, {"results": str(results), **asdict(options)}).values())
    if options.plots != "none":
        paths += _draw(fits, out, options.plots)
    print(terminal_table(fits, options.level))
    _print_advice(fits, advice)
    print("\nwrote " + ", ".join(str(path) for path in paths))
    return 0 if fitted(fits) else 1


def _draw(fits: Sequence[GroupResult], out: Path, suffix: str) -> list[Path]:
    """Draw the figures; as PNG also for narrow screens, as ``<name>_narrow.png``, which the report shows there."""
    from lightning_tl.figure_style import narrow_path, save_figures
    from lightning_tl.laws.law_figures import NAMES, figures

    for name in NAMES:  # of an earlier fit, which may have had more of them
        path = out / f"{name}.{suffix}"
        for old in (path, narrow_path(path)):
            old.unlink(missing_ok=True)
    return [out / f"{name}.{suffix}" for name in save_figures(lambda: figures(fits), out, (suffix,))]


def _print_advice(fits: Sequence[GroupResult], advice: Advice) -> None:
    from lightning_tl.laws.wording import comparison_sentence, left_out_sentence

    for line in (*advice.pretraining, *advice.ranking, *advice.gaps):
        print(f"\n{line}")

    for pair in advice.comparisons if len(advice.comparisons) <= _TALKATIVE else ():
        print(f"  {comparison_sentence(pair, fits[0].group.terms)}")
    for item, words in zip(fits, advice.groups, strict=True):
        first, *rest = words.sentences
        print(f"\n{words.label}: " + "\n  ".join([first, *item.notes, *(rest if len(fits) <= _TALKATIVE else [])]))
        if item.group.dropped:
            print(f"  {left_out_sentence(item.group.dropped)}")
