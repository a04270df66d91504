"""The loss under changed weights. One interface for all changes: :mod:`~lightning_tl.measure.modifications`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.modifications import Modification
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.virtual import CannotSubstitute

T = TypeVar("T")


@dataclass(frozen=True)
class ModifiedLoss:
    """The loss under one modification of one strength.

    Attributes:
        strength: The strength.
        loss: L(θ), without modification.
        modified_loss: The loss with it; the mean over draws.
        change: Their difference.
        stderr: The standard error of the change over draws, for these batches; 0 without draws.
        batch_stderr: Its standard error over batches, the batches being a sample; NaN if there is only one.
        draws: The modified loss of each draw.
        by_batch: The modified loss by draw and by batch of this process; of antithetic pairs, the mean.
        loss_by_batch: L(θ) by batch of this process.
        seconds: Wall time of the whole measurement, all strengths.
    """

    strength: float
    loss: float
    modified_loss: float
    change: float
    stderr: float
    batch_stderr: float
    draws: tuple[float, ...]
    by_batch: tuple[tuple[float, ...], ...]
    loss_by_batch: tuple[float, ...]
    seconds: float = 0.0


def modified_loss(
    objective: Objective, modification: Modification, strengths: Sequence[float], draws: int = 8
) -> list[ModifiedLoss]:
    """Measure the loss under a modification of the weights: its sensitivity in the sense of Springer et al. (Def. 4.2).

    All strengths use the same draws. Costs one forward pass over the batches and one for each strength, and twice as
    many per draw for noise. Weights of a sharded or half-precision module, or with ``substitute``, are never written.

    Args:
        objective: Loss, batches and parameters.
        modification: of :mod:`~lightning_tl.measure.modifications`, or one's own.
        strengths: The strengths.
        draws: Number of draws, at least 2, for a random modification.

    Raises:
        UserError: A strength or the number of draws is out of range.
    """
    if not isinstance(modification, Modification):
        raise UserError(f"modification must be of a subclass of Modification; it is a {type(modification).__name__}")
    strengths = modification.check(strengths)
    if modification.random and draws < 2:
        raise UserError(f"draws={draws}: a standard error needs at least 2")
    start = time.perf_counter()

    def run() -> tuple[Tensor, dict[float, list[Tensor]]]:
        tables: dict[float, list[Tensor]] = {strength: [] for strength in strengths}
        with objective.measuring(), applying(objective, modification) as apply:
            plain = objective.batch_losses()
            for draw in range(draws if modification.random else 1):
                for strength, rows in tables.items():
                    apply(strength, draw)
                    row = objective.batch_losses()
                    if modification.antithetic:
                        apply(-strength, draw)
                        row = (row + objective.batch_losses()) / 2
                    rows.append(row)
        return plain, tables

    plain, tables = with_fallback(objective, run)
    seconds = time.perf_counter() - start
    base = objective.mean(plain)
    levels = []
    for strength, rows in tables.items():
        by_draw = torch.tensor([objective.mean(row) for row in rows], dtype=torch.float64)
        mean = float(by_draw.mean())
        table = torch.stack(rows)
        levels.append(
            ModifiedLoss(
                strength=strength,
                loss=base,
                modified_loss=mean,
                change=mean - base,
                stderr=float(by_draw.std()) / len(by_draw) ** 0.5 if modification.random else 0.0,
                batch_stderr=over_batches(objective, table.mean(0) - plain),
                draws=tuple(by_draw.tolist()),
                by_batch=tuple(tuple(row) for row in table.tolist()),
                loss_by_batch=tuple(plain.tolist()),
                seconds=seconds,
            )
        )
    return levels


@contextmanager
def applying(objective: Objective, modification: Modification) -> Iterator[Callable[[float, int], None]]:
    """Yield a function ``(strength, draw)`` that changes the weights for the next evaluations; they are restored.

    Args:
        objective: Inside its ``measuring()`` context.
        modification: The change.
    """
    if objective.substitute:

        def substitute(strength: float, draw: int = 0) -> None:
            objective.make = partial(modification.__call__, strength=strength, draw=draw)

        try:
            yield substitute
        finally:
            objective.make = None
        return
    centre = {name: parameter.detach().clone() for name, parameter in objective.params.items()}

    def write(strength: float, draw: int = 0) -> None:
        with torch.no_grad():
            for name, parameter in objective.params.items():
                modification.write(parameter, name, centre[name], strength, draw)
        torch.clear_autocast_cache()

    with modification.reusing():
        try:
            yield write
        finally:
            with torch.no_grad():
                for name, parameter in objective.params.items():
                    parameter.copy_(centre[name])


def with_fallback(objective: Objective, run: Callable[[], T]) -> T:
    """Run a measurement; if weights cannot be substituted but may be written, once more, writing."""
    try:
        return run()
    except CannotSubstitute:
        if objective.must_substitute:
            raise
    objective.substitute = False
    return run()


def over_batches(objective: Objective, by_batch: Tensor) -> float:
    """Return the standard error of the mean of one number per batch, over the batches of all processes."""
    processes = objective.process[1]
    weights = torch.tensor(objective.weights, dtype=torch.float64, device=by_batch.device)
    count = float(objective.reduce(torch.tensor(float(len(weights)), device=by_batch.device))) * processes
    if count < 2:
        return math.nan
    squares = (weights * (by_batch - objective.mean(by_batch))).square().sum()
    return math.sqrt(float(objective.reduce(squares)) / processes * count / (count - 1))
