"""Learning-rate schedules: by step, or with their lengths in images, whatever the batch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_tl.errors import UserError


def warmed_up(step: int, total: int, warmup: int, decay: Callable[[float], float]) -> float:
    """Return the factor on the peak rate: a linear warm-up, then ``decay`` of the share of the rest that is done."""
    if step < warmup:
        return (step + 1) / warmup
    return decay(min(1.0, (step - warmup) / (total - warmup)))


def cosine(share: float) -> float:
    """Return half a cosine, from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * share))


class WarmupCosine(LambdaLR):
    """Linear warm-up over ``warmup_steps``, then half a cosine down to 0 at ``total_steps``.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Steps of the whole training.
        warmup_steps: Steps of the warm-up.

    Raises:
        UserError: The warm-up is not shorter than the training.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise UserError(
                f"WarmupCosine: total_steps is {total_steps} and warmup_steps {warmup_steps}; "
                "the warm-up must be shorter than the training"
            )
        super().__init__(optimizer, lambda step: warmed_up(step, total_steps, warmup_steps, cosine))


class Schedule:
    """Length and learning rates of a training, in images or tokens; steps follow from the batch at hand.

    The base class of :class:`Cosine` and :class:`Polynomial`.

    The batch at hand is the data module's ``batch_size`` × ``accumulate_grad_batches`` × devices × nodes.

    Args:
        images: Length of the training in images (for text: in samples), where repeated visits count.
        epochs: The length in passes over the training images instead.
        tokens: The length in tokens of text instead.
        warmup_images: Length of the linear warm-up.
        warmup_epochs: The same in passes.
        warmup_share: The same as a share of the whole training.
        batch: The batch that the optimiser's learning rate belongs to (``None``: whatever batch there is).
        scale_lr: For another batch than that: ``none`` keeps the rate, ``linear`` multiplies it by (batch at hand) /
            ``batch`` (Goyal et al., *Accurate, Large Minibatch SGD*, 2017).

    Raises:
        UserError: Not exactly one length, a length out of range, ``linear`` without ``batch``.
    """

    def __init__(
        self,
        images: int | None = None,
        epochs: float | None = None,
        tokens: int | None = None,
        warmup_images: int = 0,
        warmup_epochs: float = 0,
        warmup_share: float = 0,
        batch: int | None = None,
        scale_lr: Literal["none", "linear"] = "none",
    ) -> None:
        if sum(length is not None for length in (images, epochs, tokens)) != 1:
            raise UserError("model.schedule: give its length once, either in images, in epochs or in tokens")
        lengths = {"images": images, "epochs": epochs, "tokens": tokens, "batch": batch}
        for name, value in lengths.items():
            if value is not None and value <= 0:
                raise UserError(f"model.schedule.{name} is {value}; it must be above 0")
        for name, value in {"warmup_images": warmup_images, "warmup_epochs": warmup_epochs}.items():
            if value < 0:
                raise UserError(f"model.schedule.{name} is {value}; it must be at least 0")
        if not 0 <= warmup_share < 1:
            raise UserError(f"model.schedule.warmup_share is {warmup_share}; it must be at least 0 and below 1")
        if sum(value > 0 for value in (warmup_images, warmup_epochs, warmup_share)) > 1:
            raise UserError("model.schedule: give the warm-up once: in images, in epochs, or as a share")
        if scale_lr == "linear" and batch is None:
            raise UserError("model.schedule.scale_lr is linear: give the batch that the learning rate belongs to")
        self.images, self.epochs, self.tokens = images, epochs, tokens
        self.warmup_images, self.warmup_epochs, self.warmup_share = warmup_images, warmup_epochs, warmup_share
        self.batch, self.scale_lr = batch, scale_lr

    @property
    def in_epochs(self) -> bool:
        """Whether a length is in passes over the training images, so that their number must be known."""
        return self.epochs is not None or self.warmup_epochs > 0

    def decay(self, share: float) -> float:
        """Return the factor on the peak rate after a share of the steps behind the warm-up: from 1 to 0."""
        raise NotImplementedError

    def steps(self, batch: int, train_images: int = 0, sample_tokens: int | None = None) -> tuple[int, int]:
        """Return the steps of the training and of its warm-up.

        Args:
            batch: Images a step, over all processes.
            train_images: Images in a pass; needed only for lengths in epochs.
            sample_tokens: Tokens of a sample; needed only for a length in tokens.

        Raises:
            UserError: The warm-up is not shorter than the training; a length in tokens of data that are no text.
        """
        images = self.images if self.images is not None else (self.epochs or 0) * train_images
        if self.tokens is not None:
            if sample_tokens is None:
                raise UserError(
                    "model.schedule.tokens is for text, and the data module does not say how many tokens a sample has: "
                    "give the length in images or in epochs"
                )
            images = self.tokens / sample_tokens
        warmup = self.warmup_images or self.warmup_epochs * train_images or self.warmup_share * images
        total, first = max(1, round(images / batch)), round(warmup / batch)
        if first >= total:
            raise UserError(
                f"model.schedule: at {batch} images a step, the warm-up takes {first} steps and the training {total}; "
                "the warm-up must be shorter than the training"
            )
        return total, first

    def build(
        self,
        optimizer: Optimizer,
        batch: int,
        train_images: int = 0,
        sample_tokens: int | None = None,
        parts: Sequence[int] = (),
    ) -> tuple[LambdaLR, int]:
        """Scale the optimiser's rates where that was asked for; return the schedule by step and its length in steps.

        Args:
            optimizer: A group's ``begin`` is the step before which its rate is 0.
            batch: Images a step, over all processes.
            train_images: Images in a pass; needed only for lengths in epochs.
            sample_tokens: Tokens of a sample; needed only for a length in tokens.
            parts: For a training in parts: the steps at which they start, the first of them 0, and the number of steps
                of the training. Each part goes through the whole schedule, with a warm-up of the same share. The last
                one ends with this schedule, or with the training where that is longer.
        """
        total, warmup = self.steps(batch, train_images, sample_tokens)
        if self.scale_lr == "linear" and self.batch is not None:
            for group in optimizer.param_groups:
                group["lr"] *= batch / self.batch
        *starts, last = parts or (0, total)
        ends = [*starts[1:], max(last, total)]

        def factor(step: int, begin: int) -> float:
            part = bisect_right(starts, step) - 1
            start, length = starts[part], ends[part] - starts[part]
            if step < begin:
                return 0.0
            return warmed_up(step - start, length, warmup * length // total, self.decay)

        begins = [group.get("begin", 0) for group in optimizer.param_groups]
        return LambdaLR(optimizer, [partial(factor, begin=begin) for begin in begins]), total


class Cosine(Schedule):
    """Linear warm-up, then half a cosine from the peak rate down to ``end``.

    Args:
        end: The last rate, as a share of the peak: 0 anneals to nothing, 1 keeps the rate constant.
        kwargs: Those of ``Schedule``.

    Raises:
        UserError: As ``Schedule``; an end outside [0, 1].
    """

    def __init__(self, end: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= end <= 1:
            raise UserError(f"model.schedule.end is {end}; it is a share of the peak rate, from 0 to 1")
        self.end = end

    def decay(self, share: float) -> float:
        """Return half a cosine from 1 to ``end``."""
        return self.end + (1 - self.end) * cosine(share)


class Polynomial(Schedule):
    """Linear warm-up, then (1 − share)^power down to 0: the "poly" schedule of semantic segmentation.

    Args:
        power: The exponent.
        kwargs: Those of ``Schedule``.

    Raises:
        UserError: As ``Schedule``; a power that is not above 0.
    """

    def __init__(self, power: float = 0.9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if power <= 0:
            raise UserError(f"model.schedule.power is {power}; it must be above 0")
        self.power = power

    def decay(self, share: float) -> float:
        """Return (1 − share)^power."""
        return float((1 - share) ** self.power)
