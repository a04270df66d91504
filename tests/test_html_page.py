"""Pieces of an HTML page: what a browser would read of them is the text that went in."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from lightning_tl import html_page as html

TEXT = "<script>alert('1')</script> & \"a\" < b"


class Reader(HTMLParser):
    """Collects the elements of a page, their attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data: str) -> None:
        self.texts += [data] if data.strip() else []


def test_pieces_hold_the_text_that_went_in(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    picture = html.figure(tmp_path / "a.png", TEXT)
    for piece, tags in (
        (html.paragraphs([TEXT]), ["p"]),
        (html.answer([TEXT]), ["div", "p"]),
        (html.heading(TEXT), ["h2"]),
        (html.preformatted(TEXT), ["pre"]),
        (picture, ["figure", "picture", "img", "figcaption"]),
        (html.details(TEXT, html.heading("inside")), ["details", "summary", "h2"]),
        (html.table([TEXT], []), ["div", "table", "thead", "tr", "th", "tbody"]),
        (html.joined([TEXT]), []),
    ):
        reader = Reader(piece)
        assert reader.tags == tags
        assert reader.texts[0] == TEXT
    assert Reader(picture).attributes["alt"] == TEXT
    assert html.figure(tmp_path / "none.png", TEXT) == ""


def test_a_table_has_its_cells_in_order() -> None:
    reader = Reader(html.table(["a", "b"], [[1, TEXT], [None, 2.5]], "all"))
    assert reader.texts == ["a", "b", "1", TEXT, "None", "2.5"]
    assert reader.tags.count("tr") == 3
    assert reader.attributes["class"] == "all"


def test_a_page_holds_its_pieces() -> None:
    reader = Reader(html.page(TEXT, ["", html.heading("inside"), TEXT]))
    assert reader.tags.count("h1") == reader.tags.count("h2") == reader.tags.count("script") == 1
    assert reader.texts.count(TEXT) == 2  # title and heading
    assert any(text.strip() == TEXT for text in reader.texts[3:])
