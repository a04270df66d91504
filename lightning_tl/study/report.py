"""`report.html`: one self-contained page that answers first and shows its grounds after."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lightning_tl.errors import UserError
from lightning_tl.study.records import write_whole

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5c6675; --line: #d9dee6; --card: #f5f7fa; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #9aa4b2; --line: #353c48; --card: #1f242d; --page: #15181e; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
.answer { border-left: 4px solid #0072b2; background: var(--card); padding: .6rem 1rem; border-radius: 0 6px 6px 0; }
.answer p:first-child { font-size: 1.1rem; font-weight: 600; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption, .soft { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .words th:last-child, .words td:last-child { text-align: left; }
.words td:last-child { white-space: normal; min-width: 12rem; }
code, pre { font: .85rem/1.5 ui-monospace, monospace; }
pre { background: var(--card); padding: .8rem; border-radius: 6px; overflow-x: auto; }
summary { cursor: pointer; }
@media print { body { max-width: none; } details { break-inside: avoid; } }
"""

# The runs' table shows these columns of results.csv.
SHOWN = ("run_id", "render", "pretrain_images", "draw_seed", "lr", "error", "pretrain_loss_before", "seconds")


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from what a folder holds: ``results.csv``, ``fits.json``, pictures and the run's facts.

    Args:
        folder: Where ``lightning-tl law --out`` wrote its fits.

    Returns:
        The page.

    Raises:
        UserError: No fits there, or they cannot be read.
    """
    fits = _json(folder / "fits.json", f"run `lightning-tl law {folder / 'results.csv'} --out {folder}` first")
    facts = _json(folder / "quickstart.json", None) if (folder / "quickstart.json").is_file() else {}
    results = folder / "results.csv"
    rows = list(csv.DictReader(results.open(newline=""))) if results.is_file() else []
    body = [
        "<h1>Is this pre-training worth anything?</h1>",
        _answer(fits["advice"]),
        _figure(
            folder / "law.png",
            "Test error against pre-training size n, both on logarithmic axes, with the fitted laws, their 95 % bands "
            "and the error without pre-training.",
        ),
        *(_group(group) for group in fits["groups"]),
        _renders(folder, [group["label"] for group in fits["groups"]], facts),
        _what_was_run(facts),
        _table(rows),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # or browsers ask for /favicon.ico
        f"<title>lightning-tl report</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    write_whole(folder / "report.html", page)
    return folder / "report.html"


def _json(path: Path, mend: str | None) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {mend}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and make it again") from error
    if not isinstance(content, dict) or (mend and not {"advice", "groups"} <= content.keys()):
        raise UserError(f"{path}: not what lightning-tl writes there; {mend or 'delete it'}")
    return content


def _answer(sentences: Sequence[str]) -> str:
    return '<div class="answer">' + "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences) + "</div>"


def _figure(path: Path, caption: str) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption, quote=True)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _number(value: Any) -> str:
    return "unbounded" if value is None else f"{value:.3g}"


def _group(group: dict[str, Any]) -> str:
    advice = group.get("advice") or {}
    parts = [f"<h2>{escape(group['label'])}: {escape(advice.get('verdict', 'not fitted'))}</h2>"]
    if group["law"]:
        rows = [
            (
                name,
                _number(fitted["value"]) if fitted["identified"] else "not identified",
                f"{_number(fitted['interval'][0])} to {_number(fitted['interval'][1])}",
                fitted["reason"] or "",
            )
            for name, fitted in group["law"]["params"].items()
        ]
        parts.append(f'<p class="soft">{escape(group["law"]["form"]["formula"])}</p>')
        parts.append(_html_table(("parameter", "best value", "95 % interval", "why not"), rows, "words"))
    parts += [f"<p>{escape(sentence)}</p>" for sentence in advice.get("sentences", [])[1:]]
    parts += [f'<p class="soft">{escape(note)}</p>' for note in group.get("notes", [])]
    return "\n".join(parts)


def _renders(folder: Path, labels: Sequence[str], facts: dict[str, Any]) -> str:
    names = facts.get("settings", {}).get("renders", labels)
    figures = [_figure(folder / f"{name}.png", f"{name}: colours with boxes, masks, normals") for name in names]
    figures.append(_figure(folder / "target.png", "The real images: training shots of the first draw"))
    shown = "".join(figures)
    return f"<h2>What was rendered, and the real images</h2>{shown}" if shown else ""


def _what_was_run(facts: dict[str, Any]) -> str:
    if not facts:
        return ""
    settings = facts.get("settings", {})
    lines = [f"{name}: {value}" for name, value in settings.items()]
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in facts.get("seconds", {}).items())
    choices = "; ".join(
        f"{origin}: {found['chosen']:g} of "
        + ", ".join(f"{lr} ({error:.3f})" for lr, error in found["validation_error"].items())
        for origin, found in facts.get("learning_rates", {}).items()
    )
    chosen = (
        "The learning rates of fine-tuning were chosen once, by the error (in brackets) on real validation images that "
        f"no result is computed from: {choices}"
    )
    return (
        "<h2>What was run</h2>"
        f"<p>{escape(chosen)}. One pre-training run for each size; the draws of real images are the same for every "
        "size and for scratch. The network after the last step is tested; a pre-training's best checkpoint on its "
        "rendered validation split starts the fine-tuning.</p>"
        f'<p class="soft">Time: {escape(stages)}; {facts.get("cores")} CPU cores.</p>'
        f"<details><summary>Settings</summary><pre>{escape(chr(10).join(lines))}</pre></details>"
    )


def _table(rows: Sequence[dict[str, str]]) -> str:
    if not rows:
        return ""
    columns = [name for name in SHOWN if name in rows[0]]
    table = _html_table(columns, [[row[name] for name in columns] for row in rows])
    return f"<h2>Every run</h2><details open><summary>{len(rows)} rows of results.csv</summary>{table}</details>"


def _html_table(head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    def cells(values: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(value))}</{tag}>" for value in values) + "</tr>"

    body = "".join(cells(row, "td") for row in rows)
    return f'<div class="scroll {kind}"><table><thead>{cells(head, "th")}</thead><tbody>{body}</tbody></table></div>'
