"""ParameterDistance: how far training has moved the weights."""

from __future__ import annotations

from typing import Any

from lightning_tl.callbacks.measurement import Measurement
from lightning_tl.measure.distance_measure import DistanceMeasure, DistanceReference


class ParameterDistance(Measurement):
    """Log the L2 distance between the weights and a reference (Springer et al. 2025, Fig. 8).

    Args:
        reference: ``start``: the weights at the start of the run (after a checkpoint to initialise from was loaded),
            kept in the checkpoints; a parameter that is unfrozen later counts from then on. Or the path of a
            checkpoint, a state dict, or a module.
        every_n_steps: As for :class:`~lightning_tl.callbacks.measurement.Measurement`, also the other arguments.
        kwargs: As there. ``exclude="^head"`` leaves out a new head.

    Logs:
        ``param_distance/total``, ``param_distance/<group>``, ``param_distance/relative`` (to the reference's norm),
        ``param_distance/cosine``, ``param_distance/seconds``. Parameters that the reference lacks are left out, and a
        warning names them once. Pruned parameters are compared with their masks applied. With LoRA
        adapters also ``param_distance/merged/<layer>``, how far they have moved the layer's merged weight, and
        ``param_distance/merged``, over all layers (:func:`~lightning_tl.measure.lora.merged_distance`).

    Raises:
        UserError: The reference cannot be read, or shares no parameter with the module.

    Example:
        >>> trainer = Trainer(callbacks=[ParameterDistance(exclude="^head")])  # doctest: +SKIP
    """

    def __init__(self, reference: DistanceReference = "start", every_n_steps: int | None = 50, **kwargs: Any) -> None:
        super().__init__(DistanceMeasure(reference), every_n_steps=every_n_steps, **kwargs)
