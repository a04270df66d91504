"""Figures of the curves: errors with their laws, errors above the gap, and what was extrapolated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.figure_style import (
    COLOURS,
    MARKERS,
    NARROW,
    STYLE,
    fitting,
    headed,
    is_narrow,
    new_figure,
    noted,
    number,
    plain_ticks,
    short,
    superscript,
    wrapped,
)
from lightning_tl.laws.forms import Array
from lightning_tl.laws.group_fits import GroupFit, GroupResult, UnfittedGroup, fitted
from lightning_tl.laws.terms import Terms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: More curves than this get one axes each.
TOGETHER = 5
#: Facets drawn at most.
_FLAT = 1e-4  # of the error: a curve that changes less over its sizes is flat
_MOST_FACETS = 16
ERROR_LABEL = Terms().score


def law_figure(fits: Sequence[GroupResult], factor: float = 10.0, title: str | None = None) -> Figure:
    """Draw errors, laws and their bands over pre-training size on logarithmic axes (Mikami et al., Fig. 1).

    Bars are the scatter of each size's runs about their mean (one standard deviation; for a single run the law's own
    noise), shaded bands the interval of the law for the draws at hand, dotted lines the part beyond the largest size
    measured, dashed lines the error without pre-training. Many curves, and curves at several fine-tuning sizes, get an
    axes each.

    Args:
        fits: Groups to draw, fitted or not.
        factor: How far beyond the largest size the law is drawn.
        title: Title of the figure.
    """
    import matplotlib as mpl

    drawn = [item for item in fits if not item.group.runs.empty][:_MOST_FACETS]
    terms = terms_of(fits)
    full = any(item.law.form.uses_s for item in fitted(drawn))
    with mpl.rc_context(STYLE):
        if len(drawn) <= TOGETHER and not full:
            figure, grid = new_figure(6.4, 4.2)
            axes = grid[0, 0]
            for i, item in enumerate(drawn):
                colour = COLOURS[i % len(COLOURS)]
                _points(axes, item, colour, MARKERS[i % len(MARKERS)])
                _curve(axes, item, colour, factor)
            _baselines(axes, drawn)
            _scales(axes, drawn)
            axes.set_xlabel(terms.size)
            axes.set_ylabel(terms.score)
            if not is_narrow():  # there, names would hide the curves
                axes.legend(loc="best", fontsize=8)
        else:
            figure, flat = facets(drawn)
            for axes, item in zip(flat, drawn, strict=False):
                (_full if full else _single)(axes, item, factor)
                _ticks(axes)
                axes.set_title(fitting(item.label, 40, 36), fontsize=8)
        unidentified = any(item.law.unidentified(p) for item in fitted(drawn) for p in item.law.form.parameters)
        note = "bars: one standard deviation over runs; bands: interval of the law; dotted: extrapolation"
        note = "points: runs; lines: the law; dotted: extrapolation" if full else note
        note += "; * not identified" if unidentified else ""
        if is_narrow() and len(drawn) <= TOGETHER and not full:
            names = figure.axes[0].get_legend_handles_labels()
            legend = figure.legend(*names, loc="outside lower left", fontsize=8, title=wrapped(figure, note, 9))
            legend.get_title().set(fontsize=8, color="0.35")
        else:
            noted(figure, note)
        headed(figure, (title or _title(terms, full)) + _first(len(drawn), len(fits)))
        return figure


def terms_of(fits: Sequence[GroupResult]) -> Terms:
    """Return what a table's sizes count and what is measured: the same for all of its groups."""
    return fits[0].group.terms if fits else Terms()


def _title(terms: Terms, full: bool) -> str:
    if full and terms.by_model:
        return f"Test {terms.measured} by {terms.sizes} and parameters of the model"
    return f"{terms.measured.capitalize()} after fine-tuning, by pre-training size"


def facets(drawn: Sequence[GroupResult], label: str | None = None) -> tuple[Figure, list[Axes]]:
    """Return a figure with an axes for each group, sizes on a common scale, outer axes labelled."""
    terms = terms_of(drawn)
    columns = 1 if is_narrow() else min(4, max(len(drawn), 1))
    rows = max(-(-len(drawn) // columns), 1)
    width, height = (NARROW, 2.6 * rows + 0.7) if is_narrow() else (max(2.4 * columns, 4.5), 2.1 * rows + 0.7)
    figure, grid = new_figure(width, height, rows, columns, layout=None, sharex=True)
    width, height = figure.get_size_inches()
    # By hand: the automatic layout takes minutes for dozens of axes.
    sides = {"left": 0.75 / width, "right": 1 - 0.12 / width, "bottom": 0.72 / height, "top": 1 - 0.6 / height}
    figure.subplots_adjust(**sides, wspace=0.24, hspace=0.28)
    flat = list(grid.ravel())
    for i, axes in enumerate(flat):
        axes.set_visible(i < len(drawn))
        axes.tick_params(labelsize=7)
        if i < len(drawn):
            _scales(axes, [drawn[i]])
            _without_minor_ticks(axes)
        if i % columns == 0:
            axes.set_ylabel(label or terms.score, fontsize=8)
        if i + columns >= len(drawn):
            axes.set_xlabel(terms.size, fontsize=8)
            axes.xaxis.set_tick_params(labelbottom=True)
    return figure, flat[: len(drawn)]


def _ticks(axes: Axes) -> None:
    """Choose the ticks of a facet by what is drawn on it."""
    plain_ticks(axes)
    _without_minor_ticks(axes)


def _without_minor_ticks(axes: Axes) -> None:
    """Take off the minor ticks: on dozens of small axes they crowd, and take longer to draw than all else."""
    from matplotlib.ticker import NullLocator

    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())


def _single(axes: Axes, item: GroupResult, factor: float) -> None:
    _points(axes, item, COLOURS[0], MARKERS[0], named=False)
    _curve(axes, item, COLOURS[0], factor)
    _baselines(axes, [item])
    axes.legend(loc="upper right", fontsize=6.5, handlelength=1.2)


def _full(axes: Axes, item: GroupResult, factor: float) -> None:
    """Draw one full law: a curve for each fine-tuning size, dark for few images and light for many."""
    import matplotlib as mpl

    runs = item.group.runs
    sizes = np.unique(runs["s"]) if "s" in runs else np.array([1.0])
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(sizes)))
    for size, shade in zip(sizes, shades, strict=True):
        rows = runs[runs["s"] == size] if "s" in runs else runs
        name = f"s = {size:,.0f}" if size >= 100 else f"s = {size:.3g}"  # a fraction, where that is the column
        name = f"N = {short(size)}" if item.group.terms.by_model else name
        axes.plot(rows["n"], rows["error"], "o", color=shade, markersize=3, label=name)
        if isinstance(item, GroupFit):
            n = np.geomspace(float(runs["n"].min()), item.largest * factor, 60)
            inside = n <= item.largest
            law = item.law.predict(n, size)
            axes.plot(n[inside], law[inside], color=shade, linewidth=1.3)
            axes.plot(n[~inside], law[~inside], color=shade, linewidth=1.2, linestyle=":")
    axes.legend(loc="lower left", fontsize=6.5, handlelength=1.0, ncols=2, columnspacing=0.8)


def _points(axes: Axes, item: GroupResult, colour: str, marker: str, *, named: bool = True) -> None:
    runs = item.group.runs
    axes.plot(runs["n"], runs["error"], marker, color=colour, markersize=3, alpha=0.35, linestyle="none", zorder=2)
    sizes, means, bars = [], [], []
    for size, rows in runs.groupby("n"):
        logs = np.log(rows["error"].to_numpy(float))
        sizes.append(float(np.asarray(size, float)))
        means.append(logs.mean())
        spread = item.law.log_noise if isinstance(item, GroupFit) and item.law.dof > 0 else 0.0
        bars.append(logs.std(ddof=1) if len(logs) > 1 else spread)
    mean, bar = np.array(means), np.nan_to_num(np.array(bars))
    error = np.exp(mean)
    whiskers = np.stack([error - np.exp(mean - bar), np.exp(mean + bar) - error])
    label = ": ".join(
        [*([fitting(item.label, 24)] if named else []), *([equation(item)] if isinstance(item, GroupFit) else [])]
    )
    axes.errorbar(
        sizes, error, whiskers, fmt=marker, color=colour, markersize=5, capsize=2.5, linewidth=1, label=label, zorder=4
    )


def _curve(axes: Axes, item: GroupResult, colour: str, factor: float) -> None:
    if isinstance(item, UnfittedGroup):
        return
    law = item.law
    smallest, largest = float(law.cells.n.min()), item.largest
    measured, beyond = np.geomspace(smallest, largest, 40), np.geomspace(largest, largest * factor, 20)
    axes.plot(measured, law.predict(measured), color=colour, linewidth=1.6, zorder=3)
    axes.plot(beyond, law.predict(beyond), color=colour, linewidth=1.4, linestyle=":", zorder=3)
    if law.dof < 1:
        return
    sizes = np.unique(np.concatenate([measured, beyond]))
    ends = np.exp(np.array([law.log_level(float(size))[1] for size in sizes]))
    axes.fill_between(sizes, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0, zorder=1)


def _without(item: GroupResult) -> float | None:
    """Return the error without pre-training, also of a group that has no law."""
    if isinstance(item, GroupFit):
        return item.scratch.error if item.scratch else None
    errors = item.group.scratch["error"].to_numpy(float)
    return float(np.exp(np.log(errors).mean())) if len(errors) else None


def _baselines(axes: Axes, drawn: Sequence[GroupResult]) -> None:
    """Draw errors without pre-training, once each."""
    known: list[float] = []
    errors = {i: error for i, item in enumerate(drawn) if (error := _without(item)) is not None}
    shared = all(np.isclose(error, next(iter(errors.values()))) for error in errors.values())
    for i, error in errors.items():
        if any(np.isclose(error, other) for other in known):
            continue
        known.append(error)
        shade = "0.35" if shared else COLOURS[i % len(COLOURS)]
        label = f"no pre-training: {error:.3g}"
        axes.axhline(error, color=shade, linestyle=(0, (5, 3)), linewidth=1.2, label=label)


def has_slope(item: GroupFit) -> bool:
    """Return whether the law's error changes over the sizes; one that hardly does says nothing of alpha and D."""
    law = item.law
    if law.dof < 1 or law.at_bound(law.form.rate):
        return False
    first, last = law.predict([float(law.cells.n.min()), item.largest], item.s)
    return bool(abs(np.log(first / last)) > _FLAT)


def equation(item: GroupFit) -> str:
    """Return a law with its numbers; a star marks what is not identified, a bound that is not a number a word."""
    law = item.law
    if law.dof < 1:  # any numbers fit
        return f"{len(np.unique(law.cells.n))} sizes, no law"
    star = {name: "" if law.unidentified(name) is None else "*" for name in law.form.parameters}
    gap = f" + {number(law.params['C'], 2)}{star['C']}" if "C" in law.params else ""
    if not has_slope(item):  # flat, or a single step: D and alpha say nothing
        return f"flat, {law.predict([item.largest])[0]:.2g}"
    scale = number(law.params[law.form.parameters[0]], 2)
    exponent = superscript(f"{-law.params[law.form.rate]:.2g}")
    return f"{scale}·n{exponent}{star[law.form.rate]}{gap}"


def _scales(axes: Axes, drawn: Sequence[GroupResult]) -> None:
    """Make both axes logarithmic, with plain numbers, around the data (a band that runs off must not squeeze them)."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    errors = [value for item in drawn for value in item.group.runs["error"]]
    if errors:
        reach = max(errors) / min(errors)
        pad = max(reach**0.4, 1.04)
        # The baseline too, unless it lies so far off that the curves would be flattened; the legend has its number.
        near = [error for item in drawn if (error := _without(item)) is not None]
        errors += [error for error in near if error < max(errors) * reach**0.7]
        full = any(item.law.form.uses_s for item in fitted(drawn))
        # Room for the legend: above curves that fall, below those that fan out over fine-tuning sizes.
        axes.set_ylim(min(errors) / pad ** (1.4 if full else 1.0), max(errors) * pad ** (0.5 if full else 1.4))
    plain_ticks(axes)


def _first(drawn: int, curves: int) -> str:
    """Return what to add to a title where not all curves are drawn."""
    return f" (the first {drawn} of {curves})" if drawn == _MOST_FACETS < curves else ""


def linearised_figure(fits: Sequence[GroupResult], title: str | None = None) -> Figure:
    """Draw error - C over n on logarithmic axes (Mikami et al., Fig. 10): straight where the law holds."""
    import matplotlib as mpl

    bent = [item for item in fitted(fits) if {"C", "gamma"} & set(item.law.params)]
    drawn = [item for item in bent if has_slope(item)][:_MOST_FACETS]
    terms = terms_of(fits)
    above = f"test {terms.measured} − C"
    with mpl.rc_context(STYLE):
        together = len(drawn) <= TOGETHER
        if together:
            figure, grid = new_figure(6.4, 4.2)
            flat = [grid[0, 0]] * len(drawn)
            grid[0, 0].set_xlabel(terms.size)
            grid[0, 0].set_ylabel(above)
        else:
            figure, flat = facets(drawn, above)
        heights: list[list[float]] = []
        for i, (axes, item) in enumerate(zip(flat, drawn, strict=True)):
            heights.append(_straight(axes, item, i if together else 0))
            if not together:
                axes.set_title(fitting(item.label, 40, 36), fontsize=8)
        for i, axes in enumerate(flat):
            shown = [height for row in heights for height in row] if together else heights[i]
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_ylim(min(shown) * 0.5, max(shown) * 1.6)
            plain_ticks(axes)
            if not together:
                _without_minor_ticks(axes)
        if together and drawn:
            flat[0].legend(loc="best", fontsize=8)
        headed(
            figure,
            (title or f"{terms.measured.capitalize()} above the transfer gap C; ▾: points under it")
            + _first(len(drawn), len(fits)),
        )
        return figure


def _straight(axes: Axes, item: GroupFit, place: int) -> list[float]:
    """Draw one group's error above its gap; return the heights drawn."""
    law = item.law
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    rest = _without_gap(item, law.cells.n, law.cells.s, np.exp(law.cells.log_error))
    n, s = np.geomspace(law.cells.n.min(), law.cells.n.max(), 30), float(law.cells.s.max())
    line = _without_gap(item, n, np.full_like(n, s), law.predict(n, s))
    axes.plot(law.cells.n[rest > 0], rest[rest > 0], marker, color=colour, markersize=5, label=fitting(item.label, 24))
    axes.plot(n, line, color=colour, linewidth=1.3)
    below = law.cells.n[rest <= 0]
    if len(below):  # a point under the fitted gap has no logarithm: mark it at the foot
        axes.plot(
            below, np.full(len(below), 0.03), "v", color=colour, markersize=4, transform=axes.get_xaxis_transform()
        )
    return [*rest[rest > 0], *line]


def _without_gap(item: GroupFit, n: Array, s: Array, error: Array) -> Array:
    """Return errors less the part that n does not remove; of the full law, brought to the largest s."""
    law = item.law
    if "C" in law.params:
        return error - law.params["C"]
    p, most = law.params, law.cells.s.max()
    brought: Array = (error - p.get("E", 0.0)) * (s / most) ** p["beta"] - p["delta"] * p["gamma"] * most ** -p["beta"]
    return brought


def extrapolation_figure(fits: Sequence[GroupResult], title: str | None = None) -> Figure:
    """Draw what the smaller sizes predict of the held-out ones, the cut marked (Mikami et al., Fig. 5)."""
    import matplotlib as mpl

    held = [(item, item.hold_out) for item in fitted(fits) if item.hold_out is not None][:_MOST_FACETS]
    with mpl.rc_context(STYLE):
        figure, flat = facets([item for item, _ in held])
        for axes, (item, out) in zip(flat, held, strict=True):
            law, s = out.law, float(out.s.max())
            before, after = law.cells.s == s, out.s == s
            if not law.form.uses_s:
                before, after = np.ones_like(law.cells.n, bool), np.ones_like(out.n, bool)
            n = np.geomspace(law.cells.n.min(), out.n.max(), 60)
            axes.plot(n, law.predict(n, s), color=COLOURS[0], linewidth=1.4, label=f"law, RMSE {out.rmse:.2g}")
            if law.dof > 0:
                level = 1 - (1 - law.level) / len(out.n)  # as out.low and out.high: all outcomes together
                low, high = law.predict_interval(n, s, level, same_draws=True)
                axes.fill_between(n, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
            if out.power_law is not None:
                power, label = out.power_law.predict(n), f"power law, RMSE {out.power_rmse:.2g}"
                axes.plot(n, power, color=COLOURS[1], linestyle="--", linewidth=1.2, label=label)
            axes.plot(law.cells.n[before], np.exp(law.cells.log_error[before]), "o", color="0.2", markersize=4)
            axes.plot(out.n[after], out.observed[after], "o", color="0.2", markersize=4, markerfacecolor="white")
            axes.axvline(np.sqrt(law.cells.n.max() * out.n.min()), color="0.5", linewidth=0.8, linestyle=":")
            if law.form.uses_s:  # one fine-tuning size is drawn: around that
                drawn = [*np.exp(law.cells.log_error[before]), *out.observed[after]]
                axes.set_ylim(min(drawn) * 0.9, max(drawn) * 1.15)
            _ticks(axes)
            axes.set_title(fitting(item.label, 40, 36), fontsize=8)
            axes.legend(loc="best", fontsize=6.5, handlelength=1.4)
        text = "Extrapolation: fitted to filled points, compared with open; band: for all open points together"
        headed(figure, (title or text) + _first(len(held), len(fits)))
        return figure
