"""Losses of a checkpoint as records: means with standard errors."""

from __future__ import annotations

import numpy as np

from lightning_tl.measured_value import Measured
from lightning_tl.offline.loss_tables import LossTables, mean_and_error

#: Table → quantity of the loss, and of its rise ("": none, as it is another text's). ``gamma`` of a record holds
#: the strength: γ, bits, the share, or the learning rate.
MODIFIED = {
    "noise": ("perturbed_loss", "sensitivity"),
    "quantised": ("quantised_loss", "quantisation_rise"),
    "pruned": ("pruned_loss", "pruning_rise"),
    "finetuned": ("finetune_loss", ""),
    "forgotten": ("pretrain_loss_after", "pretrain_rise"),
}
#: Table → what its strengths are.
STRENGTHS = {"noise": "gamma", "quantised": "bits", "pruned": "share", "finetuned": "lr", "forgotten": "lr"}


def strength_of(record: Measured) -> str:
    """Return what ``gamma`` of a record is: ``gamma``, ``bits``, ``share`` or ``lr``."""
    return next((STRENGTHS[table] for table, pair in MODIFIED.items() if record.quantity in pair), "gamma")


def key_of(record: Measured) -> str:
    """Return the name of a value: ``hessian/trace``, ``perturbed_loss/gamma_0.02``, ``finetune_loss/lr_0.001``."""
    return record.key if record.gamma is None else f"{record.quantity}/{strength_of(record)}_{record.gamma:g}"


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
    if tables.target:
        mean, error = mean_and_error(np.array(tables.target)[None])
        error_of_mean = error if len(tables.target) > 1 else None
        records.append(Measured(step=step, quantity="finetune_loss", gamma=0, value=mean, stderr=error_of_mean))
    for table, quantities in MODIFIED.items():
        for strength, rows in getattr(tables, table).items():
            losses = np.array(rows)
            pairs = [(quantities[0], losses)] + ([(quantities[1], losses - plain)] if quantities[1] else [])
            for quantity, values in pairs:
                known = values if over_batches else values.mean(axis=1, keepdims=True)
                mean, error = mean_and_error(known)
                errors = error if known.size > 1 else None
                records.append(Measured(step=step, quantity=quantity, gamma=strength, value=mean, stderr=errors))
    return records
