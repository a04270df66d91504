"""Figures of laws: each function takes fits and returns a matplotlib figure, which the caller saves or shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.laws.analysis import GroupFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart with any colour vision; markers differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
    "figure.dpi": 100,
}


def _figure(width: float, height: float, **kwargs: Any) -> tuple[Figure, Any]:
    """Return a figure that no window or global state knows of, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**kwargs)


def law_figure(fits: Sequence[GroupFit], factor: float = 10.0, title: str | None = None) -> Figure:
    """Draw errors, laws and their bands over pre-training size on logarithmic axes (Mikami et al., Fig. 1).

    Bars are the scatter of each size's runs about their mean (one standard deviation; for a single run the law's own
    noise), shaded bands the 95 % interval of the law for the draws at hand, dotted lines the part beyond the largest
    size measured, dashed lines the error without pre-training.

    Args:
        fits: Groups to draw, fitted or not.
        factor: How far beyond the largest size the law is drawn.
        title: Title of the figure.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure, axes = _figure(6.4, 4.2)
        drawn = [item for item in fits if not item.group.runs.empty]
        baselines: list[tuple[float, str]] = []
        for i, item in enumerate(drawn):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            _points(axes, item, colour, marker)
            if item.law is not None:
                _curve(axes, item, colour, factor)
            if item.scratch is not None and not any(np.isclose(item.scratch.error, known) for known, _ in baselines):
                baselines.append((item.scratch.error, colour))
        for error, colour in baselines:
            shade = "0.35" if len(baselines) == 1 else colour
            axes.axhline(
                error, color=shade, linestyle=(0, (5, 3)), linewidth=1.2, label=f"no pre-training: {error:.3g}"
            )
        _finish(axes, drawn, factor)
        axes.set_title(title or "Error after fine-tuning, by pre-training size", fontsize=10, loc="left")
        return figure


def _points(axes: Axes, item: GroupFit, colour: str, marker: str) -> None:
    runs = item.group.runs
    axes.plot(runs["n"], runs["error"], marker, color=colour, markersize=3, alpha=0.35, linestyle="none", zorder=2)
    sizes, means, bars = [], [], []
    for size, rows in runs.groupby("n"):
        logs = np.log(rows["error"].to_numpy(float))
        sizes.append(float(np.asarray(size, float)))
        means.append(logs.mean())
        spread = item.law.noise if item.law is not None and item.law.freedom > 0 else 0.0
        bars.append(logs.std(ddof=1) if len(logs) > 1 else spread)
    mean, bar = np.array(means), np.nan_to_num(np.array(bars))
    error = np.exp(mean)
    whiskers = np.stack([error - np.exp(mean - bar), np.exp(mean + bar) - error])
    label = item.label if item.law is None else f"{item.label}: {_equation(item)}"
    axes.errorbar(
        sizes, error, whiskers, fmt=marker, color=colour, markersize=5, capsize=2.5, linewidth=1, label=label, zorder=4
    )


def _curve(axes: Axes, item: GroupFit, colour: str, factor: float) -> None:
    assert item.law is not None
    law = item.law
    smallest, largest = float(law.cells.n.min()), item.largest
    measured, beyond = np.geomspace(smallest, largest, 40), np.geomspace(largest, largest * factor, 20)
    axes.plot(measured, law.predict(measured), color=colour, linewidth=1.6, zorder=3)
    axes.plot(beyond, law.predict(beyond), color=colour, linewidth=1.4, linestyle=":", zorder=3)
    if law.freedom < 1:
        return
    sizes = np.unique(np.concatenate([measured, beyond]))
    ends = np.exp(np.array([law.log_level(float(size))[1] for size in sizes]))
    axes.fill_between(sizes, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0, zorder=1)


def _equation(item: GroupFit) -> str:
    assert item.law is not None
    law = item.law
    values = {name: f"{law.params[name]:.2g}" for name in law.form.parameters}
    star = {name: "" if law.unidentified(name) is None else "*" for name in law.form.parameters}
    gap = f" + {values['C']}{star['C']}" if "C" in values else ""
    scale = values.get("D", values.get("delta", ""))
    return rf"{scale}·$n^{{-{values['alpha']}{star['alpha']}}}${gap}"


def _finish(axes: Axes, drawn: Sequence[GroupFit], factor: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    errors = [value for item in drawn for value in item.group.runs["error"]]
    errors += [item.scratch.error for item in drawn if item.scratch is not None]
    if errors:  # a band that runs off to nothing must not squeeze the data
        axes.set_ylim(min(errors) * 0.62, max(errors) * 1.3)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("pre-training size n (images)")
    axes.set_ylabel("test error (1 − score)")
    axes.legend(loc="best", fontsize=8)
    unidentified = any(item.law.unidentified(p) for item in drawn if item.law for p in item.law.form.parameters)
    note = "bars: one standard deviation over runs; bands: 95 % interval of the law; dotted: extrapolation"
    axes.annotate(
        note + ("; * not identified" if unidentified else ""),
        (0, -0.16), xycoords="axes fraction", fontsize=7, color="0.35", va="top",
    )  # fmt: skip
