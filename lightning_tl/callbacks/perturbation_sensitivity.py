"""PerturbationSensitivity: how much the loss rises under noise in the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_tl.callbacks.measurement import LossMeasurement
from lightning_tl.measure.measures import SensitivityMeasure
from lightning_tl.measure.noise_scales import NoiseKind, Reference


class PerturbationSensitivity(LossMeasurement):
    """Log the loss under Gaussian noise in the weights (Springer et al. 2025, §3.3, App. C.2).

    Args:
        gammas: Scales γ of the noise ε ~ N(0, γ²Σ).
        draws: Antithetic pairs ±ε per scale; the same at every measurement of a run, so that they can be compared.
        noise: ``init``: Σ is, by tensor, the variance of its initialisation distribution; ``relative``: to the norm
            of the tensor (of each filter, for convolutions); ``isotropic``: Σ = 1.
        reference: For ``init``, if the initialisation cannot be read from the module itself
            (:func:`~lightning_tl.measure.initialisation.own_initialisation`): a function that builds a fresh module; or
            a freshly initialised module, its state dict, or the path of one.
        every_n_steps: As for :class:`~lightning_tl.callbacks.measurement.LossMeasurement`, also the other arguments.
        kwargs: As there.

    Attributes:
        draw_history: For each measurement, γ → perturbed losses of the draws.
        doubts: With ``init``, sentences on layers whose initialisation is not certain (also warned of); else empty.

    Logs:
        For each γ ``sensitivity/gamma_<γ>`` = E[L(θ + ε) − L(θ)], ``sensitivity/gamma_<γ>_stderr`` and
        ``perturbed_loss/gamma_<γ>`` = E[L(θ + ε)]; ``perturbed_loss/gamma_0`` = L(θ); ``sensitivity/seconds``.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> trainer = Trainer(callbacks=[PerturbationSensitivity(gammas=[0.01, 0.02])])  # doctest: +SKIP
    """

    def __init__(
        self,
        gammas: Sequence[float] = (0.01, 0.02),
        draws: int = 8,
        noise: NoiseKind = "init",
        reference: Reference = None,
        every_n_steps: int | None = 500,
        **kwargs: Any,
    ) -> None:
        self.of_noise = SensitivityMeasure(gammas, draws, noise, reference)
        super().__init__(self.of_noise, every_n_steps=every_n_steps, **kwargs)

    @property
    def gammas(self) -> list[float]:
        """The scales of the noise."""
        return self.of_noise.gammas

    @property
    def draw_history(self) -> list[dict[float, list[float]]]:
        """For each measurement, γ → perturbed losses of the draws."""
        return self.of_noise.draw_history

    @property
    def doubts(self) -> list[str]:
        """Sentences on layers whose initialisation, and so the scale of their noise, is not certain."""
        return self.of_noise.noise.doubts
