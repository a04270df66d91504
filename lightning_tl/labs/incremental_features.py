"""The lab of incremental features: a linear network that longer pre-training makes fragile (Springer et al. 2025)."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.labs.incremental_features_flow import flow, loss, world
from lightning_tl.labs.incremental_features_parameters import IncrementalFeaturesParameters
from lightning_tl.labs.incremental_features_theory import (
    PULL_FACTOR,
    effective_starts,
    learning_times,
    noisy_losses,
    tuned_losses,
)
from lightning_tl.labs.outcome import Comparison, Outcome, compared

if TYPE_CHECKING:
    from lightning_tl.labs.incremental_features_studies import Studies

#: Random starts whose learning times are simulated, and points of time from one budget to the next.
_STARTS, _POINTS = 8, 60
#: How long fine-tuning takes to come to its end.
_LONG = 12.0


class IncrementalFeatures(IncrementalFeaturesParameters):
    """Pre-train a two-layer linear network, which learns one feature after another; add noise to it; fine-tune it."""

    def run(self) -> Outcome:
        """See :meth:`~lightning_tl.labs.lab.Lab.run`."""
        from lightning_tl.labs.incremental_features_analysis import analysed
        from lightning_tl.labs.incremental_features_callbacks import measured_training
        from lightning_tl.labs.incremental_features_figures import CAPTIONS, figures
        from lightning_tl.labs.incremental_features_studies import simulate

        self.check()
        comparisons, facts = self._learning()
        studies = simulate(self, self.spectrum, self.studies, self.random(3), self.pulls)
        steady = simulate(self, self.steady_spectrum, self.studies, self.random(4), self.pulls[:1])
        comparisons += [*self._noise(studies), *self._fine_tuning(studies), *self._harmless_pulls(studies)]
        for part in (measured_training(self), analysed(self, studies, steady)):
            comparisons += part[0]
            facts |= part[1]
        outcome = Outcome("Incremental features", comparisons, ("", "", ""), facts)
        outcome.captions, outcome.draw = CAPTIONS, partial(figures, self, outcome)
        outcome.paragraphs = self._paragraphs(outcome)
        return outcome

    def _learning(self) -> tuple[list[Comparison], dict[str, Any]]:
        """Pre-train from random starts: when each feature has half of its strength."""
        rng = self.random(2)
        place = world(self.spectrum, self.start, rng)
        start = place.random_weights(rng, _STARTS)
        starts = effective_starts(*start, place.left, place.right)
        ends = np.append(0.0, place.budgets())
        times = np.concatenate([np.linspace(a, b, _POINTS + 1)[1:] for a, b in pairwise(ends)])
        strengths = np.array([place.strengths(weights) for weights in place.pretrained(start, times)])
        expected, found = learning_times(place.spectrum, starts), []
        for n, sigma in enumerate(place.spectrum):
            halves = [np.interp(sigma / 2, path, times) for path in strengths[:, :, n].T]
            # each start has its own time; the mean is that of the theory
            shifted = expected[:, n].mean() + np.array(halves) - expected[:, n]
            found.append(compared("learning time", "half of σ", n + 1, expected[:, n].mean(), shifted))
        return found, {
            "times": times.tolist(),
            "strengths": strengths[:, 0].tolist(),
            "starts": starts[0].tolist(),
            "budgets": place.budgets().tolist(),
        }

    def _noise(self, studies: Studies) -> list[Comparison]:
        """Compare the loss under noise after each feature."""
        theory = noisy_losses(studies.place.spectrum, self.gamma)
        means = studies.noisy.mean(axis=2)
        return [
            compared("noise", f"γ = {self.gamma:g}", n + 1, theory[n], means[:, n]) for n in range(studies.place.width)
        ]

    def _fine_tuning(self, studies: Studies) -> list[Comparison]:
        """Fine-tune the networks of the first study to the task itself, without a draw's error."""
        from lightning_tl.labs.incremental_features_studies import tuning_step

        place, goals = studies.place, self.target(self.spectrum)
        source, goal, step = place.matrix(place.spectrum), place.matrix(goals), tuning_step(self, self.spectrum)
        found = []
        for pull in self.pulls:
            theory = tuned_losses(place.spectrum, goals, pull, self.tuning_time)
            for n, (first, second) in enumerate(studies.weights):
                ends = flow((first[0], second[0]), goal, self.tuning_time, step, pull)
                for part, values, matrix in zip(_TUNED, theory, (source, goal), strict=True):
                    found.append(compared(part, f"λ = {pull:g}", n + 1, values[n], loss(ends, matrix)))
        return found

    def _harmless_pulls(self, studies: Studies) -> list[Comparison]:
        """Find the λ at which a feature that is harmful without a pull stops being so."""
        place, goals = studies.place, self.target(self.spectrum)
        first, second = studies.weights[-1]
        found = []
        for n in np.flatnonzero(goals > 2 * place.spectrum):
            theory = float((goals[n] - 2 * place.spectrum[n]) / PULL_FACTOR)
            pulls = theory * np.array([0.9, 1.0, 1.1])
            harms = []
            for pull in pulls:
                step = 0.2 / float(goals.max() + pull)
                ends = flow((first[0, 0], second[0, 0]), place.matrix(goals), _LONG, step, float(pull))
                harms.append(float(place.strengths(ends)[n] - 2 * place.spectrum[n]))
            reached = float(np.interp(0.0, harms[::-1], pulls[::-1]))
            found.append(Comparison("harmless pull", "λ", float(n) + 1, theory, reached, 0.0, 0.02 * theory))
        return found

    def _paragraphs(self, outcome: Outcome) -> tuple[str, str, str]:
        facts = outcome.facts
        worst = 100 * outcome.worst("learning time", "noise", *_TUNED, "harmless pull", "callback stage")
        exact = [item for item in outcome.part("callback trace") if not item.stderr]
        trace = max(abs(item.simulation / item.theory - 1) for item in exact)
        deviations = np.array(facts["deviations"])
        turns = "; ".join(
            f"λ = {pull:g}: {_after(facts['tuning_turns'][which])}, found in {facts['pull_found'][which]} of "
            f"{facts['pull_studies']}"
            for which, pull in enumerate(self.pulls)
        )
        return (
            f"A two-layer linear network W₁W₂ with {len(self.spectrum)} × {len(self.spectrum)} matrices starts from "
            "tiny weights and learns the features of a matrix A one after another, strong ones first. Each feature σ "
            "that it learns lowers the pre-training loss by σ², and makes the weights larger: under noise of γ in the "
            f"weights it costs 2dγ²σ. So a feature helps only while σ > 2dγ² = {self.limit(self.spectrum):.3g}, and "
            "longer pre-training harms from then on. Fine-tuning that asks for σ + "
            f"{self.shift:g} in place of σ harms likewise, once that is more than 2σ; a pull λ to the pre-trained "
            f"weights allows for {PULL_FACTOR:.3g}λ more.",
            f"Simulated: gradient flow from random starts; {self.studies} studies of {self.pretrainings} "
            f"pre-trainings with {self.noise_draws} pairs of noise and {self.finetunings} fine-tunings each, of this "
            "spectrum and of one without a turn, which the overtraining analysis is given as tables; a network that "
            "Lightning trains, with the measuring callbacks; the networks of one study, measured by the callback of "
            "sensitivity.",
            f"Theory and simulation differ by {worst:.2g} % at most. On the trained network the trace of the Hessian "
            f"is exact to {trace:.0e}; the rise under noise differs from the closed form by "
            f"{np.sqrt(np.mean(deviations**2)):.2g} standard errors (root mean square; the largest "
            f"{np.abs(deviations).max():.2g}). The analysis finds the turn under noise "
            f"({_after(facts['noise_turn'])}) in {facts['noise_found']} of {self.studies} studies. Of the spectrum "
            f"that has none, it claims none in {facts['noise_none']} of {self.studies}. After fine-tuning: {turns}. "
            "A pull delays the turn only once it is strong enough for the next feature, and costs fine-tuning loss.",
        )


_TUNED = ("forgotten", "fine-tuning loss")


def _after(features: int | None) -> str:
    return "no turn" if features is None else f"after {features} features"
