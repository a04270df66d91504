"""Studies of pre-training budgets on the lab's networks, as tables for the overtraining analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.labs.incremental_features_flow import Weights, World, flow, loss, world
from lightning_tl.labs.outcome import Array

if TYPE_CHECKING:
    import pandas as pd

    from lightning_tl.labs.incremental_features_parameters import IncrementalFeaturesParameters

#: Steps per unit of time in the tables, which count budgets in whole steps.
STEPS = 100
#: A nominal learning rate of fine-tuning; the gradient flow has none.
_RATE = 0.01


@dataclass(frozen=True)
class Studies:
    """Simulated studies of one world: by study, budget and pre-training (and by pull and draw).

    Attributes:
        place: The world.
        weights: By budget: W₁ and W₂, each of shape (studies, pre-trainings, d, d).
        before: Pre-training loss, shape (studies, budgets, pre-trainings).
        noisy: The same under noise, the mean over its draws, of the same shape.
        forgotten: Pre-training loss after fine-tuning, shape (pulls, studies, budgets, pre-trainings, draws).
        tuned: Fine-tuning loss, likewise.
        moved: Distance of the fine-tuned weights from the pre-trained ones, likewise.
    """

    place: World
    weights: tuple[Weights, ...]
    before: Array
    noisy: Array
    forgotten: Array
    tuned: Array
    moved: Array


def simulate(
    lab: IncrementalFeaturesParameters,
    spectrum: tuple[float, ...],
    studies: int,
    rng: np.random.Generator,
    pulls: Sequence[float],
) -> Studies:
    """Pre-train, add noise, fine-tune.

    A study's draws of noise and of fine-tuning images are the same at all budgets, as in real studies.

    Args:
        lab: The parameters.
        spectrum: σ.
        studies: Their number.
        rng: Random numbers.
        pulls: λ of the fine-tunings.
    """
    place = world(spectrum, lab.start, rng)
    d, seeds = place.width, lab.pretrainings
    budgets = place.budgets()
    start = place.random_weights(rng, studies * seeds)
    weights = []
    for first, second in place.pretrained(start, budgets):
        weights.append((first.reshape(studies, seeds, d, d), second.reshape(studies, seeds, d, d)))
    source, goal = place.matrix(place.spectrum), place.matrix(lab.target(spectrum))
    errors = lab.target_noise * rng.standard_normal((studies, 1, lab.finetunings, d, d))
    noise = (2, seeds, lab.noise_draws, d, d)
    before, ends = [], []
    for first, second in weights:
        before.append(loss((first, second), source))
        one, two = first[:, :, None], second[:, :, None]
        for pull in pulls:
            fine, tuned = flow((one, two), goal + errors, lab.tuning_time, tuning_step(lab, spectrum), pull)
            moved = np.sqrt(np.sum((fine - one) ** 2, axis=(-2, -1)) + np.sum((tuned - two) ** 2, axis=(-2, -1)))
            ends.append((loss((fine, tuned), source), loss((fine, tuned), goal), moved))
    noisy = [
        _under_noise([(one[i], two[i]) for one, two in weights], source, lab.gamma * rng.standard_normal(noise))
        for i in range(studies)
    ]
    # [budgets, pulls, 3, studies, seeds, draws] → three of [pulls, studies, budgets, seeds, draws]
    table = np.array(ends).reshape(len(budgets), len(pulls), 3, studies, seeds, lab.finetunings)
    forgotten, fitted, distance = table.transpose(2, 1, 3, 0, 4, 5)
    return Studies(
        place,
        tuple(weights),
        np.stack(before, axis=1),
        np.array(noisy),
        forgotten,
        fitted,
        distance,
    )


def tuning_step(lab: IncrementalFeaturesParameters, spectrum: tuple[float, ...]) -> float:
    """Return the step of the integration of fine-tuning."""
    return 0.2 / float(max(lab.target(spectrum).max(), max(spectrum)) + lab.pulls[-1])


def _under_noise(weights: Sequence[Weights], source: Array, noise: Array) -> Array:
    """Return the loss under antithetic pairs of noise, the mean over pairs.

    Args:
        weights: By budget, W₁ and W₂ of one study, each of shape (pre-trainings, d, d).
        source: A.
        noise: Of W₁ and of W₂, shape (2, pre-trainings, pairs, d, d).

    Returns:
        Shape (budgets, pre-trainings).
    """
    means = [
        np.mean(
            [loss((one[:, None] + e * noise[0], two[:, None] + e * noise[1]), source) for e in (1, -1)], axis=(0, 2)
        )
        for one, two in weights
    ]
    return np.array(means)


def label(pull: float) -> str:
    """Return how results.csv calls fine-tuning with a pull of λ."""
    return f"l2sp(strength={pull:g})" if pull else "full"


def tables(
    lab: IncrementalFeaturesParameters, studies: Studies, index: int, noisy: Array, pulls: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one study as ``results.csv`` and ``measurements.csv`` hold it.

    Args:
        lab: The parameters.
        studies: All of them.
        index: Of the study.
        noisy: Its losses under noise, shape (budgets, pre-trainings).
        pulls: How many of the pulls to fine-tune with, from 0 on.
    """
    import pandas as pd

    steps = np.round(STEPS * studies.place.budgets()).astype(int)
    whole = float(np.sum(lab.target(tuple(studies.place.spectrum)) ** 2))
    results, measurements = [], []
    for (n, seed), value in np.ndenumerate(noisy):
        run = f"{steps[n]}-{seed}"
        rise = value - studies.before[index, n, seed]
        for quantity, gamma, measured in (("perturbed_loss", lab.gamma, value), ("sensitivity", lab.gamma, rise)):
            measurements.append(
                {"run_id": run, "step": steps[n], "quantity": quantity, "group": "", "gamma": gamma, "value": measured}
            )
        for which, draw in np.ndindex(pulls, lab.finetunings):
            at = (which, index, n, seed, draw)
            results.append(
                {
                    "pretrain_images": steps[n],
                    "pretrain_steps": steps[n],
                    "pretrain_seed": seed,
                    "pretrain_run": run,
                    "draw_seed": draw,
                    "lr": _RATE,
                    "transfer": label(lab.pulls[which]),
                    "error": studies.tuned[at] / whole,
                    "finetune_loss": studies.tuned[at],
                    "val_finetune_loss": studies.tuned[at],
                    "pretrain_loss_before": studies.before[index, n, seed],
                    "pretrain_loss_after": studies.forgotten[at],
                    "param_distance": studies.moved[at],
                }
            )
    measured_table = pd.DataFrame(measurements).assign(stderr=np.nan)
    return pd.DataFrame(results), measured_table
