"""Text in a Markdown file: what a reader shows is the text that went in, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

# Underscores inside words mean nothing in Markdown.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_BLOCK = re.compile(r"^(#|\+|-|=|\d+(?=[.)](?:\s|$)))")
_LINK = re.compile(r":(?=//)|(?<=www)\.|@", re.IGNORECASE)


def escaped(text: object) -> str:
    """Return a text for one line of Markdown: no markup, no HTML, no link, no second line."""
    line = "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in str(text)).strip()
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _SPECIAL.sub(r"\\\g<0>", line)
    line = _LINK.sub(lambda match: f"&#{ord(match[0])};", line)
    return _BLOCK.sub(lambda match: match[0] + "\\" if match[0].isdigit() else "\\" + match[0], line)


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return "\n".join([line(map(escaped, head)), line(["---"] * len(head)), *(line(map(escaped, row)) for row in rows)])


def picture(caption: str, path: str) -> str:
    """Return a picture by its path relative to the Markdown file."""
    return f"![{escaped(caption)}]({quote(path)})"


def code(text: str, language: str) -> str:
    """Return a text as it is, in a fence that it cannot close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
