"""Pieces of a self-contained HTML page: figures, tables that sort and copy. Jinja2 escapes all text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightning_tl.figure_style import narrow_path


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("lightning_tl"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )


def _piece(name: str, *values: Any) -> Markup:
    """Return a piece by its macro in ``templates/pieces.html.j2``."""
    macro = getattr(_environment().get_template("pieces.html.j2").module, name)
    return Markup(macro(*values).strip("\n"))


def joined(pieces: Iterable[str]) -> Markup:
    """Return pieces one after the other; text that is no piece is escaped, and empty ones are left out."""
    return Markup("\n").join(filter(None, pieces))


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page of pieces; it asks no network for anything."""
    return _environment().get_template("page.html.j2").render(title=title, body=joined(body))


def paragraphs(sentences: Iterable[str], kind: str = "") -> Markup:
    """Return one paragraph per sentence."""
    return _piece("paragraphs", sentences, kind)


def answer(sentences: Sequence[str]) -> Markup:
    """Return what a page says first, set apart; nothing where there are no sentences."""
    return _piece("answer", sentences) if sentences else Markup()


def heading(text: str) -> Markup:
    """Return a section's heading."""
    return _piece("heading", text)


def figure(path: Path, caption: str) -> Markup:
    """Return a PNG or SVG file, inlined, with its caption; nothing where there is no file.

    On narrow screens ``<name>_narrow.png`` is shown instead, where it is beside the file.
    """
    if not path.is_file():
        return Markup()
    narrow = narrow_path(path)
    return _piece("figure", _data(path), _data(narrow) if narrow.is_file() else "", caption)


def _data(path: Path) -> str:
    kind = {".png": "image/png", ".svg": "image/svg+xml"}[path.suffix]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def without_empty_columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return a table's heads and rows without the columns that have no text in any row."""
    kept = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    return [heads[place] for place in kept], [[row[place] for place in kept] for row in rows]


def table(head: Iterable[str], rows: Iterable[Iterable[object]], kind: str = "") -> Markup:
    """Return a table; ``all`` makes it one to sort by its heads and to copy, ``words`` wraps its last column."""
    return _piece("table", list(head), rows, kind)


def details(summary: str, content: Markup, shown: bool = False) -> Markup:
    """Return a piece that is shown on a click, or at once where ``shown``."""
    return _piece("details", summary, content, shown)


def preformatted(text: str) -> Markup:
    """Return text as it is."""
    return _piece("preformatted", text)
