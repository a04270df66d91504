"""The style that all figures share: colours, markers, titles, ticks; :func:`save` writes PNG, PDF or SVG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which differ for every kind of colour vision; markers differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,  # lines may have to pass behind it
    "svg.fonttype": "none",
    "svg.hashsalt": "lightning-tl",
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
    "figure.dpi": 100,
}


#: Width of figures for narrow screens, inches: at 100 dpi about that of a telephone.
NARROW = 3.9
_narrow: ContextVar[bool] = ContextVar("narrow", default=False)


@contextmanager
def narrow_figures() -> Iterator[None]:
    """Make the figures of the block for a narrow screen: their axes stand one below the other."""
    token = _narrow.set(True)
    try:
        yield
    finally:
        _narrow.reset(token)


def is_narrow() -> bool:
    """Return whether figures are made for a narrow screen."""
    return _narrow.get()


def fitting(label: str, narrow: int, wide: int = 60) -> str:
    """Return a label cut in its middle to as many letters as there is room for."""
    most = narrow if is_narrow() else wide
    half = (most - 1) // 2
    return label if len(label) <= most else f"{label[:half]}…{label[-half:]}"


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, layout: Any = "constrained", **kwargs: Any
) -> tuple[Figure, Any]:
    """Return a figure that no window or global state knows of, and its axes as an array (rows, columns).

    A notebook shows it as the value of a cell. For a narrow screen its axes stand one below the other; the array has
    the same shape.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stacked = is_narrow()
    if stacked:
        one = max(height / rows, 0.7 * NARROW) if columns == 1 else height / rows
        width, height = NARROW, max(one, 0.5 * NARROW) * rows * columns
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    # by itself a notebook shows only the figures of pyplot, which is not imported here
    vars(figure)["_repr_png_"] = partial(_png, figure)
    if not stacked:
        return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, figure.subplots(rows * columns, 1, squeeze=False, **kwargs).reshape(rows, columns)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    _save(figure, content, format="png", dpi=100)
    return content.getvalue()


def wrapped(figure: Figure, text: str, size: float) -> str:
    """Return a text in lines that fit a figure's width, in a font of so many points."""
    letters = int(72 * figure.get_figwidth() / (0.52 * size))  # mean width of a letter over its size
    return "\n".join(textwrap.wrap(text, max(20, letters)))


def noted(figure: Figure, text: str) -> None:
    """Write a small note under a figure."""
    size = 8 if is_narrow() else 7
    figure.supxlabel(wrapped(figure, text, size), fontsize=size, color="0.35", x=0.01, ha="left")


def headed(figure: Figure, text: str) -> None:
    """Give a figure its title, a fixed step under its upper edge."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height = figure.get_figheight()
    text = wrapped(figure, text, 10)
    more = 0.17 * text.count("\n")  # inches that further lines take
    figure.suptitle(text, fontsize=10, x=0.01, y=1 - 0.08 / height, ha="left", va="top")
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1, 1 - (0.28 + more) / height))  # it leaves no room for a title placed by hand
    elif more:
        figure.set_figheight(height + more)
        parameters = figure.subplotpars
        figure.subplots_adjust(
            top=parameters.top * height / (height + more), bottom=parameters.bottom * height / (height + more)
        )
        figure.suptitle(text, fontsize=10, x=0.01, y=1 - 0.08 / (height + more), ha="left", va="top")


def superscript(number: str) -> str:
    """Return a number in raised digits, for an exponent in a text: dollar signs in texts are no formulas."""
    return number.translate(str.maketrans("0123456789-.", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻·"))


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many digits: 0.0123, 12,300, 1.23×10⁷; never 1.23e+07."""
    text = f"{value:.{digits}g}"
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text
    return f"{float(text):,.0f}" if 0 < int(exponent) < 6 else f"{mantissa}×10{superscript(str(int(exponent)))}"


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the format follows from the file's name."""
    _save(figure, path)


def _save(figure: Figure, file: str | Path | io.BytesIO, **options: Any) -> None:
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        _show_dollars(figure)
        figure.savefig(file, **options)


def narrow_path(path: Path) -> Path:
    """Return the path of a figure's version for narrow screens, beside the figure."""
    return path.with_name(f"{path.stem}_narrow.png")


def save_figures(
    make: Callable[[], Mapping[str, Figure | None]], folder: Path, suffixes: Sequence[str] = ("png",)
) -> list[str]:
    """Write figures; as PNG also for narrow screens, as ``<name>_narrow.png``.

    Args:
        make: Makes the figures by name: once, and again for narrow screens; None: there is none of that name.
        folder: To write into.
        suffixes: Formats.

    Returns:
        The names of those that were written.
    """
    written = {name: figure for name, figure in make().items() if figure is not None}
    for name, figure in written.items():
        for suffix in suffixes:
            save(figure, folder / f"{name}.{suffix}")
    if "png" in suffixes:
        with narrow_figures():
            for name, narrow in make().items():
                if narrow is not None:
                    save(narrow, narrow_path(folder / f"{name}.png"))
    return list(written)


def _show_dollars(figure: Figure) -> None:
    """Let dollar signs in names be dollar signs, not formulas; only the ticks have formulas of their own."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    for text in figure.findobj(Text):
        if isinstance(text, Text) and "$" in text.get_text() and "mathdefault" not in text.get_text():
            text.set_parse_math(False)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FixedFormatter):
                formatter.seq = [str(name).replace("$", r"\$") for name in formatter.seq]


def short(value: float) -> str:
    """Return a size as 500, 2k, 1.28M, 4B or 2T: several decades fit under a narrow axes."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def plain_ticks(axes: Axes) -> None:
    """Write ticks of logarithmic axes as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axes.get_ylim()
    if high / low < 4:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        subs = (1.0, 2.0, 3.0, 5.0, 7.0) if high / low < 20 else (1.0, 3.0) if high / low < 1000 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 6)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    if low > 0 and high / low < 50:  # else there would be a single tick, and 3×10¹ beside it
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    elif axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
