"""Part files to one file per split: documents in the order of their hashes, one of each text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl._io.atomic import sync_to_disk
from lightning_tl._io.checksums import file_sha256
from lightning_tl.corpus.manifest import SPLITS
from lightning_tl.corpus.parts import Documents, Part, joined
from lightning_tl.corpus.split import split_numbers
from lightning_tl.corpus.tokenizers import Tokenizer

_RANGE_TOKENS = 16 << 20  # ids that are sorted in memory at a time


def merge_parts(
    paths: Sequence[Path],
    folder: Path,
    tokenizer: Tokenizer,
    val_share: float,
    test_share: float,
    progress: Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]],
) -> tuple[dict[str, dict[str, Any]], int]:
    """Write ``SPLIT.bin`` and ``SPLIT.documents.npy`` of every split.

    Args:
        paths: The part files.
        folder: An empty folder.
        tokenizer: The tokenizer, for its type of ids.
        val_share: Share of validation.
        test_share: Share of test.
        progress: As for :func:`lightning_tl.corpus.build.build_corpus`.

    Returns:
        The manifest's entries of the splits, and the number of documents left out as duplicates.
    """
    tokens = sum(path.stat().st_size for path in paths) // tokenizer.dtype.itemsize
    ranges = max(1, -(-tokens // _RANGE_TOKENS))
    edges = np.array([(number << 64) // ranges for number in range(1, ranges)], np.uint64)
    parts = [Part(path, tokenizer.dtype, edges) for path in paths]
    entries = {name: {"tokens": 0, "documents": 0, "bytes": 0} for name in SPLITS}
    duplicates = 0
    with ExitStack() as stack, progress("sorting", "parts") as advance:
        files = {name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in SPLITS}
        starts = {name: stack.enter_context((folder / f"{name}.starts").open("wb")) for name in SPLITS}
        for number in range(ranges if parts else 0):
            documents = joined([part.read(number) for part in parts])
            order, repeated = _distinct(documents.hashes)
            duplicates += repeated
            split = split_numbers(documents.hashes[order], val_share, test_share)
            for place, name in enumerate(SPLITS):
                chosen = order[split == place]
                offsets = _append(documents, chosen, files[name]) + np.uint64(entries[name]["tokens"])
                starts[name].write(offsets.astype("<u8").tobytes())
                entries[name]["tokens"] += int(documents.lengths[chosen].sum())
                entries[name]["documents"] += len(chosen)
                entries[name]["bytes"] += int(documents.sizes[chosen].sum())
            advance(number + 1, ranges)
    for name in SPLITS:
        raw = folder / f"{name}.starts"
        count = entries[name]["documents"]
        np.save(folder / f"{name}.documents.npy", np.memmap(raw, "<u8", "r") if count else np.empty(0, "<u8"))
        raw.unlink()
        sync_to_disk(folder / f"{name}.bin")
        sync_to_disk(folder / f"{name}.documents.npy")
    hashes = {name: file_sha256(folder / f"{name}.bin") for name in SPLITS}
    return {name: {**entries[name], "sha256": hashes[name]} for name in SPLITS}, duplicates


def _distinct(hashes: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the documents in the order of their hashes, one of each, and how many were left out."""
    order = np.lexsort(hashes.T[::-1])
    if not len(order):
        return order, 0
    ordered = hashes[order]
    new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    return order[new], int((~new).sum())


def _append(documents: Documents, chosen: np.ndarray, file: Any) -> np.ndarray:
    """Write the ids of documents in the given order; return where each begins, from 0, uint64."""
    begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(documents.lengths, dtype=np.int64)])
    ids = documents.ids.data
    file.write(b"".join(ids[begin:end] for begin, end in zip(begins[chosen], begins[chosen + 1], strict=True)))
    ends = np.cumsum(documents.lengths[chosen], dtype=np.uint64)
    return np.asarray(ends - documents.lengths[chosen].astype(np.uint64))
