"""The hash of a rendered data set, by which one can tell whether another is the same."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lightning_tl._io.json_text import parse_json


def rendered_facts(root: str, n: int | None = None) -> dict[str, Any]:
    """Return the hash of a rendered data set's training shards; nothing where the folder holds none.

    Args:
        root: Folder of the data set; its shards are not read, their hashes stand in the manifest.
        n: The first n images count; None: all.

    Returns:
        ``shards_sha256``: SHA-256 of the hashes, one a line, of the shards that these images are in;
        ``render_seed``, ``categories``.
    """
    try:
        content = parse_json((Path(root) / "train" / "manifest.json").read_bytes())
        shards, seen, lines = content["shards"], 0, []
        for shard in shards:
            if n is not None and seen >= n:
                break
            lines.append(f"{shard['sha256']}\n")
            seen += int(shard["images"])
        return {
            "shards_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
            "render_seed": content.get("seed"),
            "categories": list(map(str, content["categories"].values())),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # another kind of data set, or not at hand
