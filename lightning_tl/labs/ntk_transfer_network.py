"""Two-layer networks by averaged SGD: pre-training on φ₀, fine-tuning on φ₀ + φ₁ under a pull to the start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_tl.labs.outcome import Array

#: Units of the source's teacher; steepness of its units, and of the new unit of the target.
_UNITS, _STEEP, _STEEPER = 3, 1.5, 3.0
_TEST = 2000
#: Kinds of φ₁: a steep unit that the source lacks; other weights of the source's own units.
NEW, SAME = "new unit", "same units"


@dataclass(frozen=True)
class Teacher:
    """Functions Σ b_k tanh(c_k u_k·x), one for each network.

    Attributes:
        units: u, of length 1, shape (networks, inputs, units).
        heads: b, shape (networks, units).
        steepness: c, shape (units,).
    """

    units: Array
    heads: Array
    steepness: Array

    def outputs(self, inputs: Array) -> Array:
        """Return outputs, shape (networks, points), for inputs of shape (networks, points, inputs)."""
        result: Array = np.einsum("bpk,bk->bp", np.tanh(inputs @ self.units * self.steepness), self.heads)
        return result

    def repeated(self, times: int) -> Teacher:
        """Return the same functions so many times side by side."""
        return Teacher(np.tile(self.units, (times, 1, 1)), np.tile(self.heads, (times, 1)), self.steepness)


@dataclass
class Networks:
    """Networks f(x) = Σ a_j tanh(w_j·x)/√width, several side by side.

    Attributes:
        weights: w, shape (networks, width, inputs).
        heads: a, shape (networks, width).
    """

    weights: Array
    heads: Array

    def copy(self) -> Networks:
        """Return a copy."""
        return Networks(self.weights.copy(), self.heads.copy())

    def outputs(self, inputs: Array) -> Array:
        """Return outputs, shape (networks, points), for inputs of shape (networks, points, inputs)."""
        hidden = np.tanh(inputs @ np.swapaxes(self.weights, 1, 2))
        result: Array = np.einsum("bpm,bm->bp", hidden, self.heads) / self.heads.shape[1] ** 0.5
        return result


@dataclass(frozen=True)
class NetworkTransfer:
    """Networks, teachers and the sizes of a grid.

    Attributes:
        width: Of the hidden layer.
        inputs: Dimensions of the inputs, which are uniform on the sphere of radius √inputs.
        networks: Networks, each with teachers of its own.
        rate: Of SGD, constant, one sample a step.
        pull: Weight of the ℓ2 distance from the start in fine-tuning.
        gap_size: Of φ₁.
        n_sizes: Source samples.
        s_sizes: Target samples.
    """

    width: int
    inputs: int
    networks: int
    rate: float
    pull: float
    gap_size: float
    n_sizes: tuple[int, ...]
    s_sizes: tuple[int, ...]

    def surfaces(self, rng: np.random.Generator) -> dict[tuple[str, bool], Array]:
        """Train all.

        Args:
            rng: Of teachers, weights, samples.

        Returns:
            By kind of φ₁ and whether the backbone was frozen: errors, shape (sizes
            of n, sizes of s, networks).
        """
        source, targets = self._teachers(rng)
        test = self._points(rng, self.networks, _TEST)
        first = rng.standard_normal((self.networks, self.width, self.inputs)) / self.inputs**0.5
        half = self.width // 2
        first[:, half:] = first[:, :half]  # with opposite heads, so that the network starts at 0
        heads = np.where(np.arange(self.width) < half, 1.0, -1.0) * np.ones((self.networks, 1))
        begun = Networks(first, heads)
        trained = self.averaged_sgd(rng, begun, source, self.n_sizes, 0.0, frozen=False)
        # the networks of all n side by side
        starts = Networks(
            *(np.concatenate(parts) for parts in zip(*((t.weights, t.heads) for t in trained), strict=True))
        )
        many, found = len(self.n_sizes), {}
        for kind, target in targets.items():
            for frozen in (False, True):
                repeated = target.repeated(many)
                ended = self.averaged_sgd(rng, starts, repeated, self.s_sizes, self.pull, frozen)
                wide = np.tile(test, (many, 1, 1))
                truth = repeated.outputs(wide)
                errors = [np.mean((one.outputs(wide) - truth) ** 2, axis=1).reshape(many, -1) for one in ended]
                found[kind, frozen] = np.stack(errors, axis=1)
        return found

    def averaged_sgd(
        self,
        rng: np.random.Generator,
        start: Networks,
        teacher: Teacher,
        marks: tuple[int, ...],
        pull: float,
        frozen: bool,
    ) -> list[Networks]:
        """Run SGD on the squared loss, one fresh sample a step; return the averages of the iterates at the marks.

        Args:
            rng: Of the samples.
            start: Where it begins, and what the pull goes to.
            teacher: Labels.
            marks: Numbers of samples, rising.
            pull: Weight of the ℓ2 distance from the start.
            frozen: Train only the heads.
        """
        now, mean = start.copy(), Networks(0 * start.weights, 0 * start.heads)
        scale, found = self.width**-0.5, []
        for step in range(1, marks[-1] + 1):
            x = self._points(rng, len(start.heads), 1)
            hidden = np.tanh(np.matmul(now.weights, np.swapaxes(x, 1, 2))[:, :, 0])
            rest = scale * (scale * np.sum(now.heads * hidden, axis=1, keepdims=True) - teacher.outputs(x))
            slope_of_heads = rest * hidden + pull * (now.heads - start.heads)
            if not frozen:
                slope = (rest * now.heads * (1 - hidden**2))[:, :, None] * x
                now.weights -= self.rate * (slope + pull * (now.weights - start.weights) if pull else slope)
                mean.weights += (now.weights - mean.weights) / step
            now.heads -= self.rate * slope_of_heads
            mean.heads += (now.heads - mean.heads) / step
            if step in marks:
                found.append(Networks(start.weights, mean.heads.copy()) if frozen else mean.copy())
        return found

    def _points(self, rng: np.random.Generator, networks: int, points: int) -> Array:
        drawn = rng.standard_normal((networks, points, self.inputs))
        scaled: Array = drawn * (self.inputs**0.5 / np.linalg.norm(drawn, axis=2, keepdims=True))
        return scaled

    def _teachers(self, rng: np.random.Generator) -> tuple[Teacher, dict[str, Teacher]]:
        """Return φ₀, and φ₀ + φ₁ by kind of φ₁."""
        units = rng.standard_normal((self.networks, self.inputs, _UNITS + 1))
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        signs = rng.choice([-1.0, 1.0], (self.networks, _UNITS)) / _UNITS**0.5
        other = self.gap_size * rng.standard_normal((self.networks, _UNITS)) / _UNITS**0.5
        new = np.full((self.networks, 1), self.gap_size)
        steep = np.full(_UNITS, _STEEP)
        source = Teacher(units[:, :, :_UNITS], signs, steep)
        return source, {
            NEW: Teacher(units, np.hstack([signs, new]), np.append(steep, _STEEPER)),
            SAME: Teacher(units[:, :, :_UNITS], signs + other, steep),
        }
