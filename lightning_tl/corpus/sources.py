"""Sources of a corpus, by name: files, folders, JSONL, Parquet, Hugging Face data sets, the built-in texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from lightning_tl._io.files import check_regular
from lightning_tl.corpus.builtin import PREFIX, builtin_chunks
from lightning_tl.corpus.chunks import Chunk, file_groups, file_ranges
from lightning_tl.corpus.tables import dataset_chunks, parquet_chunks
from lightning_tl.errors import UserError

_LINES = (".jsonl", ".ndjson")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar")


def plan_sources(
    sources: Sequence[str], key: str = "text", pattern: str = "*", delimiter: str | None = None
) -> list[Chunk]:
    """Return the chunks of all sources.

    Args:
        sources: Files, folders, ``hf:NAME`` and ``builtin:NAME``. A folder stands for its files at any depth, without
            hidden ones. ``.jsonl`` and ``.parquet`` are read as tables, every other file as text.
        key: Key or column of the text in a table.
        pattern: Which file names of a folder to read, such as ``*.txt``.
        delimiter: What ends a document in a text file (``None``: a file is one document).

    Raises:
        UserError: A source is missing, empty, or cannot be read.
    """
    if not sources:
        raise UserError("no source: give at least one file or folder by --source")
    if delimiter == "":
        raise UserError("--delimiter is empty; leave it out, and each file is one document")
    return [chunk for source in sources for chunk in _plan(str(source), key, pattern, delimiter)]


def _plan(source: str, key: str, pattern: str, delimiter: str | None) -> list[Chunk]:
    if source.startswith("hf:"):
        return dataset_chunks(source, key)
    if source.startswith(PREFIX):
        return builtin_chunks(source)
    files = _files(source, pattern)
    texts, chunks = [], []
    for path in files:
        suffix = path.suffix.lower()
        if suffix in _COMPRESSED:
            raise UserError(f"{path}: compressed; unpack it first, or leave it out by --pattern")
        if suffix == ".parquet":
            chunks += parquet_chunks(source, path, key)
        elif suffix in _LINES:
            chunks += file_ranges(source, path, b"\n", key)
        elif delimiter is not None:
            chunks += file_ranges(source, path, delimiter.encode())
        else:
            texts.append(path)
    return chunks + file_groups(source, texts)


def _files(source: str, pattern: str) -> list[Path]:
    root = Path(source)
    if not root.is_dir():
        check_regular(root, f"source {source}")
        if root.stat().st_size == 0:
            raise UserError(f"source {source}: an empty file")
        return [root]
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        chosen = sorted(name for name in names if not name.startswith(".") and fnmatch(name, pattern))
        files += [path for name in chosen if (path := Path(folder) / name).is_file()]
    if not files:
        raise UserError(f"source {source}: no file '{pattern}' in this folder; choose the files by --pattern")
    return files
