"""Byte-pair encoding by Hugging Face's ``tokenizers``: trained on a text, or read from a ``tokenizer.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl._io.files import check_regular
from lightning_tl.corpus.tokenizers import PLAIN, Tokenizer
from lightning_tl.errors import UserError, nearest, one_line, shortened

SEPARATOR = "<|endoftext|>"
#: Names under which tokenizers know the end of a document, in the order in which they are looked for.
_ENDS = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[SEP]")
_SMALLEST = 257  # the bytes and the separator


class BpeTokenizer(Tokenizer):
    """A tokenizer of Hugging Face's format.

    Args:
        definition: The content of a ``tokenizer.json``.
        name: Its name in manifests.
        where: The file, for messages.
        separator: The token that ends a document (``None``: the first known one, such as ``<|endoftext|>``).

    Raises:
        UserError: ``tokenizers`` is not installed, the content is no tokenizer, or it has no separator.
    """

    def __init__(self, definition: str, name: str, where: str, separator: str | None = None) -> None:
        package = _package()
        try:
            self._tokenizer: Any = package.Tokenizer.from_str(definition)
        except Exception as error:  # tokenizers raises nothing more specific
            raise UserError(
                f"{where}: not a tokenizer of Hugging Face's tokenizers ({shortened(one_line(error))}); give a "
                "tokenizer.json that Tokenizer.save wrote, or let bpe:SIZE train one"
            ) from None
        # a document that contains the text "<|endoftext|>" must not end there
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        special = {token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special}
        wanted = [separator] if separator is not None else [each for each in _ENDS if each in vocabulary]
        if not wanted or wanted[0] not in special:
            found = f"'{separator}' is not one of its special tokens" if separator else "it has no known end of a text"
            raise UserError(
                f"{where}: {found}; name the token that ends a document by --separator"
                f"{nearest(separator or SEPARATOR, special) if special else ' (it has no special token)'}"
            )
        self.name, self._definition = name, definition
        self.vocab_size = max(vocabulary.values()) + 1
        self.separator, self.separator_text = vocabulary[wanted[0]], wanted[0]
        self.token_bytes = _token_bytes(definition, vocabulary, special, self.vocab_size)

    @property
    def definition(self) -> str:
        """The content of ``tokenizer.json``."""
        return self._definition

    @property
    def identity(self) -> str:
        """A hash of the tokens' ids and of the separator."""
        vocabulary = sorted(self._tokenizer.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps([vocabulary, self.separator]).encode()).hexdigest()[:16]

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of several texts, which the package divides among the cores."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, self.dtype) for each in encoded]

    def decode(self, ids: np.ndarray) -> str:
        """Return the text of ids, without special tokens."""
        return str(self._tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True))


def train_bpe(texts: Iterable[str], size: int) -> BpeTokenizer:
    """Train a byte-level BPE.

    Args:
        texts: The texts.
        size: Ids in the vocabulary; fewer where the texts have fewer pairs.

    Raises:
        UserError: ``tokenizers`` is not installed, or the size is below 257.
    """
    name = f"bpe:{size}"
    if size < _SMALLEST:
        raise UserError(f"tokenizer {name}: the size must be at least {_SMALLEST}, the bytes and the separator")
    package = _package()
    tokenizer = package.Tokenizer(package.models.BPE())
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BpeTokenizer(tokenizer.to_str(), name, name)


def bpe_size(setting: str) -> int | None:
    """Return the size of ``bpe:SIZE``; ``None`` for another setting.

    Raises:
        UserError: The size is not a whole number of at least 257.
    """
    if not setting.startswith("bpe:"):
        return None
    size = setting.removeprefix("bpe:")
    if not (size.isascii() and size.isdigit()) or not _SMALLEST <= int(size) <= 1 << 24:
        raise UserError(f"tokenizer '{setting}': write bpe:SIZE, with a size of at least {_SMALLEST}, such as bpe:4096")
    return int(size)


def load_tokenizer(setting: str, separator: str | None = None) -> Tokenizer:
    """Return a tokenizer that needs no training.

    Args:
        setting: ``bytes``, ``ascii``, or the path of a ``tokenizer.json`` or of a folder that holds one.
        separator: As for :class:`BpeTokenizer`; only for a file.

    Raises:
        UserError: There is no such tokenizer, its file is damaged, or its package is missing.
    """
    if setting in PLAIN:
        if separator is not None:
            raise UserError(f"--separator is for a tokenizer.json; the tokenizer '{setting}' has its own separator")
        return PLAIN[setting]()
    path = Path(setting)
    path = path / "tokenizer.json" if path.is_dir() else path
    if path.suffix != ".json" and not path.exists():
        raise UserError(f"no tokenizer '{setting}'{nearest(setting, [*PLAIN, 'bpe:4096', 'FILE/tokenizer.json'])}")
    check_regular(path, f"tokenizer {path}")
    try:
        definition = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"tokenizer {path}: not UTF-8; give a tokenizer.json") from None
    digest = hashlib.sha256(definition.encode()).hexdigest()
    return BpeTokenizer(definition, f"file:{digest[:16]}", f"tokenizer {path}", separator)


def _package() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError(
            "this tokenizer needs the package tokenizers: pip install 'lightning-tl[language]', or use the tokenizer "
            "bytes or ascii"
        ) from None
    return tokenizers


def _token_bytes(definition: str, vocabulary: dict[str, int], special: set[str], size: int) -> np.ndarray:
    """Return the bytes of UTF-8 of each token, uint16 ``[size]``.

    Byte-level tokens have one character per byte; others write a space as ``▁`` and may write a byte as ``<0x0A>``.
    """
    byte_level = '"ByteLevel"' in json.dumps(json.loads(definition).get("decoder"))
    lengths = np.zeros(size, np.uint16)
    for token, number in vocabulary.items():
        if token in special:
            continue
        if byte_level:
            lengths[number] = len(token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            lengths[number] = 1
        else:
            lengths[number] = len(token.replace("▁", " ").encode())
    return lengths
