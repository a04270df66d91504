"""`lightning-tl study run|plan|status`: many runs from one YAML file, and their progress."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from lightning_tl.cli.parsing import command_parser, parse, with_underscores
from lightning_tl.config_files import with_config_paths, with_merged_configs
from lightning_tl.errors import UserError, nearest, one_line, shortened
from lightning_tl.study.config import Study
from lightning_tl.yaml_limits import parsed_value

_KEY_OPTION = re.compile(r"--(render|pretrain|finetune)\.(set|product)\.(.+)")
ACTIONS = {
    "run": "render, pre-train, fine-tune; then fit the law, write report.html. The same command resumes it.",
    "plan": "how many runs, images, hours and how much disk it will take, by a short trial.",
    "status": "which runs are done, running or failed; takes the same configuration and folder as run.",
}
USAGE = (
    "usage: lightning-tl study run|plan|status --config FILE --out DIR [OPTIONS]\n\n"
    + "\n".join(f"  {name:<7} {line}" for name, line in ACTIONS.items())
    + "\n\nlightning-tl study run --help lists the options; shipped studies are in configs/study.\n"
)


def main(argv: list[str] | None = None) -> int:
    """Run a study, or print its progress; return 0, or 1 if runs failed."""
    argv = sys.argv[2:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    action, *rest = argv
    if action not in ACTIONS:
        raise UserError(f"no action '{action}' of lightning-tl study{nearest(action, ACTIONS)}")
    parser = command_parser(f"study {action}", f"Study: {ACTIONS[action]}")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="Folder for all files of the study.")
    if action == "run":
        parser.add_argument("--dry_run", action="store_true", help="Check all of it and list what would run.")
    if action == "plan":
        parser.add_argument("--assume", type=Path | None, help="File with rates of another machine; no trial is made.")
        parser.add_argument("--write_rates", type=Path | None, help="File to write the measured rates to.")
        parser.add_argument("--simulations", type=int, default=40, help="Studies in steps that are played through.")
    if action == "status":
        parser.add_argument("--all", action="store_true", help="List all runs, also those done or waiting.")
        parser.add_argument("--watch", type=float, default=0.0, help="Repeat every so many seconds.")
    parser.add_class_arguments(Study)
    with tempfile.TemporaryDirectory() as folder:
        own = ("dry_run", "write_rates") if action in ("run", "plan") else ()
        rest = [with_underscores(argument, own) for argument in rest]
        rest = _with_keys_as_file(rest, Path(folder))
        merged = with_merged_configs(with_config_paths(rest), Path(folder))
        parsed = parse(parser, merged)
    try:
        options = parser.instantiate_classes(parsed)
    except (TypeError, AttributeError) as error:  # a value of another shape than its key's, which the parser let pass
        raise UserError(f"the study cannot be made of these values: {shortened(one_line(error), 200)}") from error
    study = Study(**{name: options[name] for name in Study.__dataclass_fields__})
    if action == "run" and options.dry_run:
        from lightning_tl.study.run_study import dry_run

        print(dry_run(study, options.out))
        return 0
    if action == "plan":
        from lightning_tl.study.forecast import forecast, text

        print(text(forecast(study, options.out, options.assume, options.write_rates, options.simulations), study))
        return 0
    if action == "run":
        return run(study, options.out)
    if options.watch < 0:
        raise UserError(f"--watch is {options.watch:g}; it must be at least 0 seconds (0: print once)")
    return status(study, options.out, options["all"], options.watch)


def _with_keys_as_file(argv: list[str], folder: Path) -> list[str]:
    """Return the arguments with those like ``--finetune.set.data.root photos`` as one more configuration file.

    The parser would take ``data`` for the key, and keep only the last of several keys below it.
    """
    rest: list[str] = []
    content: dict[str, dict[str, dict[str, Any]]] = {}
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        match = _KEY_OPTION.fullmatch(name)
        given = value if equals else next(arguments, None) if match else None
        if match is None or given is None:
            rest.append(argument)
            continue
        stage, axes, key = match.groups()
        content.setdefault(stage, {}).setdefault(axes, {})[key] = parsed_value(given)
    if not content:
        return rest
    path = folder / "keys.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return [*rest, f"--config={path}"]


def run(study: Study, out: Path) -> int:
    """Run a study up to its report."""
    from lightning_tl.study.run_study import run_study
    from lightning_tl.study.runs import in_one_line

    begun = time.monotonic()
    failures = run_study(study, out)
    try:
        _conclude(study, out, failures)
    except UserError as error:
        if not failures:
            raise
        print(f"error: {error}", file=sys.stderr)  # such as too few runs for a law; the failures below are the reason
    for name, reason in failures.items():
        log = out / "runs" / name / "log.txt"
        print(f"failed: {name}: {in_one_line(reason)}" + (f" (its output: {log})" if log.is_file() else ""))
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes")
    return 1 if failures else 0


def _conclude(study: Study, out: Path, failures: dict[str, str]) -> None:
    """Fit, analyse, and write the report; where no fine-tuning finished, the report lists only the failures."""
    from lightning_tl.cli import law, report

    if not _has_rows(out / "results.csv"):
        if failures:
            report.main([str(out)])
        return
    sized = study.law is not None and (study.pretrain is not None or study.law.size != "pretrain_images")
    if study.law is not None and sized:
        law.fit_table(out / "results.csv", out, study.law)
    from lightning_tl.study.facts import read_facts
    from lightning_tl.study.still_falling import sentences

    facts = read_facts(out / "study.json")
    for line in sentences(facts.get("still_falling", {})):
        print(f"\n{line}")
    if study.until is not None and facts.get("steps"):
        from lightning_tl.study.step_figure import draw
        from lightning_tl.study.step_words import answer

        draw(facts["steps"], out)
        print("\n".join(["", *answer(facts["steps"])]))
    analysed = _analyse(study, out)
    if sized or analysed or study.until is not None:
        report.main([str(out)])
    elif study.law is not None:
        print(f"no law and no report, as the study pre-trains nothing: its results are in {out / 'results.csv'}")


def _analyse(study: Study, out: Path) -> bool:
    """Make the analysis that the study names, or its table asks for; return whether there was one."""
    from lightning_tl.study.transfer_methods import methods_output

    if study.analysis == "overtraining":
        from lightning_tl.study.overtraining import conclude

        record = conclude(out, **asdict(study.overtraining))
    elif study.analysis == "transfer" or methods_output.varies(out / "results.csv"):
        record = methods_output.conclude(out, **asdict(study.transfer))
    else:
        return False
    print("\n".join([*record["answer"], "", *record["sentences"]]))
    return True


def _has_rows(table: Path) -> bool:
    return (
        table.is_file() and len(table.read_text(encoding="utf-8").splitlines()) > 1
    )  # the first line holds the column names


def status(study: Study, out: Path, everything: bool, watch: float = 0.0) -> int:
    """Print a study's progress, once or every ``watch`` seconds until all runs have ended."""
    from lightning_tl.study.run_study import planned
    from lightning_tl.study.status import ENDED, lines, table
    from lightning_tl.study.step_words import begins, stands

    while True:
        known = planned(study, out)
        states: list[Any] = lines(known.runs, known.records, out)
        clear = "\x1b[2J\x1b[H" if watch and sys.stdout.isatty() else ""
        steps = [*stands(known.steps[-1]), *begins(known.steps[-1])] if known.steps else []
        print(clear + "\n".join([table(known.sets, states, out, everything), *steps]), flush=True)
        if not watch or (known.ended and states and all(line.state in ENDED for line in states)):
            return 1 if any(line.state == "failed" for line in states) else 0
        time.sleep(watch)
