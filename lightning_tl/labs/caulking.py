"""The lab of caulking: how many samples the rest needs that a pre-trained part leaves (arXiv 2602.04233)."""

from __future__ import annotations

from functools import partial

import numpy as np

from lightning_tl.labs.caulking_parameters import CaulkingParameters
from lightning_tl.labs.caulking_theory import KernelRidge, Residual, samples_needed
from lightning_tl.labs.crossings import crossing, power
from lightning_tl.labs.interpolation import nearest_interpolator
from lightning_tl.labs.outcome import Array, Comparison, Outcome, compared

#: Sizes around the predicted one at which a learning curve is simulated.
_AROUND = (0.85, 1.0, 1.18)
#: Functions (signs of the coefficients) that are learnt from the same inputs.
_PROBLEMS = 32


class Caulking(CaulkingParameters):
    """A pre-trained part of size m, and the samples that its residual needs."""

    def run(self) -> Outcome:
        """See :meth:`~lightning_tl.labs.lab.Lab.run`."""
        from lightning_tl.labs.caulking_figures import CAPTIONS, figures

        self.check()
        comparisons = [*self._kernel(), *self._circle(), *self._lora()]
        outcome = Outcome("Caulking", comparisons, ("", "", ""), self._facts())
        outcome.captions, outcome.draw = CAPTIONS, partial(figures, self, outcome)
        outcome.paragraphs = self._paragraphs(outcome)
        return outcome

    def targets(self) -> dict[str, float]:
        """Return the error to reach, by name of the residual: that of ``samples`` samples at m = 1."""
        kernel = self.kernel()
        return {one.name: kernel.error(one.squares(1.0), self.samples, one.noise) for one in self.residuals()}

    def needed(self, residual: Residual, m: float, target: float) -> float:
        """Return the number of samples that the deterministic equivalent needs for an error."""
        kernel, squares = self.kernel(), residual.squares(m)
        return samples_needed(lambda s: kernel.error(squares, s, residual.noise), target, 2, self.d / 2)

    def _kernel(self) -> list[Comparison]:
        kernel, found = self.kernel(), []
        for stream, (residual, target) in enumerate(zip(self.residuals(), self.targets().values(), strict=True)):
            rng, measured, stderr = self.random(10 + stream), [], []
            for m in self.sizes:
                squares, theory = residual.squares(m), self.needed(residual, m, target)
                sizes = [round(theory * factor) for factor in _AROUND]
                errors = np.array([simulated(rng, kernel, squares, s, residual.noise, self.draws) for s in sizes]).T
                exact = kernel.error(squares, sizes[1], residual.noise)
                found.append(compared("error", residual.name, m, exact, errors[:, 1]))
                value, spread = crossing(sizes, errors, target)
                found.append(Comparison("samples", residual.name, m, theory, value, spread, 0.02 * theory))
                measured.append(value)
                stderr.append(spread)
            if residual.exponent is not None:
                value, spread = power(self.sizes, measured, stderr)
                found.append(Comparison("exponent", residual.name, 0.0, residual.exponent, value, spread, 0.05))
        return found

    def _circle(self) -> list[Comparison]:
        """Learn the same function by a kernel on the circle, whose eigenfunctions are not independent."""
        half, rng = self.d // 2, self.random(20)
        order = np.arange(1, half + 1.0)
        kernel, squares = KernelRidge(np.repeat(order, 2) ** -self.decay), np.repeat(order, 2) ** -self.target_decay
        found = []
        for s in (self.samples // 4, self.samples // 2, self.samples):
            errors = []
            for _ in range(self.draws):
                angles = 2 * np.pi * rng.random((s, 1)) * order
                waves = 2**0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(s, -1)
                errors.append(_learnt(rng, kernel, waves, squares, 0.0, 0.0))
            found.append(compared("circle", "kernel on the circle", s, kernel.error(squares, s, 0.0), errors, None))
        return found

    def _lora(self) -> list[Comparison]:
        found = []
        for stream, (name, network) in enumerate(self.layers().items()):
            rng, measured, stderr, ratios = self.random(30 + stream), [], [], []
            target = network.theory(self.rank, network.samples)
            for m in self.sizes:
                rank = self.rank_at(m)
                theory = network.needed(rank, target)
                sizes = [round(theory * 0.8), round(theory * 1.25)]
                errors = network.errors(rng, rank, sizes, self.lora_draws)
                for s, column in zip(sizes, errors.T, strict=True):
                    # shown: a point scatters by more than 2 %; the comparison is over all of them
                    found.append(compared(name, f"rank {rank}", s, network.theory(rank, s), column, None))
                    ratios.append(column / network.theory(rank, s))
                value, spread = crossing(sizes, errors, target)
                found.append(Comparison(f"{name}: samples", "LoRA", m, theory, value, spread))
                measured.append(value)
                stderr.append(spread)
            # the ratios of one training count as one: its two sizes share their first samples
            by_run = np.concatenate([np.mean(pair, axis=0) for pair in zip(ratios[::2], ratios[1::2], strict=True)])
            exact = 0.02 if network.heads == 0 else None
            found.append(compared(f"{name}: error over theory", "mean of all points", 1.0, 1.0, by_run, exact))
            predicted, _ = power(self.sizes, [network.needed(self.rank_at(m), target) for m in self.sizes])
            value, spread = power(self.sizes, measured, stderr)
            found.append(Comparison("exponent", f"LoRA, {name}", 0.0, predicted, value, spread, 0.05))
            s = network.samples
            for m in (self.sizes[0], self.sizes[-1]):
                full = network.errors(rng, self.rank_at(m), [s], max(2, self.lora_draws // 4), low_rank=False)
                case = f"all weights, residual of rank {self.rank_at(m)}"
                found.append(compared(f"{name}: all weights", case, s, network.full_theory(s), full[:, 0], None))
        return found

    def _facts(self) -> dict[str, object]:
        targets = self.targets()
        return {
            "target_errors": targets,
            "samples_theory": {
                one.name: [self.needed(one, m, targets[one.name]) for m in self.sizes] for one in self.residuals()
            },
            "known_energy": [float(self.residuals()[3].squares(m).sum()) for m in self.sizes],
        }

    def _paragraphs(self, outcome: Outcome) -> tuple[str, str, str]:
        worst = 100 * outcome.worst("error", "samples")
        powers = "; ".join(
            f"{item.case}: {item.simulation:.2f} ± {item.stderr:.2f} (predicted {item.theory:.2f})"
            for item in outcome.part("exponent")
        )
        known = outcome.part("samples", "first functions known")
        energy = outcome.facts["known_energy"]
        circle = [item.simulation / item.theory for item in outcome.part("circle")]
        linear = outcome.part("linear layer: error over theory")[0].simulation
        tanh = outcome.part("tanh network: error over theory")[0].simulation
        return (
            "A pre-trained part of size m leaves a residual, which is learnt from s samples of the target. What counts "
            "is how complex the residual is for the learner. If its squared coefficients in the kernel's "
            "eigenfunctions are m^-a i^-τ, the samples that an error takes fall as m to the power -a/(τ − 1), with 2ξ "
            "in place of τ − 1 where that is smaller. If its dimension falls as m^-k, they fall as m^-k too. They are "
            "in proportion to r where a residual of rank r is learnt by a low-rank update of that rank. Where the "
            "pre-trained part knows the kernel's first functions exactly, the residual is smaller but no simpler.",
            f"Simulated: kernel ridge regression with {self.d:,} Gaussian features (eigenvalues i^-{self.decay:g}), "
            f"{self.draws} draws of samples and {_PROBLEMS} functions for each point; a kernel on the circle; the "
            "library's LoRA, trained to the end on a linear layer and on a two-layer tanh network whose residual has "
            f"a rank from {self.rank_at(self.sizes[-1])} to {self.rank_at(self.sizes[0])}.",
            f"Theory and simulation of kernel ridge regression differ by {worst:.1f} % at most, in errors and in "
            f"samples needed. Powers of m: {powers}. Where the first functions are known, the residual's energy is "
            f"{100 * (1 - energy[-1] / energy[0]):.0f} % less at the largest m than at the smallest, and it needs "
            f"{100 * (1 - known[-1].theory / known[0].theory):.1f} % fewer samples. LoRA's "
            f"errors are {linear:.3f} times the theory on the linear layer; on the network {tanh:.2f} times the theory "
            "of many samples. The kernel on the circle, whose eigenfunctions are not independent, is outside the "
            f"theory: its errors are {min(circle):.2f} to {max(circle):.2f} times those of independent features.",
        )


def simulated(
    rng: np.random.Generator, kernel: KernelRidge, squares: Array, samples: int, noise: float, draws: int
) -> Array:
    """Return the excess errors of kernel ridge regression with Gaussian features, shape (draws,).

    Args:
        rng: Of features, signs and noise.
        kernel: The kernel.
        squares: Of the function's coefficients, shape (d,).
        samples: Their number s.
        noise: Variance of the labels' noise; with noise the ridge is the one that is best in theory.
        draws: Independent draws of features.
    """
    ridge = kernel.ridge(squares, samples, noise)
    shape = (samples, len(squares))
    return np.array([_learnt(rng, kernel, rng.standard_normal(shape), squares, noise, ridge) for _ in range(draws)])


def _learnt(
    rng: np.random.Generator, kernel: KernelRidge, values: Array, squares: Array, noise: float, ridge: float
) -> float:
    """Return the mean excess error over functions of random signs; ``values``: eigenfunctions at samples, (s, d)."""
    signs = 2.0 * rng.integers(0, 2, (len(squares), _PROBLEMS)) - 1
    roots = np.sqrt(kernel.eigenvalues)
    truth = np.sqrt(squares)[:, None] * signs
    labels = values @ truth + noise**0.5 * rng.standard_normal((len(values), _PROBLEMS))
    weights = nearest_interpolator(values * roots, labels, np.zeros_like(truth), ridge)
    return float(np.mean(np.sum((roots[:, None] * weights - truth) ** 2, axis=0)))
