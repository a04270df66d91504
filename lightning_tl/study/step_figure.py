"""The path of a decision as a figure: confidence and cost at each step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_tl.figure_style import (
    COLOURS,
    MARKERS,
    STYLE,
    fitting,
    headed,
    is_narrow,
    narrow_path,
    new_figure,
    save_figures,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "steps"
CAPTION = (
    "Above or left: confidence in the likeliest answer at each step, and, dashed, the confidence from which on it is "
    "decided. Below or right: what had been spent by then, and what the fixed grid would have cost."
)
#: Curves drawn at most; more could not be distinguished.
_MOST = 7


def draw(steps: Mapping[str, Any], out: Path) -> list[Path]:
    """Draw ``steps.png``, and ``steps_narrow.png`` for narrow screens; nothing where there was no look yet."""
    paths = [out / f"{NAME}.png", narrow_path(out / f"{NAME}.png")]
    for path in paths:
        path.unlink(missing_ok=True)
    if not any(step["decisions"] for step in steps["taken"]):
        return []
    save_figures(lambda: {NAME: step_figure(steps)}, out)
    return paths


def step_figure(steps: Mapping[str, Any]) -> Figure:
    """Return the figure."""
    import matplotlib as mpl

    looked = [step for step in steps["taken"] if step["decisions"]]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(7.5, 2.9, columns=2)
        left, right = axes[0]
        numbers = [number for number, step in enumerate(steps["taken"], 1) if step["decisions"]]
        _confidence(left, numbers, looked)
        _cost(right, numbers, looked, steps["grid"]["cost"])
        headed(figure, steps["asked"])
    return figure


def _confidence(axes: Axes, numbers: list[int], looked: list[Mapping[str, Any]]) -> None:
    names = [decision["group"] for decision in looked[-1]["decisions"]]
    for i, name in enumerate(names[:_MOST]):
        own = [next((d for d in step["decisions"] if d["group"] == name), None) for step in looked]
        values = [100 * d["confidence"] if d else float("nan") for d in own]
        last = own[-1]
        label = fitting(f"{name}: {last['answer']}" if name else last["answer"], 34, 40) if last else name
        axes.plot(numbers, values, marker=MARKERS[i], color=COLOURS[i], markersize=4, linewidth=1.2, label=label)
    limits = [100 * step["decisions"][0]["threshold"] for step in looked]
    axes.plot(numbers, limits, color="0.3", linestyle="--", linewidth=1, label="asked for")
    axes.set_ylim(min(40.0, *_values(looked)), 101)
    axes.set_ylabel("confidence, %")
    _count_steps(axes, numbers)
    axes.legend(fontsize=7, loc="lower right")


def _values(looked: list[Mapping[str, Any]]) -> list[float]:
    return [100 * decision["confidence"] for step in looked for decision in step["decisions"]]


def _cost(axes: Axes, numbers: list[int], looked: list[Mapping[str, Any]], whole: float) -> None:
    axes.step(numbers, [step["cost"] for step in looked], where="mid", color=COLOURS[0], label="spent")
    axes.plot(numbers, [step["cost"] for step in looked], "o", color=COLOURS[0], markersize=4)
    axes.axhline(whole, color="0.3", linestyle="--", linewidth=1, label="fixed grid")
    axes.set_ylim(0, 1.08 * max(whole, looked[-1]["cost"]))
    axes.set_ylabel("cost")
    _count_steps(axes, numbers)
    axes.legend(fontsize=7, loc="center right" if not is_narrow() else "best")


def _count_steps(axes: Axes, numbers: list[int]) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    axes.set_xticks(range(numbers[0], numbers[-1] + 1, max(1, round(len(numbers) / 8))))
