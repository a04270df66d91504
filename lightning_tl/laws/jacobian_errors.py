"""Standard errors of a law's parameters from the Jacobian at the optimum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_tl.laws.clusters import Cells
from lightning_tl.laws.forms import Form, ResidualSpace
from lightning_tl.laws.least_squares import Prior


def jacobian_errors(
    form: Form,
    cells: Cells,
    params: dict[str, float],
    priors: Sequence[Prior],
    noise: float,
    space: ResidualSpace,
) -> dict[str, float]:
    """Return the standard error of each parameter, with what draws and test images add to the level.

    Args:
        form: The form fitted.
        cells: The independent points.
        params: The best values.
        priors: Parameters held, or known from elsewhere.
        noise: Standard deviation of a point about the law, in the space of the residuals.
        space: ``"log"`` or ``"linear"``: where residuals are taken.
    """
    jacobian = form.jacobian(params, cells.n, cells.s)
    if space == "linear":
        jacobian = jacobian * form.predict(params, cells.n, cells.s)[:, None]
    jacobian = jacobian * np.sqrt(cells.weight)[:, None]
    rows, names = [jacobian], np.array(form.parameters)
    for prior in priors:
        unit = params[prior.name] if prior.name in form.scales else 1.0
        rows.append(np.sqrt(prior.weight) / unit * (names == prior.name)[None])
    held = {prior.name for prior in priors if prior.fixed}
    jacobian = np.where([name in held for name in names], 0.0, np.vstack(rows))
    size = np.abs(jacobian).max(axis=0)
    scale = np.where(size > 0, size, 1)
    covariance = np.linalg.pinv((jacobian / scale).T @ (jacobian / scale)) / np.outer(scale, scale) * noise**2
    moved = set(form.levels) - held
    shift = cells.draw_variance + cells.image_variance
    return {
        name: float(np.sqrt(covariance[i, i] + (shift * params[name] ** 2 if name in moved else 0)))
        for i, name in enumerate(form.parameters)
    }
