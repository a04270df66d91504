"""Links in Markdown files lead to files and headings that exist, as a git host shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
# pages that exist only on the site; the front page names them, and `make docs` checks its links
GENERATED = re.compile(r"^(reference|api)/")


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def _anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings: lower case, no punctuation, hyphens for spaces."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
        if re.match(r"https?://|mailto:", target) or (page.name == "index.md" and GENERATED.match(target)):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.is_file(), f"{page.name}: {target}"
        assert path.is_relative_to(ROOT)
        if anchor:
            assert anchor in _anchors(path), f"{page.name}: {target}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1]
    for path in (ROOT / "docs").rglob("*.md"):
        assert f" {path.relative_to(ROOT / 'docs').as_posix()}\n" in f"{navigation}\n", path


NAMED = re.compile(r"`((?:configs|benchmarks|examples|lightning_tl|data_gen|tests)/[\w/.-]+\.\w+)")


def test_names_of_files_in_the_repository_are_right():
    """Paths in code on the pages, as `configs/study/quickstart.yaml`."""
    for page in PAGES:
        for name in NAMED.findall(page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
