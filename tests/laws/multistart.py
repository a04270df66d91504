"""An independent solver for the laws: scipy's least squares in natural parameters, from many starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[np.float64]

#: Every law here is ``D n^-alpha s^-beta + G s^-beta + E``: G is C where nothing depends on s, else delta * gamma.
NAMES = ("log_d", "alpha", "gap", "beta", "floor")
USED = {
    "transfer": ("log_d", "alpha", "gap"),
    "power": ("log_d", "alpha"),
    "full": ("log_d", "alpha", "gap", "beta"),
    "full+E": NAMES,
}


@dataclass(frozen=True)
class Case:
    """What is fitted, and how.

    Attributes:
        form: One of :data:`USED`.
        n: Pre-training sizes, shape (m,).
        s: Fine-tuning sizes, shape (m,).
        error: Errors, shape (m,).
        space: ``"log"`` or ``"linear"``: where residuals are taken.
        weight: Weights of squared residuals, shape (m,).
        held: Parameters held exactly, by the names of :data:`NAMES`.
        priors: (value, weight) of rows ``weight * (value - parameter)^2``, by the names of :data:`NAMES`.
        covariance: Covariance of the residuals up to a factor, shape (m, m); ``None``: independent.
    """

    form: str
    n: Array
    s: Array
    error: Array
    space: str = "log"
    weight: Array | None = None
    held: Mapping[str, float] | None = None
    priors: Mapping[str, tuple[float, float]] | None = None
    covariance: Array | None = None


class Objective:
    """Residuals and their slopes for a case, as functions of the parameters that are free."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.free = [name for name in USED[case.form] if name not in (case.held or {})]
        weight = np.ones(len(case.n)) if case.weight is None else case.weight
        self.white = np.diag(np.sqrt(weight))
        if case.covariance is not None:
            root = np.linalg.cholesky(np.linalg.inv(case.covariance)).T
            self.white = root @ self.white
        # In log space alpha and beta of laws that are straight lines there are not bounded.
        straight = {"power": ("alpha",), "full": ("beta",)}.get(case.form, ()) if case.space == "log" else ()
        low = {"log_d": -np.inf, "alpha": 1e-3, "gap": 0.0, "beta": 1e-3, "floor": 0.0}
        high = {"log_d": np.inf, "alpha": 10.0, "gap": np.inf, "beta": 10.0, "floor": np.inf}
        low |= dict.fromkeys(straight, -np.inf)
        high |= dict.fromkeys(straight, np.inf)
        self.low = np.array([low[name] for name in self.free])
        self.high = np.array([high[name] for name in self.free])

    def _values(self, free: Array) -> dict[str, float]:
        values = {"log_d": 0.0, "alpha": 0.0, "gap": 0.0, "beta": 0.0, "floor": 0.0} | dict(self.case.held or {})
        return values | dict(zip(self.free, free, strict=True))

    def _terms(self, values: Mapping[str, float]) -> tuple[Array, Array]:
        log_s, log_n = np.log(self.case.s), np.log(self.case.n)
        falling = np.exp(np.clip(values["log_d"] - values["alpha"] * log_n - values["beta"] * log_s, -700, 300))
        return falling, values["gap"] * np.exp(-values["beta"] * log_s)

    def residual(self, free: Array) -> Array:
        values = self._values(free)
        falling, flat = self._terms(values)
        error = falling + flat + values["floor"]
        rest = (
            np.log(np.maximum(error, 1e-300) / self.case.error) if self.case.space == "log" else error - self.case.error
        )
        priors = [
            np.sqrt(weight) * (values[name] - wanted) for name, (wanted, weight) in (self.case.priors or {}).items()
        ]
        return np.concatenate([self.white @ rest, priors])

    def slopes(self, free: Array) -> Array:
        values = self._values(free)
        falling, flat = self._terms(values)
        error = falling + flat + values["floor"]
        log_s, log_n = np.log(self.case.s), np.log(self.case.n)
        columns = {
            "log_d": falling,
            "alpha": -falling * log_n,
            "gap": np.exp(-values["beta"] * log_s),
            "beta": -(falling + flat) * log_s,
            "floor": np.ones_like(error),
        }
        scale = 1 / np.maximum(error, 1e-300) if self.case.space == "log" else np.ones_like(error)
        rows = self.white @ np.stack([columns[name] * scale for name in self.free], axis=1)
        priors = [
            np.sqrt(weight) * (np.array(self.free) == name) for name, (_, weight) in (self.case.priors or {}).items()
        ]
        return np.vstack([rows, *priors])

    def rss(self, free: Array) -> float:
        return float(np.sum(self.residual(np.clip(free, self.low, self.high)) ** 2))

    def starts(self, count: int, rng: np.random.Generator) -> list[Array]:
        """Curves through the data's level, nearly straight to steep, with all shares of what does not fall."""
        case, found = self.case, []
        level = float(np.exp(np.mean(np.log(case.error))))
        for i in range(count):
            alpha = float(np.exp(rng.uniform(np.log(1e-3), np.log(10.0)))) if i % 2 else float(rng.uniform(0.05, 1.0))
            beta = float(rng.uniform(0.01, 1.0)) if "beta" in USED[case.form] else 0.0
            share, part = float(rng.choice([0.0, 0.02, 0.5, 0.9, 0.999, rng.uniform()])), float(rng.uniform())
            floor = level * share * part if "floor" in USED[case.form] else 0.0
            size_n, size_s = float(rng.choice(case.n)), float(rng.choice(case.s))
            gap = (level * share - floor) * size_s**beta
            log_d = np.log(level * (1 - share) + 1e-12) + alpha * np.log(size_n) + beta * np.log(size_s)
            if case.held and "log_d" in case.held and "gap" in self.free:
                if i % 3 == 0 and np.log(size_n) > 0:  # the alpha that gives this share with D held
                    alpha = (case.held["log_d"] - np.log(level * (1 - share) + 1e-12)) / np.log(size_n)
                falling = np.exp(np.clip(case.held["log_d"] - alpha * np.log(size_n), -700, 300))
                gap = max(level - floor - falling, 1e-9) * size_s**beta
            values = {"log_d": log_d, "alpha": alpha, "gap": gap, "beta": beta, "floor": floor}
            found.append(np.clip([values[name] for name in self.free], self.low, self.high))
        return found


def best(given: Case, count: int = 40, seed: int = 0, more: tuple[Array, ...] = ()) -> float:
    """Return the least sum of squares found.

    Args:
        given: What to fit.
        count: Starts.
        seed: Of the starts.
        more: Starts besides, of the case's free parameters.
    """
    objective = Objective(given)
    least = _least(objective, [*objective.starts(count, np.random.default_rng(seed)), *more])
    # The solver stays inside its bounds, so that 0 is only neared: laws without the term are fitted by themselves.
    for name in ("gap", "floor"):
        if name in objective.free:
            without = Objective(replace(given, held={**(given.held or {}), name: 0.0}))
            keep = [place for place, free in enumerate(objective.free) if free != name]
            starts = without.starts(count // 2, np.random.default_rng(seed))
            least = min(least, _least(without, [*starts, *(start[keep] for start in more)]))
    return least


def _least(objective: Objective, starts: list[Array]) -> float:
    if not objective.free:
        return objective.rss(np.zeros(0))
    rough = [_solved(objective, start, "trf", 1e-9, 100) for start in starts]
    rough.sort(key=lambda pair: pair[0])
    fine = [_solved(objective, start, method, 1e-15, 2000) for _, start in rough[:3] for method in ("trf", "dogbox")]
    return min(value for value, _ in fine)


def _solved(objective: Objective, start: Array, method: str, tolerance: float, most: int) -> tuple[float, Array]:
    low, high = objective.low, objective.high
    inside = np.clip(start, np.nextafter(low, np.inf), np.nextafter(high, -np.inf))
    try:
        done = optimize.least_squares(
            objective.residual, inside, objective.slopes, bounds=(low, high), method=method,
            x_scale="jac", ftol=tolerance, xtol=tolerance, gtol=tolerance, max_nfev=most,
        )  # fmt: skip
    except (ValueError, np.linalg.LinAlgError):  # a start at which the law overflows
        return np.inf, inside
    return 2 * float(done.cost), done.x
