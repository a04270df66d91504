"""The loss of one checkpoint under each modification of its weights, by draw of noise and by batch.

Losses of single batches and draws are kept, since checkpoints are compared on the same batches under the same draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_tl.measure.objective import Objective
from lightning_tl.measure.perturbation import _draw, _moving

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

    def losses() -> list[float]:
        objective.settle()
        return [float(objective.batch_loss(index, graph=False)) for index in range(len(objective.batches))]

    noise: dict[float, list[list[float]]] = {gamma: [] for gamma in gammas} if scales else {}
    with objective.measuring(), _moving(objective) as move:
        plain = losses()
        if scales:
            epsilon = [torch.empty_like(p) for p in objective.tensors]
            for draw in range(draws):
                _draw(epsilon, [scales[name] for name in objective.params], seed, draw)
                for gamma in gammas:
                    pair = []
                    for sign in (gamma, -gamma):
                        move(epsilon, sign)
                        pair.append(losses())
                    noise[gamma].append([(a + b) / 2 for a, b in zip(*pair, strict=True)])
    return LossTables(plain, noise)


def mean_and_error(values: Array) -> tuple[float, float]:
    """Return the mean of losses ``[draws, batches]``, and its standard error over both.

    Draws and batches are crossed: the variance of the mean is that of the draws' means over their number, plus that of
    the batches' means over theirs; what both share is counted twice, so that it is rather too large.
    """
    variance = sum(
        float(values.mean(axis=1 - axis).var(ddof=1)) / values.shape[axis] for axis in (0, 1) if values.shape[axis] > 1
    )
    return float(values.mean()), variance**0.5
