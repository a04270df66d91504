"""A corpus on disk: its manifest, checked, and its ids, memory-mapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl._io.checksums import file_sha256
from lightning_tl._io.json_text import parse_json
from lightning_tl.corpus.bpe import BpeTokenizer
from lightning_tl.corpus.tokenizers import PLAIN, Tokenizer, id_type
from lightning_tl.errors import UserError, one_line

FORMAT = 1
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
SPLITS = ("train", "val", "test")
_DTYPES = {"uint8": 1, "uint16": 2, "uint32": 4}
_AGAIN = "build the corpus again: lightning-tl corpus build"


@dataclass(frozen=True)
class SplitEntry:
    """A split in the manifest.

    Attributes:
        tokens: Ids, the separators included.
        documents: Number of documents.
        bytes: Bytes of UTF-8 of their texts.
        sha256: Of the file of ids.
    """

    tokens: int
    documents: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a corpus folder holds.

    Attributes:
        folder: The folder.
        tokenizer_entry: ``name``, ``separator`` (an id) and, for BPE, ``separator_text``.
        vocab_size: Number of ids.
        dtype: Type of an id on disk.
        splits: By name.
        duplicates: Documents left out because another one has the same text.
        sources: What the documents were read from.
        settings: How the corpus was built.
    """

    folder: Path
    tokenizer_entry: dict[str, Any]
    vocab_size: int
    dtype: np.dtype[Any]
    splits: dict[str, SplitEntry]
    duplicates: int
    sources: list[dict[str, Any]]
    settings: dict[str, Any]

    @property
    def separator(self) -> int:
        """Id that follows each document."""
        return int(self.tokenizer_entry["separator"])

    def path(self, split: str) -> Path:
        """Return the file of ids of a split."""
        return self.folder / f"{split}.bin"

    def open(self, split: str) -> np.ndarray:
        """Return the ids of a split, ``[tokens]``, memory-mapped and read-only.

        Raises:
            UserError: There is no such split, or its file is missing or has another size than the manifest says.
        """
        if split not in self.splits:
            raise UserError(f"{self.folder}: no split '{split}'; valid: {', '.join(self.splits)}")
        path, tokens = self.path(split), self.splits[split].tokens
        if not path.is_file():
            raise UserError(f"{path}: no such file; {_AGAIN}")
        size, expected = path.stat().st_size, tokens * self.dtype.itemsize
        if size != expected:
            raise UserError(f"{path}: {size} bytes, but {MANIFEST} says {expected}: it is damaged; {_AGAIN}")
        if not tokens:
            return np.empty(0, self.dtype)
        return np.memmap(path, self.dtype, "r", shape=(tokens,))

    def documents(self, split: str) -> np.ndarray:
        """Return where each document of a split begins, uint64 ``[documents]``, rising.

        Raises:
            UserError: The file is missing or damaged.
        """
        path = self.folder / f"{split}.documents.npy"
        try:
            starts: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)}); {_AGAIN}") from None
        if starts.shape != (self.splits[split].documents,):
            raise UserError(f"{path}: {len(starts)} documents, but {MANIFEST} says another number; {_AGAIN}")
        return starts

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the corpus.

        Raises:
            UserError: Its file is missing or damaged, or its package is not installed.
        """
        name = self.tokenizer_entry["name"]
        if name in PLAIN:
            return PLAIN[name]()
        path = self.folder / TOKENIZER
        if not path.is_file():
            raise UserError(f"{path}: no such file; {_AGAIN}")
        try:
            definition = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8; {_AGAIN}") from None
        return BpeTokenizer(definition, name, str(path), self.tokenizer_entry.get("separator_text"))

    def verify(self) -> None:
        """Compare every file of ids with its hash in the manifest.

        Raises:
            UserError: A file is missing or damaged.
        """
        for name, entry in self.splits.items():
            self.open(name)
            if file_sha256(self.path(name)) != entry.sha256:
                raise UserError(f"{self.path(name)}: its content is not what {MANIFEST} says; {_AGAIN}")


def read_manifest(folder: str | Path) -> Manifest:
    """Return the manifest of a corpus folder.

    Raises:
        UserError: There is no corpus, its manifest is damaged, or it has another format.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        reason = "no such folder" if not folder.exists() else f"no {MANIFEST} in it, so it is no finished corpus"
        raise UserError(f"{folder}: {reason}; {_AGAIN} --out {folder}")
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({one_line(error)}); {_AGAIN}") from None
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path}: not the manifest of a corpus; {_AGAIN}")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: format {content['format']!r}; this version reads format {FORMAT}; {_AGAIN}")
    try:
        return _manifest(folder, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: a key is missing or wrong ({type(error).__name__}: {error}); {_AGAIN}") from None


def _manifest(folder: Path, content: dict[str, Any]) -> Manifest:
    tokenizer, vocab_size, dtype = content["tokenizer"], _count(content["vocab_size"]), content["dtype"]
    if dtype not in _DTYPES or _DTYPES[dtype] != id_type(vocab_size).itemsize:
        raise ValueError(f"dtype is {dtype!r}, for {vocab_size} ids")
    if not isinstance(tokenizer["name"], str) or not 0 <= _count(tokenizer["separator"]) < vocab_size:
        raise ValueError("tokenizer")
    splits = {
        name: SplitEntry(
            _count(entry["tokens"]), _count(entry["documents"]), _count(entry["bytes"]), str(entry["sha256"])
        )
        for name, entry in content["splits"].items()
    }
    if set(splits) != set(SPLITS):
        raise ValueError(f"splits are {', '.join(splits)}")
    return Manifest(
        folder,
        tokenizer,
        vocab_size,
        np.dtype(dtype).newbyteorder("<"),
        splits,
        _count(content["duplicates"]),
        list(content["sources"]),
        dict(content["settings"]),
    )


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value
