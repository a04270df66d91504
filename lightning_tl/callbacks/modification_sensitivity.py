"""ModificationSensitivity: how much the loss rises when weights are quantised or pruned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_tl.callbacks.measurement import LossMeasurement
from lightning_tl.measure.modification_measure import ModificationMeasure


class ModificationSensitivity(LossMeasurement):
    """Log the loss of quantised and of pruned weights: what compressing this checkpoint would cost, without training.

    Sensitivity to a change of the weights in the sense of Springer et al. (2025), Definition 4.2. That models lose more
    by quantisation the longer they are pre-trained is reported in arXiv 2411.04330. All tensors of two or more
    dimensions are changed, embeddings too (``exclude="embed"`` leaves them out), but not biases and gains.

    Args:
        quantise: Numbers of bits; weights are rounded to nearest, symmetrically
            (:class:`~lightning_tl.measure.modifications.Quantise`). Empty: none.
        prune: Shares of the weights, the smallest ones, that are set to zero
            (:class:`~lightning_tl.measure.modifications.Prune`). Empty: none.
        group: Number of weights of an output channel that share a scale; None: the whole channel.
        by: Prune the smallest of each ``tensor``, or of each output channel (``row``).
        every_n_steps: As for :class:`~lightning_tl.callbacks.measurement.LossMeasurement`, also the other arguments.
        kwargs: As there.

    Logs:
        ``quantisation_rise/gamma_<bits>`` and ``pruning_rise/gamma_<share>``: the rise of the loss, with ``…_stderr``
        over the probe batches of all processes if there are at least two; ``quantised_loss/gamma_<bits>`` and
        ``pruned_loss/gamma_<share>``; at ``gamma_0`` the loss of the weights as they are; ``modification/seconds``.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> trainer = Trainer(callbacks=[ModificationSensitivity(quantise=[8, 4], prune=[0.5])])  # doctest: +SKIP
    """

    def __init__(
        self,
        quantise: Sequence[float] = (8, 4, 3),
        prune: Sequence[float] = (0.3, 0.5, 0.7),
        group: int | None = None,
        by: str = "tensor",
        every_n_steps: int | None = 500,
        **kwargs: Any,
    ) -> None:
        super().__init__(ModificationMeasure(quantise, prune, group, by), every_n_steps=every_n_steps, **kwargs)
