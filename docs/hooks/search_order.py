"""What a search lists first: pages that explain come before those that list everything."""

from __future__ import annotations

from typing import Any

#: Folders and pages, and the factor on their scores.
BEHIND = {"api/": 0.2, "reference/": 0.5, "reference/shipped.md": 0.1, "changes.md": 0.1, "contributing.md": 0.2}


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Set the factor of a page; its text stays as it is."""
    factors = [factor for start, factor in BEHIND.items() if page.file.src_uri.startswith(start)]
    if factors:
        page.meta["search"] = {"boost": factors[-1]}
    return markdown
