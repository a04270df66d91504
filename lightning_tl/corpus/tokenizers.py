"""Tokenizers: text to ids and back. Bytes and ASCII need no package; BPE is in :mod:`lightning_tl.corpus.bpe`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np


class Tokenizer(ABC):
    """Converts a text into ids in ``[0, vocab_size)``.

    Attributes:
        name: Its name in manifests and options.
        vocab_size: Number of ids, the separator's included.
        separator: Id that follows each document; no text contains it.
        token_bytes: uint16 ``[vocab_size]``, the bytes of UTF-8 that each id stands for; 0 for the separator.
    """

    name: str
    vocab_size: int
    separator: int
    token_bytes: np.ndarray

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, ``[T]``, of the type :attr:`dtype`, without a separator."""

    @abstractmethod
    def decode(self, ids: np.ndarray) -> str:
        """Return the text of ids; a separator becomes nothing."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of several texts."""
        return [self.encode(text) for text in texts]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every id, little endian."""
        return id_type(self.vocab_size)

    @property
    def identity(self) -> str:
        """A text that is the same for tokenizers with the same ids, and differs where their ids differ."""
        return self.name

    @property
    def definition(self) -> str | None:
        """The content of ``tokenizer.json``, where the tokenizer is not defined by its name."""
        return None


def id_type(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest unsigned little-endian type for ids below ``vocab_size``."""
    for name, values in (("<u1", 1 << 8), ("<u2", 1 << 16)):
        if vocab_size <= values:
            return np.dtype(name)
    return np.dtype("<u4")


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8, and the separator 256."""

    name = "bytes"
    vocab_size = 257
    separator = 256

    def __init__(self) -> None:
        self.token_bytes = np.ones(self.vocab_size, np.uint16)
        self.token_bytes[self.separator] = 0

    def encode(self, text: str) -> np.ndarray:
        """Return the bytes of a text."""
        return np.frombuffer(text.encode(), np.uint8).astype(self.dtype)

    def decode(self, ids: np.ndarray) -> str:
        """Return the text; bytes that are not UTF-8 become U+FFFD."""
        kept = np.asarray(ids)[np.asarray(ids) != self.separator]
        content: bytes = kept.astype(np.uint8).tobytes()
        return content.decode("utf-8", errors="replace")


_SYMBOLS = "\n\t" + "".join(chr(code) for code in range(32, 127))


class AsciiTokenizer(Tokenizer):
    """Printable ASCII, tab and newline, one id for every other character, and the separator: 99 ids.

    For small models: a vocabulary a third of that of bytes. A character that is not ASCII counts as one byte.
    """

    name = "ascii"
    vocab_size = len(_SYMBOLS) + 2
    other = len(_SYMBOLS)
    separator = len(_SYMBOLS) + 1

    def __init__(self) -> None:
        self.token_bytes = np.ones(self.vocab_size, np.uint16)
        self.token_bytes[self.separator] = 0
        self._ids = np.full(129, self.other, self.dtype)  # the last one: every character beyond ASCII
        for number, symbol in enumerate(_SYMBOLS):
            self._ids[ord(symbol)] = number
        self._text = np.array([*_SYMBOLS, "\N{REPLACEMENT CHARACTER}", ""])

    def encode(self, text: str) -> np.ndarray:
        """Return one id per character."""
        if text.isascii():
            codes = np.frombuffer(text.encode(), np.uint8)
        else:
            codes = np.minimum(np.frombuffer(text.encode("utf-32-le"), "<u4"), 128)
        ids: np.ndarray = self._ids[codes]
        return ids

    def decode(self, ids: np.ndarray) -> str:
        """Return the text; each character that is not in the vocabulary becomes U+FFFD."""
        return "".join(self._text[np.asarray(ids, np.int64)].tolist())


#: Tokenizers that need nothing but their name.
PLAIN: dict[str, type[Tokenizer]] = {"bytes": ByteTokenizer, "ascii": AsciiTokenizer}
