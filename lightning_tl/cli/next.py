"""`lightning-tl next`: is the question decided by the runs so far, and if not, which run decides it for the least?"""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from pathlib import Path

from lightning_tl.cli.parsing import command_parser, parse, with_underscores
from lightning_tl.errors import UserError
from lightning_tl.laws.next_options import NextOptions


def main(argv: list[str] | None = None) -> int:
    """Print where a question stands and which runs to do next; write ``next.json`` and ``next.csv``.

    Args:
        argv: Arguments after ``lightning-tl next``; default the process's. Hyphens may stand for underscores.

    Returns:
        0.

    Raises:
        UserError: The table or an option is wrong.
    """
    about = "Is a question decided by the runs so far? If not, which run lowers the probability of a wrong answer most?"
    parser = command_parser("next", about)
    parser.add_argument("results", type=Path, help="CSV with one row per fine-tuning run, such as our results.csv")
    parser.add_argument("--out", type=Path | None, help="folder to write into (default: beside the table)")
    parser.add_class_arguments(NextOptions)
    arguments = sys.argv[1:] if argv is None else argv
    settings = parse(parser, [with_underscores(item, NextOptions.__dataclass_fields__) for item in arguments])
    options = NextOptions(**{field.name: settings[field.name] for field in fields(NextOptions)})
    return propose(settings.results, settings.out or settings.results.parent, options)


def propose(results: Path, out: Path, options: NextOptions) -> int:
    """Propose the next runs for a table; see :func:`main`.

    Args:
        results: CSV with one row per fine-tuning run.
        out: Folder to write into; looks that its ``next.json`` records for the same question are counted on.
        options: What is asked, which runs may be done, and what they cost.
    """
    from lightning_tl.laws.candidates import default_candidates, group_without_runs
    from lightning_tl.laws.law_options import names
    from lightning_tl.laws.next_output import earlier_looks, terminal_text, write
    from lightning_tl.laws.next_runs import next_runs
    from lightning_tl.laws.results_table import groups, read_table

    curves = groups(read_table(results), options.columns())
    asked = next((curve.question for curve in curves if curve.question), "")
    if asked:
        raise UserError(asked)
    taken = {curve.label for curve in curves}
    curves += [group_without_runs(label) for label in names(options.groups) or () if label not in taken]
    candidates = default_candidates(curves, options.sizes(), options.repeats)
    question = options.asked(curves)
    plan = next_runs(
        curves,
        question,
        candidates,
        options.costs(),
        confidence=options.confidence,
        looks=earlier_looks(out / "next.json", question),
        batch=options.batch,
        prior=options.prior(),
    )
    paths = write(plan, out, {"results": str(results), **asdict(options)})
    print(terminal_text(plan))
    print("\nwrote " + ", ".join(map(str, paths)))
    return 0
