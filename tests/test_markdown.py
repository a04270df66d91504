"""Markdown: what a parser of CommonMark reads of it is the text that went in."""

from __future__ import annotations

import random

import pytest
from markdown_it import MarkdownIt
from test_html_page import Reader

from lightning_tl import markdown

TEXTS = [
    "<script>alert('1')</script> & \"a\" < b",
    "a | b \\| c `code` *bold* _this_ __that__ snake_case _x",
    "[link](javascript:alert(1)) ![picture](x) [a]: b <http://x.org>",
    "# heading",
    "1. one",
    "7) seven",
    "- item",
    "+ item",
    "===",
    "> quote",
    "&amp; &#60; &lt;",
    "~~gone~~ $x$ http://a.org www.a.org me@a.org",
    "    four spaces".strip(),
    "trailing backslash \\",
    "***",
    "---",
]


def read(text: str) -> Reader:
    return Reader(MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").render(text))


def joined(reader: Reader) -> str:
    return "".join(reader.texts)


@pytest.mark.parametrize("text", TEXTS)
def test_a_paragraph_is_its_text(text: str) -> None:
    for start, tag in (("", ["p"]), ("# ", ["h1"]), ("> ", ["blockquote", "p"])):
        reader = read(start + markdown.escaped(text))
        assert reader.tags == tag
        assert joined(reader) == text


def test_random_texts_are_paragraphs() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice("ab1 .)(*_`[]<>!#&;:/\\|~=+-\"'$@\n\x07") for _ in range(rng.randrange(1, 30)))
        shown = " ".join(text.replace("\x07", "\ufffd").split())
        reader = read(markdown.escaped(text))
        assert reader.tags == (["p"] if shown else []), text
        assert " ".join(joined(reader).split()) == shown, text
        assert "://" not in markdown.escaped(text)  # what sites make links of


def test_a_table_and_a_picture() -> None:
    reader = read(markdown.table(["a|b", "<b>"], [[TEXTS[0], TEXTS[1]], ["x\ny", None]]))
    cells = ["a|b", "<b>", TEXTS[0], TEXTS[1], "x y", "None"]
    assert joined(reader) == "".join(cells)
    assert reader.tags.count("tr") == 3
    picture = read(markdown.picture("a] <b>", "renders/a b(1)/sheet.png"))
    assert picture.tags == ["p", "img"]
    assert picture.attributes["src"] == "renders/a%20b%281%29/sheet.png"


def test_code_stays_in_its_fence() -> None:
    for text in ("title: x\n", "a: |\n  ```\n  <script>\n  ```\n", "`" * 12):
        reader = read(markdown.code(text, "yaml"))
        assert reader.tags == ["pre", "code"]
        assert joined(reader).strip() == text.strip()
