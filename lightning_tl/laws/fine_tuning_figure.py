"""Error against the fine-tuning size, one curve for each pre-training size (Mikami et al., Figs. 2 b and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.figure_style import STYLE, fitting, headed, new_figure, plain_ticks, short
from lightning_tl.laws.curve_figures import terms_of
from lightning_tl.laws.forms import Array
from lightning_tl.laws.group_fits import GroupFit, GroupResult, fitted
from lightning_tl.laws.terms import Terms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns that are the fine-tuning size where curves differ in it.
_SIZE_COLUMNS = ("finetune_images", "finetune_fraction")
#: Curves drawn at most on one axes, and axes on the figure.
_MOST_CURVES, _MOST_PANELS = 6, 9


@dataclass(frozen=True)
class Panel:
    """Errors at several fine-tuning sizes: of one full law, or of several laws that differ in that size only.

    Attributes:
        title: What the panel shows.
        sizes: Fine-tuning sizes, ascending, shape (k,).
        items: The group at each size; of a full law the same one.
    """

    title: str
    sizes: Array
    items: list[GroupFit]

    @property
    def full(self) -> bool:
        """Whether one full law holds for all sizes, so that it is drawn between them as well."""
        return self.items[0].law.form.uses_s

    def errors(self, n: float) -> tuple[Array, Array]:
        """Return the fine-tuning sizes and errors of the runs at a pre-training size; 0 is no pre-training."""
        errors = []
        for size, item in zip(self.sizes, self.items, strict=True):
            runs = item.group.scratch if n == 0 else item.group.runs
            if self.full and "s" not in runs:
                continue
            rows = runs[(runs["n"] == n) & ((runs["s"] == size) if self.full else True)]
            errors += [(size, error) for error in rows["error"]]
        pairs = np.array(errors, float).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def law(self, n: float) -> tuple[Array, Array, Array, Array]:
        """Return fine-tuning sizes, the law's error at them, and the lower and upper ends of its interval."""
        if self.full:
            sizes = np.geomspace(self.sizes[0], self.sizes[-1], 40)
            items = [self.items[0]] * len(sizes)
        else:
            kept = [i for i, item in enumerate(self.items) if n in item.law.cells.n]
            sizes, items = self.sizes[kept], [self.items[i] for i in kept]
        rows = [item.law.log_level(n, float(size)) for size, item in zip(sizes, items, strict=True)]
        ends = np.array([[value, low, high] for value, (low, high) in rows]).reshape(-1, 3)
        return sizes, *np.exp(ends).T


def panels(fits: Sequence[GroupResult]) -> list[Panel]:
    """Return what a figure over the fine-tuning size can show; nothing where every curve has one such size."""
    shown: list[Panel] = []
    families: dict[tuple[tuple[str, str], ...], dict[float, GroupFit]] = {}
    for item in fitted(fits):
        law = item.law
        if law.form.uses_s:
            sizes = np.unique(law.cells.s)
            shown.append(Panel(item.label, sizes, [item] * len(sizes)))
        elif (size := _size(item)) is not None:
            rest = tuple((name, value) for name, value in item.group.keys.items() if name not in _SIZE_COLUMNS)
            families.setdefault(rest, {}).setdefault(size, item)
    several = {rest: members for rest, members in families.items() if len(members) > 1}
    varying = {name for name, _ in set().union(*several) if len({dict(rest)[name] for rest in several}) > 1}
    for rest, members in several.items():
        title = " / ".join(value for name, value in rest if name in varying) or "all fine-tuning sizes"
        shown.append(Panel(title, np.array(sorted(members)), [members[size] for size in sorted(members)]))
    return shown


def _size(item: GroupFit) -> float | None:
    """Return a group's fine-tuning size in images, else as a fraction; ``None`` where its keys do not say."""
    for name in _SIZE_COLUMNS:
        try:
            size = float(item.group.keys.get(name, ""))
        except ValueError:
            continue
        if np.isfinite(size) and size > 0:
            return size
    return None


def fine_tuning_figure(fits: Sequence[GroupResult], title: str | None = None) -> Figure | None:
    """Draw error over the fine-tuning size on logarithmic axes, one curve for each pre-training size.

    Points are runs. A full law is drawn through them with the interval of the law; where each fine-tuning size has a
    law of its own, its value and interval are drawn at that size. Dashed: without pre-training.

    Args:
        fits: Groups, fitted or not.
        title: Title of the figure.

    Returns:
        The figure; ``None`` where no group has several fine-tuning sizes and no groups differ in it only.
    """
    import matplotlib as mpl

    shown = panels(fits)
    if not shown:
        return None
    count, shown = len(shown), shown[:_MOST_PANELS]
    columns = min(3, len(shown))
    with mpl.rc_context(STYLE):
        width = max(3.6 * columns, 5.4)
        figure, grid = new_figure(width, 3.4 * (-(-len(shown) // columns)) + 0.4, -(-len(shown) // columns), columns)
        for axes in grid.ravel()[len(shown) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.ravel(), shown, strict=False):
            _draw(axes, panel)
            if len(shown) > 1:
                axes.set_title(fitting(panel.title, 40, 36), fontsize=8)
        some = f" (the first {len(shown)} of {count})" if count > len(shown) else ""
        headed(figure, (title or _title(terms_of(fits))) + some)
        return figure


def _title(terms: Terms) -> str:
    size = "model size" if terms.by_model else "fine-tuning size"
    return f"{terms.measured.capitalize()} by {size}; bands and bars: interval of the law"


def _label(terms: Terms, sizes: Array) -> str:
    if terms.by_model:
        return "model size N (parameters)"
    unit = terms.seconds.removeprefix("fine-tuning ") if sizes[-1] > 1 else "fraction"
    return f"fine-tuning size s ({unit})"


def _draw(axes: Axes, panel: Panel) -> None:
    import matplotlib as mpl

    sizes = np.unique(np.concatenate([item.group.runs["n"].to_numpy(float) for item in panel.items]))
    if len(sizes) > _MOST_CURVES:  # spread over the range, both ends among them
        sizes = sizes[np.unique(np.linspace(0, len(sizes) - 1, _MOST_CURVES).round().astype(int))]
    shades = mpl.colormaps["viridis"](np.linspace(0.85, 0, len(sizes)))
    terms = terms_of(panel.items)
    symbol = terms.symbol
    s, errors = panel.errors(0)
    if len(s):
        at = np.unique(s)
        mean = [np.exp(np.mean(np.log(errors[s == size]))) for size in at]
        axes.plot(s, errors, "x", color="0.45", markersize=3)
        axes.plot(at, mean, color="0.45", linestyle=(0, (5, 3)), linewidth=1.1, label="no pre-training")
    for size, shade in zip(sizes, shades, strict=True):
        s, errors = panel.errors(size)
        axes.plot(s, errors, "o", color=shade, markersize=3.5, label=f"{symbol} = {short(size)}", zorder=3)
        at, law, low, high = panel.law(size)
        axes.plot(at, law, color=shade, linewidth=1.3, zorder=2)
        bounded = np.isfinite(low) & np.isfinite(high)
        if panel.full:
            axes.fill_between(at[bounded], low[bounded], high[bounded], color=shade, alpha=0.15, linewidth=0)
        elif bounded.any():
            bars = np.stack([law - low, high - law])[:, bounded]
            axes.errorbar(at[bounded], law[bounded], bars, fmt="none", ecolor=shade, capsize=2.5, linewidth=1)
    every = np.concatenate([panel.errors(size)[1] for size in [0, *sizes]])
    pad = max((every.max() / every.min()) ** 0.08, 1.02)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(every.min() / pad, every.max() * pad)
    plain_ticks(axes)
    if len(panel.sizes) <= _MOST_CURVES:
        axes.set_xticks(panel.sizes, [short(size) for size in panel.sizes])
        axes.set_xticks([], minor=True)
    axes.set_xlabel(_label(terms, panel.sizes))
    axes.set_ylabel(terms.score)
    axes.legend(loc="lower left", fontsize=6.5, handlelength=1.2)
