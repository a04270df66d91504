"""Two groups against each other: differences with intervals, paired by draw, not two numbers side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_tl.laws.clusters import half_width, half_width_together
from lightning_tl.laws.fitted_law import Interval
from lightning_tl.laws.group_fits import GroupFit
from lightning_tl.laws.image_sampling import paired, variance_of_difference


@dataclass(frozen=True)
class Difference:
    """A quantity of the first group less (or over) the second's.

    Attributes:
        estimate: The difference, or the ratio of errors.
        interval: Its interval.
    """

    estimate: float
    interval: Interval

    @property
    def sign(self) -> int:
        """+1 or -1 where the interval excludes no difference, else 0."""
        return int(self.interval[0] > 0) - int(self.interval[1] < 0)


@dataclass(frozen=True)
class Comparison:
    """Two fitted groups.

    Attributes:
        first: Label of the first group.
        second: Label of the second.
        n: Size at which errors are compared: the largest that both have reached.
        log_ratio: log(error of the first / error of the second) there.
        alpha: Difference of the pre-training rates.
        gap: Difference of the transfer gaps C.
        paired: Number of draws that both share (0: compared as independent).
        same_images: Whether both were tested on the same images, and are compared image by image.
        wider_unpaired: How much wider the interval of ``log_ratio`` would be with test images of their own, as a
            factor; 1 where it makes no difference.
    """

    first: str
    second: str
    n: float
    log_ratio: Difference
    alpha: Difference | None
    gap: Difference | None
    paired: int
    same_images: bool = False
    wider_unpaired: float = 1.0


def _draw_shift(a: GroupFit, b: GroupFit) -> tuple[float, int, int]:
    """Return the variance that the draws add to log(error a / error b), its degrees of freedom, and shared draws."""
    first = dict(zip(a.law.cells.draws, a.law.cells.offsets, strict=True))
    second = dict(zip(b.law.cells.draws, b.law.cells.offsets, strict=True))
    shared = sorted(set(first) & set(second))
    if len(shared) > 1:  # what a draw does to both cancels; only its different effect on each counts
        shifts = np.array([first[draw] - second[draw] for draw in shared])
        return float(np.var(shifts, ddof=1) / len(shifts)), len(shifts) - 1, len(shared)
    dof = [law.cells.draw_dof for law in (a.law, b.law) if law.cells.draw_dof]
    return a.law.cells.draw_variance + b.law.cells.draw_variance, min(dof, default=0), 0


def log_ratio(a: GroupFit, n_a: float, b: GroupFit, n_b: float, image_variance: float | None = None) -> Difference:
    """Return log(law a at n_a / law b at n_b) with its interval, paired by draw and by test image.

    Args:
        a: A fitted group.
        n_a: Its size.
        b: Another.
        n_b: Its size.
        image_variance: What the test images add; default: as they were tested.
    """
    first, (low_a, high_a) = a.law.log_level(n_a, a.s)
    second, (low_b, high_b) = b.law.log_level(n_b, b.s)
    variance, dof, _ = _draw_shift(a, b)
    images = variance_of_difference(a.group.images, b.group.images) if image_variance is None else image_variance
    level = a.law.level
    others = [(half_width(variance, dof, level) if variance > 0 else 0.0, float(max(dof, 1)))]
    others += [(half_width(images, np.inf, level), np.inf)]
    centre, ends = first - second, []
    for of_a, of_b in ((first - low_a, high_b - second), (high_a - first, second - low_b)):
        laws = [(of_a, float(a.law.dof)), (of_b, float(b.law.dof))]
        if a.law.pooled is not None:  # both intervals rest on one estimate of the noise
            laws = [(float(np.hypot(of_a, of_b)), float(a.law.dof))]
        ends.append(half_width_together([*laws, *others], level))
    return Difference(centre, (centre - ends[0], centre + ends[1]))


def _less(a: tuple[float, float, float], b: tuple[float, float, float]) -> Interval:
    """Return the interval of a difference of independent estimates (low, centre, high)."""
    centre = a[1] - b[1]
    return centre - float(np.hypot(a[1] - a[0], b[2] - b[1])), centre + float(np.hypot(a[2] - a[1], b[1] - b[0]))


def compare(a: GroupFit, b: GroupFit) -> Comparison:
    """Compare two fitted groups at the largest size that both have reached.

    Args:
        a: A fitted group.
        b: Another.
    """
    n = min(a.largest, b.largest)
    differences: dict[str, Difference | None] = {}
    for name in ("alpha", "C"):
        differences[name] = None
        if name in a.law.form.parameters and name in b.law.form.parameters:
            sides = []
            for law in (a.law, b.law):
                low, high = law.interval(name)
                sides.append((low, law.params[name], high))
            differences[name] = Difference(sides[0][1] - sides[1][1], _less(sides[0], sides[1]))
    ratio = log_ratio(a, n, b, n)
    same_images, wider = paired(a.group.images, b.group.images), 1.0
    if same_images:
        apart = sum(group.images.variance for group in (a.group, b.group) if group.images)
        unpaired = log_ratio(a, n, b, n, apart).interval
        wider = (unpaired[1] - unpaired[0]) / (ratio.interval[1] - ratio.interval[0])
    draws = _draw_shift(a, b)[2]
    return Comparison(
        a.label, b.label, n, ratio, differences["alpha"], differences["C"], draws, same_images, float(wider)
    )
