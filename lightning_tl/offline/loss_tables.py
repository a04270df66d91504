"""The losses of one checkpoint under each modification of its weights, by draw of noise and by batch.

Losses of single batches and draws are kept, since checkpoints are compared on the same batches under the same draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from lightning_tl.measure.modifications import Modification, Noise, Prune, Quantise, channel_dims
from lightning_tl.measure.modify import modified_loss
from lightning_tl.measure.objective import Objective
from lightning_tl.offline.measure_options import MeasureOptions

Array = np.ndarray
Strengths = dict[float, list[list[float]]]
"""Strength of a modification → losses by draw (one, where nothing is drawn), by batch."""


@dataclass(frozen=True)
class LossTables:
    """Losses of one checkpoint.

    Attributes:
        plain: Of the weights as they are, by batch.
        noise: By γ; of the antithetic pairs, the mean.
        quantised: By number of bits.
        pruned: By share of the weights that is set to 0.
        forgotten: After fine-tuning on another text, by learning rate; a row per draw of that text.
        finetuned: Likewise, but on held-out windows of that text.
        target: On these windows before fine-tuning, by batch.
    """

    plain: list[float]
    noise: Strengths = field(default_factory=dict)
    quantised: Strengths = field(default_factory=dict)
    pruned: Strengths = field(default_factory=dict)
    forgotten: Strengths = field(default_factory=dict)
    finetuned: Strengths = field(default_factory=dict)
    target: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain types with keys that are text."""
        return {
            name: {str(key): item for key, item in value.items()} if isinstance(value, dict) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LossTables:
        """Return what :meth:`to_json` was made of."""
        by_strength: dict[str, Any] = {
            name: {float(strength): rows for strength, rows in content.get(name, {}).items()}
            for name in ("noise", "quantised", "pruned", "forgotten", "finetuned")
        }
        return cls(plain=list(content["plain"]), target=list(content.get("target", [])), **by_strength)


def loss_tables(objective: Objective, scales: Mapping[str, Tensor] | None, options: MeasureOptions) -> LossTables:
    """Measure the loss of each batch as it is, and under the modifications that are asked for.

    Args:
        objective: Loss, batches and parameters.
        scales: √Σ by parameter, for noise; None: no noise.
        options: Which modifications, their strengths, and the number of draws.
    """
    dims = channel_dims(objective.module)
    wanted: dict[str, tuple[Modification, Any]] = {}
    if scales is not None:
        wanted["noise"] = (Noise(scales, options.seed), options.gammas)
    if "quantise" in options.quantities:
        wanted["quantised"] = (Quantise(channel_dims=dims), options.bits)
    if "prune" in options.quantities:
        wanted["pruned"] = (Prune(channel_dims=dims), options.sparsities)
    plain: list[float] = []
    tables: dict[str, Any] = {}
    for name, (modification, strengths) in wanted.items():
        levels = modified_loss(objective, modification, strengths, options.draws)
        tables[name] = {level.strength: [list(row) for row in level.by_batch] for level in levels}
        plain = list(levels[0].loss_by_batch)
    if not plain:
        with objective.measuring():
            plain = objective.batch_losses().tolist()
    return LossTables(plain, **tables)


def mean_and_error(values: Array) -> tuple[float, float]:
    """Return the mean of losses ``[draws, batches]``, and its standard error over both.

    Draws and batches are crossed: the variance of the mean is that of the draws' means over their number, plus that of
    the batches' means over theirs; what both share is counted twice, so that it is rather too large.
    """
    variance = sum(
        float(values.mean(axis=1 - axis).var(ddof=1)) / values.shape[axis] for axis in (0, 1) if values.shape[axis] > 1
    )
    return float(values.mean()), variance**0.5
