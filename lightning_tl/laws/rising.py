"""Errors that rise with the number of pre-training images, which no law here can follow."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from lightning_tl.laws.clusters import Cells
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.forms import Measured

_WHY: dict[Measured, str] = {
    "error": "a learning rate, too few iterations",
    "loss": "a learning rate, too few iterations, harm by longer pre-training",
}


def rising_note(law: FittedLaw, measured: Measured = "error") -> str | None:
    """Return a note where the error rises with n by more than noise: no law here can follow that.

    The scatter about the law contains the rise itself. So it also counts against the scatter about a parabola of log n,
    which has as many parameters and can rise.
    """
    sizes = np.unique(law.cells.n)
    if law.form.uses_s or len(sizes) < 3 or not np.isfinite(law.noise):
        return None
    means = np.array([law.cells.log_error[law.cells.n == size].mean() for size in sizes])
    rise = means - np.minimum.accumulate(means)
    worst = int(np.argmax(rise))
    if rise[worst] < min(3 * law.log_noise, _parabola_limit(law.cells)) or rise[worst] < 0.02:
        return None
    lowest = sizes[int(np.argmin(means[: worst + 1]))]
    rise_percent = f"{100 * np.expm1(rise[worst]):.0f} %"
    return (
        f"The {measured} rises from n = {lowest:,.0f} to n = {sizes[worst]:,.0f} by {rise_percent}, more than the "
        f"scatter; the law only falls, so look at those runs ({_WHY[measured]}?)."
    )


def _parabola_limit(points: Cells) -> float:
    """Return the rise beyond the scatter about a parabola of log n, a t limit at 0.5 %; infinite if it is unknown."""
    dof = len(points.n) - 3
    if dof < 1 or len(np.unique(points.n)) < 4:
        return np.inf
    x = np.log(points.n / points.n.mean())
    design = np.vander(x, 3)
    line, *_ = np.linalg.lstsq(design, points.log_error, rcond=None)
    noise = np.sqrt(np.sum((points.log_error - design @ line) ** 2) / dof)
    return float(max(3.0, stdtrit(dof, 0.995)) * noise)
