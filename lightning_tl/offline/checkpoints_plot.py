"""The plot of what was measured on a series of checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_tl.figure_style import save
from lightning_tl.measured_value import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: quantity, group, title, symbol of the scale by which curves differ
_PANELS = (
    ("param_distance", "total", "distance from the reference", ""),
    ("hessian", "trace", "trace of the Hessian", ""),
    ("hessian", "weighted_trace", "Tr(ΣH), Σ the noise's variances", ""),
    ("perturbed_loss", "", "loss under noise", "γ"),
    ("sensitivity", "", "rise under noise", "γ"),
)


def plot_measurements(records: Sequence[Measured], path: Path) -> None:
    """Plot values over training steps, and the loss along reference → checkpoint; the file is a PNG.

    Args:
        records: From :func:`~lightning_tl.offline.checkpoints.measure_checkpoints`. Bands are two standard errors wide
            on either side.
        path: Of the file; its folder is made.
    """
    from matplotlib.figure import Figure

    panels = [(panel, rows) for panel in _PANELS if (rows := _select(records, *panel[:2]))]
    along = _select(records, "loss_along")
    count = len(panels) + bool(along)
    figure = Figure(figsize=(4.2 * count, 3.4), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for (panel, rows), axis in zip(panels, axes, strict=False):
        _over_steps(axis, rows, *panel[2:])
    if along:
        _along(axes[-1], along, _select(records, "quadratic_along"))
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def _select(records: Sequence[Measured], quantity: str, group: str = "") -> list[Measured]:
    return [record for record in records if (record.quantity, record.group) == (quantity, group)]


def _over_steps(axis: Axes, records: Sequence[Measured], title: str, symbol: str) -> None:
    for gamma in sorted({record.gamma for record in records}, key=lambda gamma: gamma or 0.0):
        curve = sorted((r for r in records if r.gamma == gamma), key=lambda r: r.step)
        steps, values = [r.step for r in curve], [r.value for r in curve]
        axis.plot(steps, values, marker="o", label=f"{symbol} = {gamma}" if symbol else None)
        errors = [r.stderr or 0.0 for r in curve]
        if any(errors):
            low = [value - 2 * error for value, error in zip(values, errors, strict=True)]
            high = [value + 2 * error for value, error in zip(values, errors, strict=True)]
            axis.fill_between(steps, low, high, alpha=0.2)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step")
    if symbol:
        axis.legend(fontsize=8)


def _along(axis: Axes, losses: Sequence[Measured], parabolas: Sequence[Measured]) -> None:
    for step in sorted({record.step for record in losses}):
        (line,) = axis.plot(*_curve(losses, step), label=f"step = {step}")
        axis.plot(*_curve(parabolas, step), "--", color=line.get_color(), linewidth=1)
        # the parabola may leave the panel; beyond the checkpoint, interpolated variances can be negative: no loss there
        if values := [value for value in _curve(losses, step)[1] if math.isfinite(value)]:
            axis.set_ylim(0, 2 * max(values))
    axis.set_title("loss along reference → checkpoint", fontsize=10)
    axis.set_xlabel("λ (0: reference, 1: checkpoint; dashed: quadratic)")
    axis.legend(fontsize=8)


def _curve(records: Sequence[Measured], step: int) -> tuple[list[float], list[float]]:
    """Return λ and values of one checkpoint."""
    points = sorted((record.gamma or 0.0, record.value) for record in records if record.step == step)
    return [at for at, _ in points], [value for _, value in points]
