"""Pieces of a self-contained HTML page: style, figures, tables that sort and copy. All text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

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
th.sorts { cursor: pointer; } th.sorts[data-order="1"]::after { content: " ↑"; }
th.sorts[data-order="-1"]::after { content: " ↓"; }
code, pre { font: .85rem/1.5 ui-monospace, monospace; }
pre { background: var(--card); padding: .8rem; border-radius: 6px; overflow-x: auto; }
summary, button { cursor: pointer; } button { font: inherit; font-size: .85rem; margin: .4rem 0; }
@media print { body { max-width: none; } details { break-inside: avoid; } button { display: none; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.all")) {
  const head = [...table.querySelectorAll("th")], body = table.tBodies[0];
  head.forEach((cell, column) => {
    cell.classList.add("sorts");
    cell.addEventListener("click", () => {
      const order = cell.dataset.order === "1" ? -1 : 1;
      head.forEach(other => delete other.dataset.order);
      cell.dataset.order = order;
      const text = row => row.cells[column].textContent;
      const compare = (a, b) => (a !== "" && b !== "" && !isNaN(a) && !isNaN(b)) ? a - b : a.localeCompare(b);
      body.append(...[...body.rows].sort((a, b) => order * compare(text(a), text(b))));
    });
  });
  const button = document.createElement("button");
  button.textContent = "Copy as tab-separated text";
  button.addEventListener("click", () => navigator.clipboard.writeText(
    [...table.rows].map(row => [...row.cells].map(cell => cell.textContent).join("\\t")).join("\\n")));
  table.parentElement.before(button);
}
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page of HTML pieces; it asks no network for anything."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # or browsers ask for /favicon.ico
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(filter(None, body))
        + f"\n<script>{SCRIPT}</script></body></html>\n"
    )


def paragraphs(sentences: Iterable[str], kind: str = "") -> str:
    """Return a paragraph a sentence."""
    opening = f'<p class="{kind}">' if kind else "<p>"
    return "".join(f"{opening}{escape(sentence)}</p>" for sentence in sentences)


def heading(text: str) -> str:
    """Return a section's heading."""
    return f"<h2>{escape(text)}</h2>"


def figure(path: Path, caption: str) -> str:
    """Return a PNG or SVG file, inlined, with its caption; nothing where there is no file."""
    if not path.is_file():
        return ""
    kind = {".png": "image/png", ".svg": "image/svg+xml"}[path.suffix]
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption, quote=True)}" src="data:{kind};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(head: Iterable[str], rows: Iterable[Iterable[object]], kind: str = "") -> str:
    """Return a table; ``all`` makes it one to sort by its heads and to copy, ``words`` wraps its last column."""

    def cells(values: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(value))}</{tag}>" for value in values) + "</tr>"

    body = "".join(cells(row, "td") for row in rows)
    return (
        f'<div class="scroll {kind}"><table class="{kind}"><thead>{cells(head, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def details(summary: str, content: str, shown: bool = False) -> str:
    """Return what is shown on a click; ``content`` is HTML."""
    return f"<details{' open' if shown else ''}><summary>{escape(summary)}</summary>{content}</details>"


def preformatted(text: str) -> str:
    """Return text as it is."""
    return f"<pre>{escape(text)}</pre>"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; bars in the text are escaped."""

    def line(values: Iterable[object]) -> str:
        return "| " + " | ".join(str(value).replace("|", "\\|").replace("\n", " ") for value in values) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
