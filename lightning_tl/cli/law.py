"""`lightning-tl law`: fit scaling laws to a table of results and say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_tl.cli.parsing import command_parser, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lightning_tl.laws.advice import Advice
    from lightning_tl.laws.forms import Form
    from lightning_tl.laws.group_fits import GroupFit

#: More groups than this get one line each in the terminal; fits.json has every sentence.
_TALKATIVE = 12

# name, type, default, help
_OPTIONS: tuple[tuple[str, Any, Any, str], ...] = (
    ("out", str | None, None, "folder to write into (default: beside the table)"),
    ("size", str, "pretrain_images", "column of the pre-training size in images; 0 is scratch"),
    ("score", str, "error", "column of the score or the error, a fraction"),
    ("score_is", str, "error", "error, or accuracy for any score in [0, 1] of which more is better (mAP, mIoU)"),
    ("by", str | None, None, "columns that tell the curves apart: a,b,c (default: those of our results.csv)"),
    ("target_size", str | None, None, "column of the fine-tuning size in images; the form is then the full law"),
    ("cluster", str | None, None, "columns of what rows share, pre-training runs or draws: pretrain:seed,draw:fold"),
    ("where", str | None, None, "a pandas query that selects rows"),
    ("form", str | None, None, "transfer: D*n^-alpha + C (default); power: C = 0; full: "
     "delta*(gamma + n^-alpha)*s^-beta; full+E: with a floor"),
    ("fix_d", str, "free", "the coefficient D (delta): free, a number, auto, median, shared or pooled"),
    ("share_by", str | None, None, "where groups have D in common: only groups that agree in these columns"),
    ("space", str, "log", "log: residuals of log error, linear: of error"),
    ("loss", str, "squares", "squares, or huber where single runs went wrong"),
    ("level", float, 0.95, "confidence level of intervals"),
    ("bootstrap", int, 0, "resamples by cluster for bootstrap intervals besides the profile ones"),
    ("seed", int, 0, "seed of the bootstrap"),
    ("hold_out_from", float | None, None, "predict sizes from here on from the smaller ones (default: the largest)"),
    ("target_error", float | None, None, "error to reach, in (0, 1): how many images does it take?"),
    ("cost_per_image", float | None, None, "cost of one rendered image, in any unit; with budget"),
    ("budget", float | None, None, "what may be spent on images, in the same unit"),
    ("model_size", str, "backbone_params", "column of the model's parameters, for C against model size"),
    ("complexity", str, "complexity", "column of the data's complexity (larger: more complex), to plot alpha and C"),
    ("plots", str, "png", "format of the figures: png, pdf or svg; none draws none"),
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Fit every group of a table; write ``fits.json``, ``fits.csv`` and figures; print a table and the advice.

    Args:
        argv: Arguments after ``lightning-tl law``; default the process's.

    Returns:
        0 where at least one group was fitted, 1 where none was.

    Raises:
        UserError: The table or an option is wrong.
    """
    parser = command_parser("law", "Fit error = D*n^-alpha + C to a table of results, and say what to do.")
    parser.add_argument("results", type=str, help="CSV with a row a fine-tuning run (our results.csv needs no options)")
    for name, kind, default, text in _OPTIONS:
        flags = [f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else [])]
        parser.add_argument(*flags, type=kind, default=default, help=text)
    options = parse(parser, argv)

    from pathlib import Path

    from lightning_tl.laws.advice import advise
    from lightning_tl.laws.fits_output import terminal_table, write
    from lightning_tl.laws.group_fits import Method, analyse
    from lightning_tl.laws.results_table import Columns, groups, read_table

    form = _form(options)
    budget = _checked(options)
    columns = Columns(
        size=options.size,
        score=options.score,
        score_is=options.score_is,
        by=_names(options.by),
        target_size=options.target_size or ("finetune_images" if form.uses_s else None),
        cluster=_names(options.cluster),
        model_size=options.model_size,
        complexity=options.complexity,
        where=options.where,
    )
    method = Method(
        coefficient=_number(options.fix_d),
        share_by=_names(options.share_by) or (),
        space=options.space,
        loss=options.loss,
        level=options.level,
        resamples=options.bootstrap,
        seed=options.seed,
        hold_out_from=options.hold_out_from,
    )
    out = Path(options.out) if options.out else Path(options.results).parent
    found = groups(read_table(options.results), columns)
    fits = analyse(found, form, method)
    advice = advise(fits, options.target_error, budget)
    settings = {"results": str(options.results)} | {name: options[name] for name, *_ in _OPTIONS if name != "out"}
    paths = list(write(fits, advice, out, settings).values())
    if options.plots != "none":
        paths += _draw(fits, out, options.plots)
    print(terminal_table(fits, options.level))
    _print_advice(fits, advice)
    print("\nwrote " + ", ".join(str(path) for path in paths))
    return 0 if any(item.law for item in fits) else 1


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _form(options: Any) -> Form:
    from lightning_tl.errors import UserError, nearest
    from lightning_tl.laws.forms import FORMS

    name = options.form or ("full" if options.target_size else "transfer")
    if name not in FORMS:
        raise UserError(f"no form '{name}'{nearest(name, FORMS)}")
    return FORMS[name]()


def _checked(options: Any) -> Any:
    """Check what no later step would, and return the budget."""
    from lightning_tl.errors import UserError, nearest
    from lightning_tl.laws.decide import Budget

    choices = {"space": ("log", "linear"), "loss": ("squares", "huber"), "plots": ("png", "pdf", "svg", "none")}
    for name, valid in choices.items():
        if options[name] not in valid:
            raise UserError(f"{name} is '{options[name]}'{nearest(options[name], valid)}")
    if not 0.5 <= options.level < 1:
        raise UserError(f"level is {options.level:g}; give a confidence level from 0.5 to below 1, such as 0.95")
    if options.bootstrap < 0:
        raise UserError(f"bootstrap is {options.bootstrap}; give a number of resamples, or 0 for none")
    if options.target_error is not None and not 0 < options.target_error < 1:
        raise UserError(f"target error {options.target_error:g} is not between 0 and 1; an error of 10 % is 0.1")
    if (options.cost_per_image is None) != (options.budget is None):
        raise UserError("cost_per_image and budget go together: give both or neither")
    return None if options.budget is None else Budget(options.cost_per_image, options.budget)


def _draw(fits: Sequence[GroupFit], out: Path, suffix: str) -> list[Path]:
    from lightning_tl.figure_style import save
    from lightning_tl.laws.law_figures import figures

    paths = []
    for name, figure in figures(fits).items():
        save(figure, out / f"{name}.{suffix}")
        paths.append(out / f"{name}.{suffix}")
    return paths


def _print_advice(fits: Sequence[GroupFit], advice: Advice) -> None:
    for line in (*advice.ranking, *advice.gaps):
        print(f"\n{line}")
    from lightning_tl.laws.wording import comparison_sentence

    for pair in advice.comparisons if len(advice.comparisons) <= _TALKATIVE else ():
        print(f"  {comparison_sentence(pair)}")
    for item, words in zip(fits, advice.groups, strict=True):
        first, *rest = words.sentences
        print(f"\n{words.label}: " + "\n  ".join([first, *item.notes, *(rest if len(fits) <= _TALKATIVE else [])]))
        for row in item.group.dropped[:1]:
            count = len(item.group.dropped)
            rows = f"{count} rows left out, the first in" if count > 1 else "1 row left out,"
            print(f"  {rows} line {row['line']}: {row['reason']} ('{row['value']}')")
