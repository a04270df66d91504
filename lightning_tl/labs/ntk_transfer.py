"""The lab of transfer in the kernel limit and in two-layer networks (Mikami et al., arXiv 2108.11018, section 3.2)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from lightning_tl.labs.additive_law import Contest, Point, contest
from lightning_tl.labs.crossings import power
from lightning_tl.labs.ntk_transfer_kernel import predicted_powers
from lightning_tl.labs.ntk_transfer_parameters import NtkTransferParameters
from lightning_tl.labs.outcome import Array, Comparison, Outcome, compared

#: Sizes at which powers are read from the exact curves, and those of the exact surfaces.
_POWER_SIZES = (10**5, 2 * 10**5, 4 * 10**5, 8 * 10**5, 16 * 10**5)
KERNEL_N, KERNEL_S = (250, 500, 1000, 2000, 4000, 8000), (20, 40, 80, 160, 320, 640)
#: The same where n is far above s; φ₁ is then fainter, or n would make no difference.
_FAR_N, _FAR_S, _FAR_FAINTER = (3000, 10_000, 30_000, 100_000, 300_000), (10, 20, 40, 80, 160), 0.1
_WAYS = {False: "everything fine-tuned", True: "backbone frozen"}


class NtkTransfer(NtkTransferParameters):
    """Pre-train on φ₀ with n samples, fine-tune on φ₀ + φ₁ with s under a pull to the start."""

    def run(self) -> Outcome:
        """See :meth:`~lightning_tl.labs.lab.Lab.run`."""
        from lightning_tl.labs.ntk_transfer_figures import CAPTIONS, figures

        self.check()
        surfaces, facts = self._surfaces()
        on_network, more = self._network()
        comparisons = [*self._learning(), *self._powers(), *self._transfer(), *surfaces, *on_network]
        outcome = Outcome("Transfer in the kernel limit", comparisons, ("", "", ""), {**facts, **more})
        outcome.captions, outcome.draw = CAPTIONS, partial(figures, self, outcome)
        outcome.paragraphs = self._paragraphs(outcome)
        return outcome

    def _learning(self) -> list[Comparison]:
        """Learn φ₀, and a function of φ₁'s source condition, from a start at 0."""
        found, rng = [], self.random(1)
        for noisy in (False, True):
            kernel = self.kernel(noisy)
            for name, order in (("pre-training", self.source), ("fine-tuning", self.gap)):
                for m in self.n:
                    errors = [kernel.learnt(rng, order, m) for _ in range(self.draws)]
                    found.append(compared(name, _labels(noisy), m, kernel.error(order, m), errors))
        return found

    def _powers(self) -> list[Comparison]:
        """Read the powers from the exact curves."""
        found = []
        for noisy in (False, True):
            kernel = self.kernel(noisy, "powers")
            curves = {
                "pre-training": [kernel.error(self.source, m) for m in _POWER_SIZES],
                "fine-tuning": [kernel.error(self.gap, m) for m in _POWER_SIZES],
                "pre-training, strong norm": [kernel.strong_error(m) for m in _POWER_SIZES],
            }
            for name, predicted in predicted_powers(self.decay, self.source, self.gap, noisy).items():
                measured, _ = power(_POWER_SIZES, curves[name])
                found.append(Comparison("exponent", f"{name}, {_labels(noisy)}", 0.0, predicted, measured, 0.0, 0.05))
        return found

    def _transfer(self) -> list[Comparison]:
        """Simulate both phases without noise."""
        kernel, rng, found = self.kernel(), self.random(2), []
        for n in self.n:
            runs = [kernel.simulated(rng, n, self.s) for _ in range(self.draws)]
            strong = [one[0] for one in runs]
            found.append(compared("strong norm", "pre-training", n, kernel.strong_error(n), strong))
            errors = np.array([one[1] for one in runs])
            for index, (frozen, s) in enumerate(product((False, True), self.s)):
                theory = kernel.transferred(n, s, frozen)
                found.append(compared("transfer", f"{_WAYS[frozen]}, s = {s}", n, theory, errors[:, index]))
        return found

    def _surfaces(self) -> tuple[list[Comparison], dict[str, Any]]:
        """Fit both laws to the exact surfaces."""
        kernel, found, facts = self.kernel(use="surface"), [], {}
        far = replace(kernel, gap_size=_FAR_FAINTER * self.gap_size)
        for case, model, frozen, all_n, all_s in (
            (f"kernel, {_WAYS[False]}", kernel, False, KERNEL_N, KERNEL_S),
            (f"kernel, {_WAYS[True]}", kernel, True, KERNEL_N, KERNEL_S),
            (f"kernel, {_WAYS[False]}, n far above s", far, False, _FAR_N, _FAR_S),
        ):
            points = [(float(n), float(s), model.transferred(n, s, frozen)) for n, s in product(all_n, all_s)]
            result = contest(points)
            found.append(_shown(case, result))
            facts[case] = _described(points, result)
        return found, facts

    def _network(self) -> tuple[list[Comparison], dict[str, Any]]:
        """Train networks; fit both laws to the mean errors, and again without each network in turn."""
        found, facts = [], {}
        for (kind, frozen), errors in self.network().surfaces(self.random(3)).items():
            case = f"network, {kind}, {_WAYS[frozen]}"
            points = self._points(errors.mean(axis=2))
            result = contest(points)
            left_out = [self._points(np.delete(errors, one, axis=2).mean(axis=2)) for one in range(errors.shape[2])]
            wins = sum(contest(some).winner == result.winner for some in left_out)
            found.append(_shown(case, result))
            facts[case] = {**_described(points, result), "same_winner_without_one": [wins, len(left_out)]}
        return found, facts

    def _points(self, errors: Array) -> list[Point]:
        sizes = product(self.network_n, self.network_s)
        return [(float(n), float(s), float(error)) for (n, s), error in zip(sizes, errors.ravel(), strict=True)]

    def _paragraphs(self, outcome: Outcome) -> tuple[str, str, str]:
        worst = 100 * outcome.worst("pre-training", "fine-tuning", "strong norm", "transfer")
        powers = "; ".join(
            f"{item.case}: {item.simulation:.2f} (predicted {item.theory:.2f})" for item in outcome.part("exponent")
        )
        verdicts = "; ".join(_verdict(case, fact) for case, fact in outcome.facts.items())
        full = outcome.facts[f"kernel, {_WAYS[False]}"]["multiplicative"]
        return (
            "A model learns φ₀ from n samples, then φ₀ + φ₁ from s, pulled towards its start. In the kernel limit both "
            f"phases are ridge regression with eigenvalues i^-ξ (ξ = {self.decay:g}); φ₀ and φ₁ have source conditions "
            f"r₀ = {self.source:g} and r₁ = {self.gap:g} (the larger, the smoother the function: squared coefficients "
            "fall as i^-(2rξ + 1)). The theory bounds the error by δ(γ + n^-α)s^-β. Its rival "
            "for fixed features is An^-a + Bs^-b.",
            f"Exact curves of the kernel limit, simulated with {self.d:,} Gaussian features and {self.draws} draws; "
            f"two-layer tanh networks of width {self.width} by averaged SGD, {self.networks} of them, each with a "
            "teacher of its own, fine-tuned as a whole or only in the head. φ₁ is a new, steep unit, or other weights "
            "of the source's units. Both laws are fitted to all sizes but the largest, which they then predict.",
            f"Kernel limit: theory and simulation differ by {worst:.1f} % at most. Exponents at large sizes: {powers}. "
            f"In the law fitted to the surface β = {full['beta']:.2f}, near the theory's {2 * self.gap:g}; its α = "
            f"{full['alpha']:.2f} lies above the bound's {2 * (self.source - self.gap):.2g}, which is for the worst "
            f"remaining error. Which law is closer at the sizes held out (root mean square of log error): {verdicts}.",
        )


def _labels(noisy: bool) -> str:
    return "noisy labels" if noisy else "clean labels"


def _shown(case: str, result: Contest) -> Comparison:
    """Return how far the multiplicative law is off, beside the additive one."""
    return Comparison("held out: additive, multiplicative", case, 0.0, result.off[1], result.off[0])


def _described(points: list[Point], result: Contest) -> dict[str, Any]:
    return {
        "points": [list(point) for point in points],
        "multiplicative": result.multiplicative.params,
        "additive": result.additive.params,
        "off_multiplicative": result.off[0],
        "off_additive": result.off[1],
        "winner": result.winner,
    }


def _verdict(case: str, fact: dict[str, Any]) -> str:
    text = f"{case}: {fact['winner']} ({fact['off_multiplicative']:.2f} against {fact['off_additive']:.2f})"
    if "same_winner_without_one" in fact:
        same, total = fact["same_winner_without_one"]
        text += f", the same in {same} of {total} with one network left out"
    return text
