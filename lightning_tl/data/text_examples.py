"""Prompts with responses as a data module: instruction tuning, and classification by the words of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import Dataset

from lightning_tl.corpus.bpe import load_tokenizer
from lightning_tl.corpus.manifest import MANIFEST, read_manifest
from lightning_tl.corpus.tokenizers import Tokenizer
from lightning_tl.data.batched_module import BatchedDataModule
from lightning_tl.data.subsets import split_off
from lightning_tl.data.text_templates import Example, Template, read_rows
from lightning_tl.errors import UserError, shortened

UNSCORED = -100  # a target without a loss
SPLITS = ("train", "val", "test")


class Examples(Dataset[Any]):
    """Tokenized examples: the separator, the prompt, a response and, where nothing else can follow, the separator.

    Args:
        ids: ``[N, K, T + 1]``, padded; K responses per example.
        begin: ``[N, K]``, place of the response's first id.
        end: ``[N, K]``, the place after the last id that is scored.
        answer: ``[N]``, which response is right.
        all_responses: Give all responses, and which one is right; else only the right one.
    """

    def __init__(
        self, ids: np.ndarray, begin: np.ndarray, end: np.ndarray, answer: np.ndarray, all_responses: bool
    ) -> None:
        self.ids, self.begin, self.end, self.answer, self.all_responses = ids, begin, end, answer, all_responses

    def __len__(self) -> int:
        return len(self.answer)

    def __getitem__(self, indices: int | Sequence[int]) -> Any:
        """Return a batch.

        Returns:
            Tokens and targets, int64 ``[B, T]``, T being that of the longest in the batch; targets are -100 outside the
            response. With all responses: tokens ``[B, K, T]``, and targets ``[B, K, T]`` with the answers ``[B]``.
        """
        numbers = np.array([indices] if isinstance(indices, int) else indices)
        chosen = (numbers,) if self.all_responses else (numbers, self.answer[numbers])
        begin, end = self.begin[chosen][..., None], self.end[chosen][..., None]
        ids = self.ids[chosen][..., : end.max()].astype(np.int64)  # not padded beyond the longest of the batch
        places = np.arange(1, ids.shape[-1])
        targets = np.where((places >= begin) & (places < end), ids[..., 1:], UNSCORED)
        tokens, scored = torch.from_numpy(np.ascontiguousarray(ids[..., :-1])), torch.from_numpy(targets)
        if not self.all_responses:
            return tokens, scored
        return tokens, (scored, torch.from_numpy(self.answer[numbers]))


class TextExamples(BatchedDataModule):
    """Prompts with responses, from JSON lines; the loss is on the response only.

    With ``template.choices`` it is classification: training is on the words of the right class; validation and test
    give the words of every class, to be scored by their likelihood per token.

    Args:
        root: A ``.jsonl`` file, of which validation and test are split off, or a folder with ``train.jsonl``,
            ``val.jsonl`` and ``test.jsonl``.
        tokenizer: That of the model's pre-training: a corpus folder, ``ascii``, ``bytes``, or a ``tokenizer.json``.
        template: How an example is made of a row.
        n: Training examples (``None``: all): the first ones in an order that ``draw`` gives, so a smaller ``n`` is part
            of a larger one.
        draw: Which order.
        context: Most tokens of an example. Of a longer one the beginning of the prompt is left out.
        val_share: Share of a single file's examples for validation.
        test_share: The same for test.
        batch_size: Examples in a training batch.
        shared: Arguments of :class:`BatchedDataModule`.

    Raises:
        UserError: A file is missing or broken, the template does not fit, or a number is out of range.
    """

    task = "language"
    augmented = False

    def __init__(
        self,
        root: str | Path,
        tokenizer: str,
        template: Template | None = None,
        n: int | None = None,
        draw: int = 0,
        context: int = 128,
        val_share: float = 0.1,
        test_share: float = 0.1,
        batch_size: int = 32,
        **shared: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **shared)
        for name, value, least in (("n", n, 1), ("draw", draw, 0), ("context", context, 2)):
            if value is not None and value < least:
                raise UserError(f"data.{name} is {value}; it must be at least {least}")
        self.root, self.template, self.n, self.draw = Path(root), template or Template(), n, draw
        self.template.check()
        self.shares = {"val": val_share, "test": test_share}
        self.context = self.sample_tokens = context
        self.tokenizer = _tokenizer(tokenizer)
        self.num_classes = self.tokenizer.vocab_size
        self.token_bytes = self.tokenizer.token_bytes
        self.tokenizer_identity = self.tokenizer.identity
        self.choices = self.template.names

    def setup(self, stage: str) -> None:
        """Read and tokenize the examples of the three splits."""
        if self.splits:
            return
        parts = self._parts()
        order = np.random.default_rng(self.draw).permutation(len(parts["train"]))
        if self.n is not None and self.n > len(order):
            raise UserError(f"data.n is {self.n}, but {self.root} has {len(order)} examples to train on")
        parts["train"] = [parts["train"][number] for number in order[: self.n]]
        self.splits = {name: self._examples(name, examples) for name, examples in parts.items()}

    def _parts(self) -> dict[str, list[Example]]:
        """Return the examples of each split, each one once."""
        if not self.root.is_dir():
            examples = self._read(self.root)
            labels = np.array([each.answer for each in examples]) if self.choices else None
            parts = split_off(len(examples), labels, self.shares)
            return {name: [examples[number] for number in parts[name]] for name in SPLITS}
        found = {name: self._read(self.root / f"{name}.jsonl") for name in SPLITS}
        for name in ("val", "test"):
            if both := set(found["train"]).intersection(found[name]):
                raise UserError(
                    f"{self.root}: {len(both)} examples are in train.jsonl and in {name}.jsonl; delete them from one"
                )
        return found

    def _read(self, path: Path) -> list[Example]:
        examples = list(dict.fromkeys(self.template.example(row, where) for row, where in read_rows(path)))
        if not examples:
            raise UserError(f"{path}: no example in it")
        return examples

    def _examples(self, split: str, examples: list[Example]) -> Examples:
        separator = self.tokenizer.separator
        ending = [] if self.choices else [separator]  # a response ends; the words of a class are scored by themselves
        prompts = self.tokenizer.encode_batch([each.prompt for each in examples])
        words = sorted({word for each in examples for word in each.responses})
        encoded = {
            word: [*ids.tolist(), *ending] for word, ids in zip(words, self.tokenizer.encode_batch(words), strict=True)
        }
        longest = max(encoded, key=lambda word: len(encoded[word]))
        if len(encoded[longest]) > self.context:
            raise UserError(
                f"data.context is {self.context}, but the response '{longest[:40]}' of {split} has "
                f"{len(encoded[longest])} tokens: choose a larger context"
            )
        if split == "train":
            self._compare_with_whole(examples[0])
        rows: list[list[int]] = []
        begins: list[int] = []
        cut = 0
        for each, prompt in zip(examples, prompts, strict=True):
            before = [separator, *prompt.tolist()]
            cut += len(before) + max(len(encoded[word]) for word in each.responses) > self.context + 1
            for word in each.responses:
                room = self.context + 1 - len(encoded[word])
                kept = before[-room:]
                rows.append([*kept, *encoded[word]])
                begins.append(len(kept))
        if cut:
            rank_zero_info(
                f"{self.root}: {cut} of {len(examples)} examples of {split} are longer than data.context "
                f"({self.context} tokens): the beginning of their prompts is left out"
            )
        count, width = len(examples[0].responses), max(map(len, rows))
        ids = np.full((len(rows), width), separator, self.tokenizer.dtype)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        return Examples(
            ids.reshape(-1, count, width),
            np.array(begins).reshape(-1, count),
            np.array([len(row) for row in rows]).reshape(-1, count),
            np.array([each.answer for each in examples], np.int64),
            bool(self.choices) and split != "train",
        )

    def _compare_with_whole(self, example: Example) -> None:
        """Warn where a prompt and its response give other tokens than their text as a whole.

        A pre-trained model has seen whole texts: where the tokens differ, it is asked for some that it has hardly seen.
        """
        prompt, response = example.prompt, example.responses[example.answer]
        whole = self.tokenizer.encode(prompt + response).tolist()
        parts = [each.tolist() for each in self.tokenizer.encode_batch([prompt, response])]
        if whole != parts[0] + parts[1]:
            rank_zero_warn(
                f"{self.root}: '{shortened(response, 40)}' after '…{prompt[-20:]}' has other tokens than in the text "
                f"as a whole ({len(parts[1])} after {len(parts[0])}, and {len(whole)} as a whole): in data.template, "
                "move the space between prompt and response to the other one, or leave it out"
            )


def _tokenizer(setting: str) -> Tokenizer:
    if (Path(setting) / MANIFEST).is_file():
        return read_manifest(setting).tokenizer()
    return load_tokenizer(setting)
