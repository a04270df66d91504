"""PerturbationSensitivity: how much the loss rises under noise in the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tl.callbacks.measurement import LossMeasurement
from lightning_tl.callbacks.noise import Noise
from lightning_tl.errors import UserError
from lightning_tl.measure.noise import NoiseKind, Reference
from lightning_tl.measure.perturbation import check_gammas, perturbation_sensitivity
from lightning_tl.measured import Measured


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
        UserError: An argument is out of range; with ``init``, the initialisation of a layer cannot be determined.

    Example:
        >>> trainer = Trainer(callbacks=[PerturbationSensitivity(gammas=[0.01, 0.02])])  # doctest: +SKIP
    """

    quantity = "sensitivity"

    def __init__(
        self,
        gammas: Sequence[float] = (0.01, 0.02),
        draws: int = 8,
        noise: NoiseKind = "init",
        reference: Reference = None,
        every_n_steps: int | None = 500,
        **kwargs: Any,
    ) -> None:
        self._noise = Noise(noise, reference)
        if draws < 2:
            raise UserError(f"draws={draws}: a standard error needs at least 2")
        super().__init__(every_n_steps=every_n_steps, **kwargs)
        self.gammas, self.draws, self.noise, self.reference = check_gammas(gammas), draws, noise, reference
        self.draw_history: list[dict[float, list[float]]] = []

    @property
    def doubts(self) -> list[str]:
        """Sentences on layers whose initialisation, and so the scale of their noise, is not certain."""
        return self._noise.doubts

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how the weights are spread before the first step."""
        super().on_fit_start(trainer, pl_module)
        if trainer.global_step == 0:
            self._noise.see_start(pl_module)

    def measure(self, trainer: Trainer, module: LightningModule) -> list[Measured]:
        """Return losses and sensitivities."""
        objective = self.objective(trainer, module)
        scales = self._noise.scales(objective, self.seed)
        levels = perturbation_sensitivity(objective, scales, self.gammas, self.draws, seed=self.seed)
        records = [self.record("perturbed_loss", levels[0].loss, gamma=0)]
        for level in levels:
            records.append(self.record("sensitivity", level.sensitivity, gamma=level.gamma, stderr=level.stderr))
            records.append(self.record("perturbed_loss", level.perturbed_loss, gamma=level.gamma))
        self.draw_history.append({level.gamma: list(level.draws) for level in levels})
        return records

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        return {**super().state_dict(), **self._noise.state_dict(), "draws": self.draw_history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        super().load_state_dict(state_dict)
        self._noise.load_state_dict(state_dict)
        self.draw_history = [dict(row) for row in state_dict["draws"]]
