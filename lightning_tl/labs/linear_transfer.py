"""The lab of linear transfer: fine-tuning an over-parameterised linear model to interpolation (arXiv 2410.02164)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.figure_style import number
from lightning_tl.labs.feature_draws import OUTSIDE, UNIVERSAL, noise_factor
from lightning_tl.labs.interpolation import nearest_interpolator, sgd_to_interpolation
from lightning_tl.labs.linear_transfer_parameters import LinearTransferParameters
from lightning_tl.labs.linear_transfer_theory import class_error, isotropic_class_error, isotropic_risk, normal_tail
from lightning_tl.labs.outcome import Array, Comparison, Outcome, compared
from lightning_tl.labs.ridge_equivalent import equivalent

if TYPE_CHECKING:
    from collections.abc import Callable

#: Problems (pairs of a true w* and noise) that are solved with the same features: the cost is that of one.
_PROBLEMS = 96


class LinearTransfer(LinearTransferParameters):
    """Fine-tune a linear model from w₀ to interpolation on s < d target samples."""

    def run(self) -> Outcome:
        """See :meth:`~lightning_tl.labs.lab.Lab.run`."""
        from lightning_tl.labs.linear_transfer_figures import CAPTIONS, figures
        from lightning_tl.labs.linear_transfer_surface import surface

        self.check()
        comparisons = [self._sgd(), *self._risks(), *self._covariance(), *self._classes(), *self._universality()]
        on_surface, facts = surface(self)
        outcome = Outcome("Linear transfer", comparisons + on_surface, ("", "", ""), facts)
        outcome.captions, outcome.draw = CAPTIONS, partial(figures, self, outcome)
        outcome.paragraphs = self._paragraphs(outcome)
        return outcome

    def _sgd(self) -> Comparison:
        """Run SGD itself, in a small problem: where it ends, against the nearest interpolator."""
        rng = self.random(1)
        features, start = rng.standard_normal((20, 80)), rng.standard_normal(80)
        labels = rng.standard_normal(20)
        nearest = nearest_interpolator(features, labels, start)
        end = sgd_to_interpolation(features, labels, start, rng, passes=400)
        path = float(np.linalg.norm(nearest - start))
        return Comparison("sgd", "distance from w₀", 0.25, path, float(np.linalg.norm(end - start)), 0.0, 1e-6 * path)

    def _risks(self) -> list[Comparison]:
        rng = self.random(2)
        found = []
        for ratio in self.ratios:
            bias, variance = self._bias_and_variance(rng, UNIVERSAL["Gaussian"], ratio, np.ones(self.d))
            exact = self.samples(ratio) / self.d
            for distance in self.distances:
                theory = isotropic_risk(exact, distance, self.noise)
                found.append(compared("risk", f"distance {distance:g}", exact, theory, distance * bias + variance))
        return found

    def _bias_and_variance(
        self,
        rng: np.random.Generator,
        draw: Callable[[np.random.Generator, tuple[int, int]], Array],
        ratio: float,
        eigenvalues: Array,
    ) -> tuple[Array, Array]:
        """Return, by draw of features, the risk at ‖w* − w₀‖² = 1 without noise, and that of the noise by itself."""
        s = self.samples(ratio)
        bias, variance = [], []
        for _ in range(self.draws):
            features = draw(rng, (s, self.d)) * np.sqrt(eigenvalues)
            away = rng.standard_normal((self.d, _PROBLEMS)) / np.sqrt(self.d)
            noise = rng.standard_normal((s, _PROBLEMS)) * self.noise**0.5
            both = nearest_interpolator(
                features, np.hstack([features @ away, noise]), np.zeros((self.d, 2 * _PROBLEMS))
            )
            rest = both - np.hstack([away, np.zeros((self.d, _PROBLEMS))])
            risks = eigenvalues @ rest**2
            bias.append(float(risks[:_PROBLEMS].mean()))
            variance.append(float(risks[_PROBLEMS:].mean()))
        return np.array(bias), np.array(variance)

    def _covariance(self) -> list[Comparison]:
        rng, values = self.random(3), self.spectrum()
        found = []
        for ratio in self.ratios:
            bias, variance = self._bias_and_variance(rng, UNIVERSAL["Gaussian"], ratio, values)
            s = self.samples(ratio)
            solved = equivalent(values, s)
            squares = np.full(self.d, 1 / self.d)
            for case, simulated, theory in (
                ("start's distance", bias, solved.risk(squares)),
                ("noise", variance, solved.risk(0 * squares, self.noise)),
            ):
                found.append(compared("covariance", case, s / self.d, theory, simulated))
        return found

    def _classes(self) -> list[Comparison]:
        rng = self.random(5)
        found = []
        for case, bent in (("isotropic", False), ("spectrum i^-1/2", True)):
            values, mean, start = self.class_start(bent)
            for ratio in self.ratios:
                s = self.samples(ratio)
                errors = []
                for _ in range(6 * self.draws):
                    # x = y μ + z: the sign y is taken into z, whose distribution is symmetric
                    features = mean + rng.standard_normal((s, self.d)) * np.sqrt(values)
                    weights = nearest_interpolator(features, np.ones(s), start)
                    errors.append(normal_tail(float(weights @ mean / (values @ weights**2) ** 0.5)))
                theory = (
                    class_error(values, s, mean, start)
                    if bent
                    else isotropic_class_error(s / self.d, self.mean, self.along, self.across)
                )
                found.append(compared("classes", case, s / self.d, theory, errors))
        return found

    def _universality(self) -> list[Comparison]:
        rng = self.random(6)
        found = []
        for name, draw in {**UNIVERSAL, **OUTSIDE}.items():
            for ratio in self.ratios[::2]:
                bias, variance = self._bias_and_variance(rng, draw, ratio, np.ones(self.d))
                exact = self.samples(ratio) / self.d
                theory = isotropic_risk(exact, 1.0, self.noise * noise_factor(name))
                # no theory is claimed for independent entries without a fourth moment: the curve is shown
                claimed = name in UNIVERSAL or noise_factor(name) != 1
                found.append(compared("universality", name, exact, theory, bias + variance, 0.02 if claimed else None))
        return found

    def _paragraphs(self, outcome: Outcome) -> tuple[str, str, str]:
        facts = outcome.facts
        worst = 100 * outcome.worst("risk", "covariance", "classes", "universality")
        heavy = outcome.part("universality", "Student, 2.5 degrees")
        share = 100 * max(abs(item.simulation / item.theory - 1) for item in heavy)
        times = noise_factor("multivariate Student, 3 degrees")
        found = {
            name: f"{number(facts[name])} ({number(facts[f'{name}_low'])} to {number(facts[f'{name}_high'])}; theory "
            f"{number(facts[f'{name}_theory'])})"
            for name in ("alpha", "gamma")
        }
        return (
            f"A linear model with {self.d:,} features starts from pre-trained weights w₀ and is trained by SGD on "
            "s < d target samples until it fits them exactly. It ends at the interpolator nearest to w₀. For isotropic "
            "features its excess risk is (1 − κ)‖w* − w₀‖² + σ²κ/(1 − κ) with κ = s/d: fine-tuning improves on w₀ "
            "only where ‖w* − w₀‖² > σ²/(1 − κ). Other covariances, and two classes with labels ±1, follow from a "
            "fixed point.",
            f"Simulated: {self.draws} draws of features for each point, {_PROBLEMS} true weights and noises for each; "
            "classifiers; five distributions of features with the same two moments, and two without a fourth moment; "
            f"and starts that are themselves learnt from n source samples, with {self.surface_d} features, to which "
            "the law error = δ(γ + n^-α)s^-β is fitted.",
            f"Theory and simulation differ by {worst:.1f} % at most. Without a fourth moment, independent entries are "
            f"up to {share:.0f} % off the common curve at this size, and where the entries of a sample share a factor, "
            f"the noise counts {times:g} times, as predicted. The law finds α = {found['alpha']} and "
            f"γ = {found['gamma']}; at twice the largest n that it was fitted to it is off by "
            f"{100 * facts['held_out']:.1f} %. With a spectrum the effects of n and s do not factorise: there it is "
            f"off by {100 * facts['spectrum_held_out']:.0f} %.",
        )
