"""Figures of fitted parameters: alpha and C, against model size and complexity too, and the loss landscape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.figure_style import COLOURS, MARKERS, STYLE, fitting, headed, new_figure, superscript
from lightning_tl.laws.curve_figures import has_slope
from lightning_tl.laws.forms import Array
from lightning_tl.laws.group_fits import GroupFit, GroupResult, fitted
from lightning_tl.laws.transfer_gaps import gap_by_model_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Landscapes drawn at most.
_MOST_LANDSCAPES = 6


def parameter_figure(fits: Sequence[GroupResult], title: str | None = None) -> Figure:
    """Draw the exponents and C, gamma or E of each group with their intervals (Mikami et al., Fig. 8).

    Open: not identified.
    """
    import matplotlib as mpl

    items = fitted(fits)
    names = ("b", "a", "E") if items[0].law.form.second_size == "model size" else ("alpha", "C", "gamma")
    shown = [name for name in names if any(name in item.law.params for item in items)]
    with mpl.rc_context(STYLE):
        figure, grid = new_figure(3.6 * len(shown) + 1.2, 0.28 * len(items) + 1.5, 1, len(shown), sharey=True)
        for axes, name in zip(grid[0], shown, strict=True):
            _bars(axes, items, name)
        grid[0, 0].set_yticks(range(len(items)), [fitting(item.label, 16) for item in items])
        grid[0, 0].set_ylim(len(items) - 0.5, -0.5)
        headed(figure, title or "What the fits found; open: not identified")
        return figure


def _bars(axes: Axes, items: Sequence[GroupFit], name: str) -> None:
    terms = items[0].group.terms
    words = {"alpha": "pre-training rate alpha", "C": terms.gap, "gamma": "gamma = C / D"}
    words |= {"b": f"exponent b of {terms.sizes}", "a": f"exponent a of {terms.seconds}", "E": f"{terms.score} E"}
    ends = [item.law.interval(name) for item in items if name in item.law.params]
    finite = [high for _, high in ends if np.isfinite(high)]
    values = [item.law.params[name] for item in items if not item.law.at_bound(name)]
    right = 1.15 * max([*finite, *values], default=1.0)
    if name == "alpha":  # a few loose intervals must not squeeze the others
        right = min(right, _most_alpha(items))
    for i, item in enumerate(items):
        law = item.law
        if name not in law.params:
            continue
        low, high = law.interval(name)
        known = law.unidentified(name) is None
        axes.plot([low, min(high, right)], [i, i], color=COLOURS[0], linewidth=1.4, alpha=1 if known else 0.45)
        if high > right:
            axes.plot([right], [i], ">", color=COLOURS[0], markersize=4, alpha=0.45, clip_on=False)
        face = COLOURS[0] if known else "white"
        if law.params[name] <= right:
            axes.plot([law.params[name]], [i], "o", color=COLOURS[0], markersize=5, markerfacecolor=face)
    axes.set_xlim(0, right)
    axes.set_xlabel(words[name])


def _most_alpha(items: Sequence[GroupFit]) -> float:
    """Return the largest alpha to draw: above the identified ones, but for a few outliers."""
    laws = [item.law for item in items]
    known = [law.params["alpha"] for law in laws if law.unidentified("alpha") is None]
    return 2.5 * float(np.quantile(known, 0.9)) + 0.2 if known else 2.0


def model_size_figure(fits: Sequence[GroupResult], title: str | None = None) -> Figure | None:
    """Draw the transfer gap over the model's parameters with a power law through it (Mikami et al., Fig. 4).

    ``None`` where fewer than two model sizes are known.
    """
    import matplotlib as mpl

    families = gap_by_model_size(fits)
    if not families:
        return None
    count, families = len(families), families[: len(COLOURS)]
    with mpl.rc_context(STYLE):
        figure, grid = new_figure(7.4, 4.0)
        axes = grid[0, 0]
        for i, family in enumerate(families):
            colour = COLOURS[i % len(COLOURS)]
            # Side by side, or intervals at one model hide each other.
            place = family.parameters * 1.012 ** (i - (len(families) - 1) / 2)
            label = family.label
            if family.law is not None:
                x = np.geomspace(family.parameters.min(), family.parameters.max(), 30)
                exponent = superscript(f"{-family.law.params['alpha']:.2g}")
                label += f": ∝ parameters{exponent}"
                axes.plot(x, family.law.predict(x), color=colour, linewidth=1.3)
            _intervals(axes, place, family.items, "C", colour, MARKERS[i % len(MARKERS)], label)
        axes.set_xscale("log")
        ticks = np.unique([size for family in families for size in family.parameters])
        labels = [f"{size / 1e6:.3g}M" for size in ticks]
        for i in range(1, len(ticks)):  # names that would run into each other
            if labels[i - 1] and ticks[i] < ticks[i - 1] * 1.1:
                labels[i] = ""
        axes.set_xticks(ticks, labels)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("model parameters")
        axes.set_ylabel(families[0].items[0].group.terms.gap)
        axes.set_ylim(0, 1.3 * max(item.law.params["C"] for family in families for item in family.items))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        some = f" (the first {len(families)} of {count} families)" if count > len(families) else ""
        headed(figure, (title or "Transfer gap by model size; open: not identified") + some)
        return figure


def complexity_figure(fits: Sequence[GroupResult], title: str | None = None) -> Figure | None:
    """Draw alpha and C over the data's complexity (Mikami et al., Fig. 6); ``None`` without such a column."""
    import matplotlib as mpl

    items = [item for item in fitted(fits) if "complexity" in item.group.traits]
    x = np.array([item.group.traits["complexity"] for item in items])
    shown = [name for name in ("alpha", "C", "gamma") if all(name in item.law.params for item in items)]
    if len(np.unique(x)) < 2 or not shown:
        return None
    with mpl.rc_context(STYLE):
        kinds = _kinds(items, x)
        figure, grid = new_figure(3.6 * len(shown) + 1.4 * (len(kinds) > 1), 3.4, 1, len(shown))
        width = np.ptp(x) / 60
        x = x + width * np.array([np.sum(x[:i] == value) for i, value in enumerate(x)])
        for axes, name in zip(grid[0], shown, strict=True):
            for i, (kind, places) in enumerate(kinds.items()):
                members = [items[place] for place in places]
                _intervals(axes, x[places], members, name, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], kind)
            axes.set_xlabel("data complexity (larger: more complex)")
            axes.set_ylabel({"alpha": "pre-training rate alpha", "C": items[0].group.terms.gap}.get(name, name))
            if name == "alpha":
                axes.set_ylim(0, _most_alpha(items))
        if len(kinds) > 1:
            grid[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        headed(figure, title or "What complexity changes; open: not identified")
        return figure


def _kinds(items: Sequence[GroupFit], x: Array) -> dict[str | None, list[int]]:
    """Return the places of groups by the keys in which those of one complexity differ; one kind if too many."""
    apart = {
        name
        for value in np.unique(x)
        for name in items[0].group.keys
        if len({item.group.keys.get(name) for item, at in zip(items, x, strict=True) if at == value}) > 1
    }
    kinds: dict[str | None, list[int]] = {}
    for i, item in enumerate(items):
        kinds.setdefault(" / ".join(item.group.keys[name] for name in item.group.keys if name in apart), []).append(i)
    return kinds if 1 < len(kinds) <= len(COLOURS) else {None: list(range(len(items)))}


def _intervals(
    axes: Axes, x: Array, items: Sequence[GroupFit], name: str, colour: str, marker: str, label: str | None
) -> None:
    top = max(item.law.params[name] for item in items) * 3 + 1e-12
    for place, item in zip(x, items, strict=True):
        law = item.law
        low, high = law.interval(name)
        known = law.unidentified(name) is None
        face = colour if known else "white"
        axes.plot([place, place], [low, min(high, top)], color=colour, linewidth=1.1, alpha=0.8 if known else 0.3)
        axes.plot([place], [law.params[name]], marker, color=colour, markerfacecolor=face, markersize=5, label=label)
        label = None  # once in the legend


def landscape_figure(fits: Sequence[GroupResult], title: str | None = None) -> Figure | None:
    """Draw the loss over alpha and D, C at its best (Mikami et al., Fig. 14): a valley is what the data leave open.

    ``None`` where no group has a transfer law with degrees of freedom left.
    """
    import matplotlib as mpl

    items = [item for item in fitted(fits) if item.law.form.name == "transfer" and item.law.dof > 0]
    items = [item for item in items if has_slope(item)][:_MOST_LANDSCAPES]
    if not items:
        return None
    columns = min(3, len(items))
    rows = -(-len(items) // columns)
    with mpl.rc_context(STYLE):
        figure, grid = new_figure(max(3.3 * columns, 4.6) + 0.6, 2.9 * rows + 0.4, rows, columns)
        for axes in grid.ravel()[len(items) :]:
            axes.set_visible(False)
        pictures = [_landscape(axes, item) for axes, item in zip(grid.ravel(), items, strict=False)]
        figure.colorbar(pictures[-1], ax=grid, label=f"RMSE in log {items[0].group.terms.measured}", shrink=0.8)
        headed(figure, title or "Loss over alpha and D; line: confidence region, cross: fit")
        return figure


def _landscape(axes: Axes, item: GroupFit) -> Any:
    from lightning_tl.laws.shared_coefficient import profile_coefficient

    law = item.law
    best, (low, high) = law.params["alpha"], law.interval("alpha")
    alphas = np.linspace(max(low * 0.5, 0.01), min(1.15 * high, 3 * best + 0.5), 81)
    centre = np.log(law.params["D"])
    low, high = law.interval("D")
    down = np.log(low) if low > 0 else centre - 3
    up = np.log(high) if np.isfinite(high) else centre + 3
    logs = np.linspace(max(down - 0.7, centre - 6), min(up + 0.7, centre + 6), 61)
    rss = profile_coefficient(law, alphas, logs)
    rmse = np.sqrt(rss / len(law.cells.n))
    floor = max(law.log_rmse, 1e-9)
    picture = axes.pcolormesh(
        alphas,
        np.exp(logs),
        rmse,
        norm="log",
        cmap="cividis",
        shading="nearest",
        vmin=floor,
        vmax=floor * 30,
        rasterized=True,
    )
    axes.contour(alphas, np.exp(logs), rss, levels=[law.region(law.level).threshold], colors="white", linewidths=1.2)
    axes.plot([best], [np.exp(centre)], "+", color="white", markersize=9, markeredgewidth=1.6)
    axes.set_yscale("log")
    axes.grid(False)
    axes.set_xlabel("alpha")
    axes.set_ylabel("D")
    axes.set_title(fitting(item.label, 40, 36), fontsize=8)
    return picture
