"""Pages of the site whose text stands in the root of the repository, where a git host looks for it."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

#: The file in the root, and its page.
PAGES = {"CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each of these files."""
    root = Path(config.config_file_path).parent
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=with_links_of_the_site((root / name).read_text())))
    return files


def with_links_of_the_site(text: str) -> str:
    """Return a text in which links to files of ``docs/`` and of the root lead to their pages."""
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\]\((\w+\.md)", lambda match: f"]({PAGES.get(match[1], match[1])}", text)
