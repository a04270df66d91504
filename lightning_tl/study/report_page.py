"""`report.html` and `report.md`: the answer first, then its grounds, from what a folder of results holds."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_tl import html_page as html
from lightning_tl import markdown
from lightning_tl._io.atomic import write_atomically
from lightning_tl._io.files import is_file_name, is_inside
from lightning_tl.errors import UserError, shortened
from lightning_tl.figure_style import narrow_path, number
from lightning_tl.laws.advice import DIFFERENT
from lightning_tl.laws.wording import left_out_sentence
from lightning_tl.study import step_figure, step_words
from lightning_tl.study.records import load_json
from lightning_tl.study.runs import in_one_line
from lightning_tl.study.shapes import AnalysisRecord, ComplexityEntry, Fits, StudyFacts, problem
from lightning_tl.study.still_falling import sentences

#: Rows of results.csv that the page shows; a browser takes long for more.
_MOST_ROWS = 2000
TITLE = "Is this pre-training worth anything?"
#: Analyses by the name of their file, and the headings of their sections.
ANALYSES = {
    "overtraining": "Does longer pre-training make the model fragile?",
    "transfer_methods": "Which way of fine-tuning?",
}
# The law command's figures, as far as it drew them.
LAW_FIGURES = {
    "law": "Test error against pre-training size n, both on logarithmic axes, with the fitted laws, their 95 % bands "
    "and the error without pre-training.",
    "law_linearised": "Error minus the transfer gap C: where the law holds, a straight line of slope −α.",
    "law_parameters": "Pre-training rate α and transfer gap C with their 95 % intervals.",
    "law_extrapolation": "The law fitted without the largest sizes, which it predicts.",
    "law_fine_tuning": "Test error against fine-tuning size s, both on logarithmic axes, one curve for each "
    "pre-training size n, with the fitted laws and their 95 % intervals.",
    "law_landscape": "How well other values of α and D fit.",
    "law_model_size": "Transfer gap C against the model's size.",
    "law_complexity": "α and C against the complexity of the pre-training data (larger: more complex).",
}


@dataclass
class Section:
    """A heading with paragraphs, tables (head and rows) and figures (file and caption).

    A table that is ``folded`` can be sorted and copied; ``text`` is code and ``listed`` are sentences to be unfolded.
    """

    heading: str
    words: Sequence[str] = ()
    notes: Sequence[str] = ()
    table: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None
    figures: Sequence[tuple[Path, str]] = ()
    folded: str = ""
    text: str = ""
    listed: Sequence[str] = ()


def write_report(folder: Path) -> Path:
    """Write ``report.html`` (self-contained) and ``report.md`` (beside its figures).

    Args:
        folder: Where ``lightning-tl law --out`` or ``lightning-tl study run`` wrote its results.

    Returns:
        The page.

    Raises:
        UserError: No fits and no analysis there, or they cannot be read.
    """
    facts = _facts(folder)
    law = _law(folder, facts)
    analyses = {name: _read(folder / f"{name}.json", AnalysisRecord) for name in ANALYSES}
    analysed = [sentence for record in analyses.values() for sentence in record.get("answer", [])]
    steps = facts.get("steps") or {}
    falling = sentences(facts.get("still_falling", {}))
    advice = law.get("advice", [])
    first = advice[: len(law.get("pretraining", []))]  # is pre-training better than none
    answer = [*step_words.answer(steps), *analysed, *first, *falling, *advice[len(first) :]]
    title = str(facts.get("study", {}).get("title", TITLE))
    sections = [
        *_steps(folder, steps),
        *(section for name, record in analyses.items() for section in _analysis(folder, name, record)),
        *_laws(folder, law, "pretrain" in facts.get("still_falling", {})),
        *_complexity(folder),
        *_pictures(folder),
        *_failed(facts),
        *_what_was_run(facts),
        *_every_run(folder),
    ]
    write_atomically(folder / "report.md", _markdown(title, answer, sections, folder))
    write_atomically(folder / "report.html", html.page(title, [html.answer(answer), *map(_html, sections)]))
    return folder / "report.html"


def _facts(folder: Path) -> dict[str, Any]:
    facts = _read(folder / "study.json", StudyFacts)
    if "study" in facts and not facts["study"].get("until"):
        facts.pop("steps", None)  # of an earlier run, in steps
    return facts


def _read(path: Path, shape: Any) -> dict[str, Any]:
    return load_json(path, shape=shape) if path.is_file() else {}


def _law(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    path = folder / "fits.json"
    mend = f"run `lightning-tl law {folder / 'results.csv'} --out {folder}` first"
    if not path.is_file():
        if any((folder / f"{name}.json").is_file() for name in ANALYSES) or facts.get("failures") or facts.get("steps"):
            return {}
        raise UserError(f"{path}: no such file; {mend}")
    content = load_json(path)
    if wrong := problem(content, Fits):
        raise UserError(f"{path}: not what lightning-tl writes there ({wrong}); {mend}")
    return content


def _number(value: Any) -> str:
    return "unbounded" if value is None else number(value)


def _laws(folder: Path, law: dict[str, Any], falling: bool) -> list[Section]:
    if not law:
        return []
    figures = [(folder / f"{name}.png", caption) for name, caption in LAW_FIGURES.items()]
    comparisons = [pair["sentence"] for pair in law.get("comparisons", []) if "sentence" in pair]
    return [
        Section("The laws", figures=figures[:1]),
        *(_group(group, falling) for group in law["groups"]),
        *([Section("Comparisons", comparisons)] if comparisons else []),
        *([Section("More figures", figures=figures[1:])] if any(path.is_file() for path, _ in figures[1:]) else []),
    ]


def _group(group: dict[str, Any], falling: bool) -> Section:
    """Return a group's section; where pre-training was still improving, its heading says that this comes first."""
    advice = group.get("advice") or {}
    verdict = advice.get("verdict", "not fitted")
    verdict += ", but first train longer" if falling and verdict == DIFFERENT else ""
    table = None
    formula = []
    if group["law"]:
        formula = [group["law"]["form"]["formula"]]
        rows = [
            (
                name,
                _number(fitted["value"]) if fitted["identified"] else "not identified",
                f"{_number(fitted['interval'][0])} to {_number(fitted['interval'][1])}",
                fitted["reason"] or "",
            )
            for name, fitted in group["law"]["params"].items()
        ]
        table = (("parameter", "best value", "95 % interval", "why not"), rows)
    return Section(
        f"{group['label']}: {verdict}",
        words=advice.get("sentences", [])[1:],
        notes=[*formula, *group.get("notes", []), *filter(None, [left_out_sentence(group.get("dropped") or [])])],
        table=table,
    )


def _analysis(folder: Path, name: str, analysis: dict[str, Any]) -> list[Section]:
    named = [(figure["file"], figure["caption"]) for figure in analysis.get("figures", [])]
    if wrong := [file for file, _ in named if not is_file_name(file)]:
        raise UserError(f"{folder / f'{name}.json'}: a figure is called {shortened(repr(wrong[0]))}; run it again")
    figures = [(folder / file, caption) for file, caption in named]
    tables = [table for table in analysis.get("tables", []) if table["rows"]]
    if not figures and not tables:
        return []
    details = analysis.get("sentences", [])
    overview = analysis.get("overview")
    first = [Section(ANALYSES[name], details, figures=figures)]
    if overview:
        table = (overview["heads"], overview["rows"])
        first = [
            Section(ANALYSES[name], notes=overview.get("notes", []), table=table),
            Section("Figures and details", figures=figures, folded="All tests and intervals in words", listed=details),
        ]
    return [
        *first,
        *(
            Section(table["title"], table=(table["heads"], table["rows"]), folded=f"{len(table['rows'])} rows")
            for table in tables
        ),
    ]


def _steps(folder: Path, steps: dict[str, Any]) -> list[Section]:
    if not steps.get("taken"):
        return []
    figures = [(folder / f"{step_figure.NAME}.png", step_figure.CAPTION)]
    return [Section("How it was decided", table=step_words.table(steps), figures=figures)]


def _complexity(folder: Path) -> list[Section]:
    entropies = _read(folder / "complexity.json", dict[str, ComplexityEntry])
    if not entropies:
        return []
    rows = [
        (name, f"{entry['entropy']['value']:.1f}", f"{low:.1f} to {high:.1f}", entry["entropy"]["images"])
        for name, entry in sorted(entropies.items(), key=lambda pair: pair[1]["entropy"]["value"])
        for low, high in [entry["entropy"]["interval"]]
    ]
    network = Path(next(iter(entropies.values()))["checkpoint"])
    words = (
        "The entropy H, in nats, of a Gaussian fitted to the features of "
        f"{network.parent.parent.name or network.name}: larger is more complex. Intervals are of the images drawn."
    )
    return [
        Section("How complex the renderings are", [words], table=(("rendering", "H", "95 % interval", "images"), rows))
    ]


def _pictures(folder: Path) -> list[Section]:
    figures = [
        (path, f"{path.parent.name}: rendered colours with boxes, masks, normals")
        for path in sorted(folder.glob("renders/*/sheet.png"))
    ]
    figures += [
        (path, f"{path.stem}: what fine-tuning sees, the first batch")
        for path in sorted(folder.glob("targets/*.png"))
        if path not in set(map(narrow_path, folder.glob("targets/*.png")))
    ]
    sections = [Section("What was rendered, and the real images", figures=figures)] if figures else []
    predicted = _predictions(folder)
    return [*sections, *([Section("What the networks predict", figures=predicted)] if predicted else [])]


def _predictions(folder: Path) -> list[tuple[Path, str]]:
    """Return pictures of the best run of each fine-tuning task with pre-training, and without."""
    rows = [(error, row) for row in _rows(folder) if (error := _finite(row.get("error"))) is not None]
    best: dict[tuple[str, bool], dict[str, str]] = {}
    for _, row in sorted(rows, key=lambda pair: pair[0]):
        if is_inside(row.get("run_id") or ""):  # a table may name anything
            best.setdefault((row.get("finetune_task") or "", row.get("pretrain_images") == "0"), row)
    figures = []
    for (task, scratch), row in sorted(best.items(), key=lambda item: item[0]):
        picture = folder / "runs" / row["run_id"] / "predictions.png"
        kind = "without pre-training" if scratch else "with pre-training"
        caption = f"{task} {kind}, the run of the lowest error ({float(row['error']):.3g}): the first test images; "
        figures.append((picture, f"{caption}the truth on the left, the prediction on the right."))
    return [(picture, caption) for picture, caption in figures if picture.is_file()]


def _failed(facts: dict[str, Any]) -> list[Section]:
    rows = [(name, in_one_line(str(error))) for name, error in facts.get("failures", {}).items()]
    return [Section("What failed", table=(("run", "why"), rows))] if rows else []


def _what_was_run(facts: dict[str, Any]) -> list[Section]:
    if not facts:
        return []
    words = []
    if facts.get("chosen"):
        choices = "; ".join(
            f"{origin}: {choice['chosen']} of "
            + ", ".join(f"{value} ({metric:.3f})" for value, metric in choice["tried"])
            for origin, choice in facts["chosen"].items()
        )
        key = (facts.get("study", {}).get("choose") or {}).get("key", "")
        words.append(
            f"{key} was chosen once, by the metric (in brackets) of validation images, in trial runs that were not "
            f"tested: {choices}."
        )
    if facts.get("tested_on_validation"):
        words.append(
            f"The fine-tuning data have no test part ({', '.join(facts['tested_on_validation'])}): the errors are of "
            "validation images, by which values may have been chosen."
        )
    words += _checkpoints(facts.get("checkpoints", {}))
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in facts.get("seconds", {}).items())
    study = yaml.safe_dump(facts.get("study", {}), sort_keys=False, allow_unicode=True)
    again = "To reproduce: save the study as study.yaml; lightning-tl study run --config study.yaml --out DIR"
    return [
        Section(
            "What was run",
            words,
            [f"Time: {stages}; {facts.get('cores')} CPU cores.", again],
            folded="The study",
            text=study,
        )
    ]


def _checkpoints(names: dict[str, list[str]]) -> list[str]:
    """Say which network of each stage counts."""
    meanings = {"best.ckpt": "of the best validation", "last.ckpt": "after the last step"}
    uses = {
        "pretrain": "Fine-tuning starts from the pre-trained network {}.",
        "finetune": "The network {} is tested.",
    }
    return [
        use.format(" or ".join(meanings.get(name, f"in {name}") for name in names[stage]))
        for stage, use in uses.items()
        if names.get(stage)
    ]


def _rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of ``results.csv``; none where there is no such file."""
    path = folder / "results.csv"
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: is not a CSV table ({shortened(error)}); run the study again") from error


def _finite(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _every_run(folder: Path) -> list[Section]:
    rows = _rows(folder)
    if not rows:
        return []
    # columns that hold anything; what all rows share is said once
    columns = [name for name in (rows[0] if rows else {}) if name is not None and any(row[name] for row in rows)]
    varying = [name for name in columns if len({row[name] for row in rows}) > 1 or name in ("run_id", "error")]
    common = [f"{name} {rows[0][name]}" for name in columns if name not in varying]
    shown = rows[:_MOST_ROWS]
    first = f"the first {len(shown)} of " if len(shown) < len(rows) else ""
    return [
        Section(
            "Every run",
            notes=[f"In all of them: {', '.join(common)}."] if common else [],
            table=(varying, [[row[name] for name in varying] for row in shown]),
            folded=f"{first}{len(rows)} rows of results.csv",
        )
    ]


def _html(section: Section) -> str:
    parts = [html.heading(section.heading), html.paragraphs(section.words)]
    parts += [html.figure(path, caption) for path, caption in section.figures]
    parts.append(html.paragraphs(section.notes, "soft"))
    if section.table is not None:
        head, rows = section.table
        # many columns share the width, and words stand at the left
        wraps = len(head) > 4 or any(re.search(r"[^\W\d_]{2}", str(cell)) for row in rows for cell in row[1:-1])
        kind = "words wraps" if wraps else "words"
        table = html.table(*section.table, "all" if section.folded else kind)
        parts.append(html.details(section.folded, table, shown=True) if section.folded else table)
    if section.text:
        parts.append(html.details(section.folded, html.preformatted(section.text)))
    if section.listed:
        parts.append(html.details(section.folded, html.paragraphs(section.listed)))
    return html.joined(parts)


def _markdown(title: str, answer: Sequence[str], sections: Sequence[Section], folder: Path) -> str:
    parts = [f"# {markdown.escaped(title)}", *(f"> {markdown.escaped(sentence)}" for sentence in answer)]
    for section in sections:
        parts += [f"## {markdown.escaped(section.heading)}", *map(markdown.escaped, section.words)]
        parts += [
            markdown.picture(caption, path.relative_to(folder).as_posix())
            for path, caption in section.figures
            if path.is_file()
        ]
        parts += map(markdown.escaped, section.notes)
        if section.table is not None:
            parts.append(markdown.table(*section.table))
        if section.text:
            parts.append(markdown.code(section.text, "yaml"))
        parts += map(markdown.escaped, section.listed)
    return "\n\n".join(parts) + "\n"
