"""Parameters of the incremental-features lab, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.labs.lab import Lab
from lightning_tl.labs.outcome import Array

#: Neighbouring features closer than this are not learnt one after the other.
_LARGEST_RATIO = 0.8
#: Share of its strength that a feature may lack at the end of its budget in the training by Lightning.
_LACKING = 0.015
#: A feature that is not learnt lacks a factor of at least e^this of half its strength after fine-tuning.
_UNLEARNT = 3.0


@dataclass(frozen=True)
class IncrementalFeaturesParameters(Lab):
    """Pre-train a two-layer linear network, which learns one feature after another; add noise to it; fine-tune it.

    Attributes:
        spectrum: σ, the strengths of the features of the pre-training task, descending; their number is the width d.
        steady_spectrum: Another one, in which every σ is above ``shift`` and 2dγ², so that no curve turns.
        gamma: γ, standard deviation of the noise in the weights.
        shift: Fine-tuning asks for the strengths σ + this.
        pulls: λ of the pull to the pre-trained weights in fine-tuning, ascending; the first is 0.
        tuning_time: How long fine-tuning lasts, in the unit of time of the gradient flow.
        start: Size of the weights before pre-training: their standard deviation is this over √d.
        target_noise: Standard deviation of the entries of the error with which a draw of fine-tuning images shows the
            fine-tuning task.
        pretrainings: Pre-trainings per study, from different random weights.
        finetunings: Draws of fine-tuning images per study.
        noise_draws: Antithetic pairs of noises per pre-trained network.
        studies: How many studies the overtraining analysis is tried on, for each of the two spectra.
        training_start: As ``start``, for the network that Lightning trains.
        seed: Of all random numbers.
    """

    spectrum: tuple[float, ...] = (1.5, 1.0, 0.67, 0.33, 0.2, 0.12, 0.04)
    steady_spectrum: tuple[float, ...] = (2.6, 1.7, 1.15, 0.85, 0.66)
    gamma: float = 0.185
    shift: float = 0.53
    pulls: tuple[float, ...] = (0.0, 0.5, 1.0)
    tuning_time: float = 1.5
    start: float = 1e-13
    target_noise: float = 0.005
    pretrainings: int = 6
    finetunings: int = 4
    noise_draws: int = 128
    studies: int = 100
    training_start: float = 1e-8

    def check(self) -> None:
        """See :meth:`Lab.check`."""
        self.require("gamma", 1e-3, 1.0)
        self.require("shift", 1e-3, 10.0)
        self.require("pulls", 0.0, 10.0)
        self.require("tuning_time", 0.1, 20.0)
        self.require("start", 1e-13, 1e-6)
        self.require("target_noise", 0.0, 0.1)
        self.require("pretrainings", 2, 20)
        self.require("finetunings", 2, 20)
        self.require("noise_draws", 2, 1000)
        self.require("studies", 2, 1000)
        self.require("training_start", 1e-10, 1e-5)
        for name in ("spectrum", "steady_spectrum"):
            self._check_spectrum(name)
        if self.pulls[0] != 0 or list(self.pulls) != sorted(set(self.pulls)):
            raise UserError(f"pulls is {list(self.pulls)}; it must be 0 and then ascending numbers")
        self._check_training()
        self._check_tuning()
        least = max(self.shift, self.limit(self.steady_spectrum))
        if min(self.steady_spectrum) <= least:
            raise UserError(
                f"steady_spectrum goes down to {min(self.steady_spectrum):g}; each must be over {least:g}, the larger "
                "of shift and 2dγ², for no curve to turn"
            )

    def _check_spectrum(self, name: str) -> None:
        self.require(name, 0.02, 10.0)
        values = getattr(self, name)
        if not 3 <= len(values) <= 12:
            raise UserError(f"{name} has {len(values)} features; it must have from 3 to 12")
        for large, small in pairwise(values):
            if small > _LARGEST_RATIO * large:
                raise UserError(
                    f"{name} has {small:g} after {large:g}; each must be at most {_LARGEST_RATIO:g} times the one "
                    "before, or they are not learnt one after the other"
                )

    def _check_training(self) -> None:
        """Refuse a training in which a feature is not learnt when its budget ends, as the next one is too close."""
        from lightning_tl.labs.incremental_features_flow import world

        place = world(self.spectrum, self.training_start, self.random(0))
        lacking = np.exp(-4 * place.spectrum * (place.budgets() - place.expected_times()))
        worst = int(np.argmax(lacking))
        if lacking[worst] > _LACKING:
            raise UserError(
                f"training_start is {self.training_start:g}; with it the feature {place.spectrum[worst]:g} of spectrum "
                f"still lacks {100 * lacking[worst]:.2g} % when its budget ends (at most {100 * _LACKING:g} %); choose "
                "a smaller training_start, or features further apart"
            )

    def _check_tuning(self) -> None:
        """Refuse fine-tuning that lasts so long that it learns a feature that pre-training has not learnt."""
        from lightning_tl.labs.incremental_features_flow import world

        place = world(self.spectrum, self.start, self.random(0))
        rest = 4 * place.spectrum[1:] * (place.expected_times()[1:] - place.budgets()[:-1])
        longest = float(np.min((rest - _UNLEARNT) / (4 * self.target(self.spectrum)[1:])))
        if self.tuning_time > longest:
            raise UserError(
                f"tuning_time is {self.tuning_time:g}; with this spectrum, shift and start it must be at most "
                f"{longest:.2g}, or fine-tuning learns features that pre-training has not"
            )

    def limit(self, spectrum: tuple[float, ...]) -> float:
        """Return 2dγ²: a weaker feature costs more under noise than it gains."""
        return 2 * len(spectrum) * self.gamma**2

    def target(self, spectrum: tuple[float, ...]) -> Array:
        """Return f, the strengths that fine-tuning asks for, shape (d,)."""
        return np.array(spectrum) + self.shift
