"""PerturbationSensitivity: how much the loss rises under noise in the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tl.callbacks.measurement import LossMeasurement
from lightning_tl.callbacks.noise import Noise
from lightning_tl.errors import UserError
from lightning_tl.measure.noise import Reference
from lightning_tl.measure.perturbation import check_gammas, perturbation_sensitivity


class PerturbationSensitivity(LossMeasurement):
    """Log the loss under Gaussian noise in the weights (Springer et al. 2025, §3.3, App. C.2).

    Args:
        gammas: Scales γ of the noise ε ~ N(0, γ²Σ).
        draws: Antithetic pairs ±ε by scale; the same at every measurement of a run, so that curves compare.
        noise: ``init``: Σ is, by tensor, the variance of its initialisation distribution; ``relative``: to the norm
            of the tensor (of each filter, for convolutions); ``isotropic``: Σ = 1.
        reference: For ``init``, where the module itself does not tell how it is initialised
            (:func:`~lightning_tl.measure.initialisation.own_initialisation`): a function that builds a fresh module; or
            one that is freshly initialised, its state dict, or the path of that.
        every_n_steps: As for :class:`~lightning_tl.callbacks.measurement.LossMeasurement`, also the other arguments.
        kwargs: As there.

    Attributes:
        draw_history: By measurement, γ (as in the keys) → perturbed loss of each draw.
        doubts: With ``init``, sentences on layers whose initialisation is not certain (also warned of); else empty.

    Logs:
        For each γ ``sensitivity/gamma_<γ>`` = E[L(θ + ε) − L(θ)], ``sensitivity/gamma_<γ>_stderr`` and
        ``perturbed_loss/gamma_<γ>`` = E[L(θ + ε)]; ``perturbed_loss/gamma_0`` = L(θ); ``sensitivity/seconds``.

    Raises:
        UserError: An argument is out of range; with ``init``, layers whose initialisation cannot be found out.

    Example:
        >>> trainer = Trainer(callbacks=[PerturbationSensitivity(gammas=[0.01, 0.02])])  # doctest: +SKIP
    """

    quantity = "sensitivity"

    def __init__(
        self,
        gammas: Sequence[float] = (0.01, 0.02),
        draws: int = 8,
        noise: str = "init",
        reference: Reference = None,
        every_n_steps: int | None = 500,
        **kwargs: Any,
    ) -> None:
        self._noise = Noise(noise, reference)
        if draws < 2:
            raise UserError(f"draws={draws}: a standard error needs at least 2")
        super().__init__(every_n_steps=every_n_steps, **kwargs)
        self.gammas, self.draws, self.noise, self.reference = check_gammas(gammas), draws, noise, reference
        self.draw_history: list[dict[str, list[float]]] = []

    @property
    def doubts(self) -> list[str]:
        """What is not certain about the scales of the noise."""
        return self._noise.doubts

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Return losses and sensitivities by key."""
        objective = self.objective(trainer, module)
        scales = self._noise.scales(objective, self.seed)
        found = perturbation_sensitivity(objective, scales, self.gammas, self.draws, seed=self.seed)
        values = {"perturbed_loss/gamma_0": found[0].loss}
        for one in found:
            values[f"sensitivity/gamma_{one.gamma:g}"] = one.sensitivity
            values[f"sensitivity/gamma_{one.gamma:g}_stderr"] = one.stderr
            values[f"perturbed_loss/gamma_{one.gamma:g}"] = one.perturbed_loss
        self.draw_history.append({f"{one.gamma:g}": list(one.draws) for one in found})
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        return {**super().state_dict(), **self._noise.state_dict(), "draws": self.draw_history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        super().load_state_dict(state_dict)
        self._noise.load_state_dict(state_dict)
        self.draw_history = [dict(row) for row in state_dict["draws"]]
