"""A rendered split taken apart, changed, and put together again with hashes that fit."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Members = dict[str, bytes]


def read(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def rewrite(root: Path, change: Callable[[Members], Any], shard: str = "000001", split: str = "train") -> Path:
    """Change a shard's members; the manifest gets the new hash, so that the planted fault is the only one."""
    path = root / split / "shards" / f"{shard}.tar"
    members = read(path)
    change(members)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    manifest = json.loads((root / split / "manifest.json").read_text())
    (row,) = [row for row in manifest["shards"] if row["name"] == shard]
    row["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (root / split / "manifest.json").write_text(json.dumps(manifest))
    return path


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], Any], split: str = "train") -> None:
    path = root / split / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def labels(key: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Members], None]:
    def edit(members: Members) -> None:
        content = json.loads(members[f"{key}.json"])
        change(content)
        members[f"{key}.json"] = json.dumps(content).encode()

    return edit


def pixels(name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[Members], None]:
    """Change an image in place, or by what ``change`` returns."""

    def edit(members: Members) -> None:
        array = np.array(Image.open(io.BytesIO(members[name])))
        changed = change(array)
        members[name] = png(array if changed is None else changed)

    return edit


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()
