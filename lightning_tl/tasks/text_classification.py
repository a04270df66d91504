"""Classification by a language model: the class whose words are likeliest after the prompt."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from lightning_tl.tasks.base import wrong_batch
from lightning_tl.tasks.image_results import ImageResults, MeanScores
from lightning_tl.tasks.language import IGNORED, CausalLanguageModel


class TextClassification(CausalLanguageModel):
    """``language``: the class whose words have the highest likelihood per token after the prompt; score: accuracy.

    Training is language modelling of the right class's words, in batches as of :class:`CausalLanguageModel`. Validation
    and test have batches ``(tokens [B, K, T], (targets [B, K, T], answers [B]))``, all int64: the prompt with the words
    of each of K classes, targets -100 outside the words, and the right class.

    A class's score is the mean log-likelihood of its words' tokens, and its probability the softmax of the scores over
    classes (Springer et al. 2025, §3: the length-normalised likelihood). The loss outside training is the cross-entropy
    of these probabilities, in nats per example; ``perplexity`` is its exponential, from 1 (sure and right) to K
    (guessing evenly) and beyond.

    Its arguments are those of :class:`CausalLanguageModel`.
    """

    def class_scores(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean log-likelihood per token of each class's words, ``[B, K]``.

        Args:
            tokens: Prompt and words, ``[B, K, T]``.
            targets: The tokens that follow, -100 outside the words, ``[B, K, T]``.
        """
        logits = self(tokens.flatten(0, 1))
        nats = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(targets.shape)
        return -nats.sum(2) / (targets != IGNORED).sum(2).clamp(min=1)

    def outputs_and_loss(self, images: Any, targets: Any, stage: str) -> tuple[Any, Tensor]:
        """Return the scores of the classes and their cross-entropy; in training, logits and that of the tokens."""
        if stage == "train":
            return super().outputs_and_loss(images, targets, stage)
        words, answers = targets
        scores = self.class_scores(images, words)
        return scores, F.cross_entropy(scores, answers)

    def batch_weight(self, images: Any, targets: Any) -> int:
        """Return the number of examples: losses of batches are averaged by it."""
        return len(images)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the scores of the classes."""
        tokens, (words, _) = batch
        return self.class_scores(tokens, words)

    def build_metric(self) -> Metric:
        """Return the accuracy and the perplexity over the classes."""
        return _Choice()

    def build_image_results(self) -> ImageResults:
        """Return whether each example is right."""
        return _RightChoice()

    def check_batch(self, images: Any, targets: Any, stage: str) -> None:
        """Refuse what are no tokens with the words of each class."""
        if stage == "train":
            super().check_batch(images, targets, stage)
            return
        expected = "int64 tokens [B, K, T] with (int64 targets [B, K, T], int64 answers [B])"
        tensors = [images, *(targets if isinstance(targets, list | tuple) else [targets])]
        if len(tensors) != 3 or not all(isinstance(one, Tensor) and one.dtype == torch.int64 for one in tensors):
            raise wrong_batch(self, expected, tensors)
        words, answers = tensors[1:]
        if images.ndim != 3 or words.shape != images.shape or answers.shape != images.shape[:1]:
            raise wrong_batch(self, expected, tensors)
        self.check_tokens(images, words)


class _Choice(Metric):
    """Share of right classes, and the exponential of the mean cross-entropy over classes."""

    full_state_update = False
    sums: Tensor  # nats, right, examples

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Any) -> None:
        answers = targets[1]
        nats = F.cross_entropy(outputs, answers, reduction="sum")
        right = (outputs.argmax(1) == answers).sum()
        self.sums += torch.stack([nats, right, torch.full_like(right, len(answers))])

    def compute(self) -> dict[str, Tensor]:
        nats, right, examples = self.sums
        return {"score": (right / examples).float(), "perplexity": (nats / examples).exp().float()}


class _RightChoice(MeanScores):
    def sums(self, outputs: Tensor, targets: Any) -> Tensor:
        right: Tensor = outputs.argmax(1) == targets[1]
        return right
