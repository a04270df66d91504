"""Text as a data module: windows of a corpus of token ids, for language models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_tl.corpus.builtin import PREFIX, builtin_corpus
from lightning_tl.corpus.manifest import Manifest, read_manifest
from lightning_tl.corpus.tokenizers import PLAIN
from lightning_tl.data.batched_module import BatchedDataModule
from lightning_tl.errors import UserError
from lightning_tl.progress import progress_bar

Batch = tuple[Tensor, Tensor]


class Windows(Dataset[Batch]):
    """Windows of a split's ids that follow one another without a gap or an overlap, whatever the documents.

    Window ``i`` has the tokens ``[i·T, (i + 1)·T)`` after the first place, and as its targets those one place further
    on.

    Args:
        manifest: The corpus.
        split: The split.
        context: ``T``, tokens of a window.
        length: Number of windows.
        first: Place of the first window's first token.
    """

    def __init__(self, manifest: Manifest, split: str, context: int, length: int, first: int = 0) -> None:
        self.manifest, self.split, self.context, self.length, self.first = manifest, split, context, length, first
        self._ids: np.ndarray | None = None
        self._places = np.arange(context + 1)

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory map, which would be copied: another process opens its own."""
        return self.__dict__ | {"_ids": None}

    def __getitem__(self, indices: int | Sequence[int]) -> Batch:
        """Return tokens and targets of a batch, int64 ``[B, T]`` each; or of one window, ``[T]``."""
        if isinstance(indices, int):
            tokens, targets = self[[indices]]
            return tokens[0], targets[0]
        if self._ids is None:
            # a plain view: numpy's class for memory maps costs several times as much per access
            self._ids = np.asarray(self.manifest.open(self.split))
        starts = self.first + np.array(indices, np.int64)[:, None] * self.context
        ids = self._ids[starts + self._places]
        # converted by numpy: torch takes ten times as long for small batches
        return torch.from_numpy(ids[:, :-1].astype(np.int64)), torch.from_numpy(ids[:, 1:].astype(np.int64))


class Text(BatchedDataModule):
    """Text for a language model: the first ``n`` tokens to train on, and a part of its own for validation and test.

    A sample is a window of ``context`` tokens. A pass shows each window once; training for more tokens than ``n``
    repeats them in another order.

    Args:
        root: Folder that ``lightning-tl corpus build`` wrote, or ``builtin:NAME``, made at first use from what is
            installed on this machine: ``python``, ``sympy``, ``c-headers``, ``prose``, ``cipher``, ``json`` or
            ``arithmetic``.
        n: Pre-training size in tokens: the first ones, so a smaller ``n`` is part of a larger one (``None``: all).
        draw: Which ``n`` tokens: those after the first ``draw · n``. Different draws have no token in common.
        context: Tokens of a sample.
        tokenizer: Of a built-in text: ``ascii`` (the default), ``bytes`` or ``bpe:SIZE``. A folder has its own.
        val_samples: Windows for validation: the first ones, at most this many (``None``: all).
        test_samples: The same for test.
        batch_size: Windows in a training batch.
        shared: Arguments of :class:`BatchedDataModule`.

    Raises:
        UserError: There is no such corpus, it is damaged or too small, or an argument is out of range.
    """

    task = "language"
    augmented = False

    def __init__(
        self,
        root: str | Path,
        n: int | None = None,
        draw: int = 0,
        context: int = 128,
        tokenizer: str | None = None,
        val_samples: int | None = 1024,
        test_samples: int | None = 4096,
        batch_size: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **shared)
        counts = {"n": n, "context": context, "val_samples": val_samples, "test_samples": test_samples}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise UserError(f"data.{name} is {value}; it must be at least 1")
        if draw < 0 or (draw and n is None):
            raise UserError(f"data.draw is {draw}; it must be at least 0, and needs data.n")
        self.root, self.n, self.draw = str(root), n, draw
        self.context = self.sample_tokens = context
        self.tokenizer = tokenizer
        self.eval_samples = {"val": val_samples, "test": test_samples}
        self._manifest: Manifest | None = None
        if not self.root.startswith(PREFIX):
            self._check_tokenizer(self.manifest)

    def _check_tokenizer(self, manifest: Manifest) -> None:
        own = manifest.tokenizer_entry["name"]
        if self.tokenizer not in (None, own):
            raise UserError(
                f"data.tokenizer is '{self.tokenizer}', but {self.root} was built with {own}: leave it out, or build "
                "a corpus with that tokenizer"
            )

    @property
    def manifest(self) -> Manifest:
        """The corpus's manifest; a built-in corpus is built if it is not there yet.

        Raises:
            UserError: There is no such corpus, or it cannot be built.
        """
        if self._manifest is None:
            folder = self.root
            if self.root.startswith(PREFIX):
                folder = str(builtin_corpus(self.root, self.tokenizer or "ascii", progress_bar))
            self._manifest = read_manifest(folder)
        return self._manifest

    @property
    def num_classes(self) -> int:
        """Number of ids in the vocabulary."""
        if self.root.startswith(PREFIX) and (plain := PLAIN.get(self.tokenizer or "ascii")):
            return plain.vocab_size  # known before the corpus is built
        return self.manifest.vocab_size

    @property
    def token_bytes(self) -> np.ndarray:
        """Bytes of UTF-8 that each id stands for, uint16 ``[vocabulary]``."""
        return self.manifest.tokenizer().token_bytes

    @property
    def tokenizer_identity(self) -> str:
        """A text that differs from that of any tokenizer with other ids."""
        return self.manifest.tokenizer().identity

    def prepare_data(self) -> None:
        """Build a built-in corpus, if it is not there yet."""
        self.manifest  # noqa: B018

    def setup(self, stage: str) -> None:
        """Make the three splits."""
        if self.splits:
            return
        self.splits = {split: self._windows(split) for split in ("train", "val", "test")}

    def _windows(self, split: str) -> Windows:
        manifest = self.manifest
        tokens = manifest.splits[split].tokens
        usable, first = tokens - 1, 0  # the last target is one token further on
        if split == "train" and self.n is not None:
            first = self.draw * self.n
            if first + self.n > tokens:
                which = f" and data.draw {self.draw}" if self.draw else ""
                raise UserError(
                    f"data.n is {self.n}{which}, but {self.root} has {tokens} tokens to train on: choose a smaller n "
                    "(training for more tokens repeats them), or build a larger corpus"
                )
            usable = min(usable - first, self.n)
        if usable < self.context:
            raise UserError(
                f"data.context is {self.context}, but the {split} split of {self.root} has {max(0, usable)} tokens to "
                "take samples from: choose a smaller context, a larger data.n, or build a larger corpus"
            )
        length, most = usable // self.context, self.eval_samples.get(split)
        manifest.open(split)  # a damaged file is found before the training
        return Windows(manifest, split, self.context, length if most is None else min(most, length), first)
