"""The loss of one checkpoint under each modification of its weights, by draw of noise and by batch.

Losses of single batches and draws are kept, since checkpoints are compared on the same batches under the same draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from lightning_tl.measure.modify import Noise, modified_loss
from lightning_tl.measure.objective import Objective

Array = np.ndarray


@dataclass(frozen=True)
class LossTables:
    """Losses of one checkpoint.

    Attributes:
        plain: Of the weights as they are, by batch.
        noise: By γ, by draw, by batch: the mean of the two of an antithetic pair.
    """

    plain: list[float]
    noise: dict[float, list[list[float]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain types with keys that are text."""
        return {
            name: {str(key): item for key, item in value.items()} if isinstance(value, dict) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LossTables:
        """Return what :meth:`to_json` was made of."""
        noise = {float(gamma): rows for gamma, rows in content["noise"].items()}
        return cls(list(content["plain"]), noise)


def loss_tables(
    objective: Objective, scales: Mapping[str, Tensor] | None, gammas: Sequence[float], draws: int, seed: int
) -> LossTables:
    """Measure the loss of each batch without and with noise of each scale, as ``perturbation_sensitivity`` does.

    Args:
        objective: Loss, batches and parameters.
        scales: √Σ by parameter; None: no noise.
        gammas: Scales γ of the noise.
        draws: Antithetic pairs per scale.
        seed: Of the noise, equal for all checkpoints.
    """
    if scales is None:
        with objective.measuring():
            return LossTables(objective.batch_losses().tolist())
    levels = modified_loss(objective, Noise(scales, seed), gammas, draws)
    noise = {level.strength: [list(row) for row in level.by_batch] for level in levels}
    return LossTables(list(levels[0].loss_by_batch), noise)


def mean_and_error(values: Array) -> tuple[float, float]:
    """Return the mean of losses ``[draws, batches]``, and its standard error over both.

    Draws and batches are crossed: the variance of the mean is that of the draws' means over their number, plus that of
    the batches' means over theirs; what both share is counted twice, so that it is rather too large.
    """
    variance = sum(
        float(values.mean(axis=1 - axis).var(ddof=1)) / values.shape[axis] for axis in (0, 1) if values.shape[axis] > 1
    )
    return float(values.mean()), variance**0.5
