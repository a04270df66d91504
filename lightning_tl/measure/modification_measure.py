"""The loss of quantised and pruned weights, along a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_tl.errors import UserError
from lightning_tl.measure.measures import Measure, Site
from lightning_tl.measure.modifications import Modification, Prune, Quantise, channel_dims
from lightning_tl.measure.modify import modified_loss
from lightning_tl.measured_value import Measured


class ModificationMeasure(Measure):
    """The loss of changed weights; arguments as for ``ModificationSensitivity`` (callbacks/modification.py)."""

    name = "modification"

    def __init__(
        self,
        quantise: Sequence[float] = (8, 4, 3),
        prune: Sequence[float] = (0.3, 0.5, 0.7),
        group: int | None = None,
        by: str = "tensor",
    ) -> None:
        self.group, self.by = group, by
        quantised, pruned = Quantise(group), Prune(by)
        self.quantise = quantised.check(quantise) if len(quantise) else []
        self.prune = pruned.check(prune) if len(prune) else []
        if not self.quantise and not self.prune:
            raise UserError("there is nothing to measure: give quantise= numbers of bits, or prune= shares of weights")

    def measure(self, site: Site) -> list[Measured]:
        """Return losses and their rises."""
        objective = site.objective()
        dims = channel_dims(objective.module)
        kinds: list[tuple[str, str, Modification, list[float]]] = [
            ("quantisation_rise", "quantised_loss", Quantise(self.group, dims), self.quantise),
            ("pruning_rise", "pruned_loss", Prune(self.by, dims), self.prune),
        ]
        records = []
        for rise, loss, modification, strengths in kinds:
            for index, level in enumerate(modified_loss(objective, modification, strengths) if strengths else []):
                if index == 0:
                    records.append(site.record(loss, level.loss, gamma=0))
                stderr = None if math.isnan(level.batch_stderr) else level.batch_stderr
                records.append(site.record(rise, level.change, gamma=level.strength, stderr=stderr))
                records.append(site.record(loss, level.modified_loss, gamma=level.strength))
        return records
