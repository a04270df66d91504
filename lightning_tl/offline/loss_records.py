"""Losses of a checkpoint as records: means with standard errors."""

from __future__ import annotations

import numpy as np

from lightning_tl.measured_value import Measured
from lightning_tl.offline.loss_tables import LossTables, mean_and_error

#: Table → quantity of the loss, and of its rise. ``gamma`` of a record holds the strength: γ, bits, or the share.
MODIFIED = {
    "noise": ("perturbed_loss", "sensitivity"),
    "quantised": ("quantised_loss", "quantisation_rise"),
    "pruned": ("pruned_loss", "pruning_rise"),
}


def loss_records(tables: LossTables, step: int, over_batches: bool = True) -> list[Measured]:
    """Return the means of losses and of their rises as records.

    Args:
        tables: The losses.
        step: Of the checkpoint.
        over_batches: Standard errors cover draws and the choice of the batches; that of a rise is of the rise batch by
            batch, and so smaller than that of the two losses. Else they are over draws for these batches, as those of
            the callbacks.
    """
    plain = np.array(tables.plain)[None]
    mean, error = mean_and_error(plain)
    stderr = error if over_batches and plain.size > 1 else None
    records = [Measured(step=step, quantity="perturbed_loss", gamma=0, value=mean, stderr=stderr)]
    for table, quantities in MODIFIED.items():
        for strength, rows in getattr(tables, table).items():
            losses = np.array(rows)
            for quantity, values in zip(quantities, (losses, losses - plain), strict=True):
                known = values if over_batches else values.mean(axis=1, keepdims=True)
                mean, error = mean_and_error(known)
                errors = error if known.size > 1 else None
                records.append(Measured(step=step, quantity=quantity, gamma=strength, value=mean, stderr=errors))
    return records
