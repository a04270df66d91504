"""Learning-rate schedules by step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_tl.errors import UserError


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

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            share = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return 0.5 * (1 + math.cos(math.pi * share))

        super().__init__(optimizer, factor)
