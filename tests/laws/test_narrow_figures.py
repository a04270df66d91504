"""Figures for narrow screens: axes one below the other, whole titles, no empty frames."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from lightning_tl.cli import law
from lightning_tl.figure_style import NARROW, STYLE, is_narrow, narrow_figures
from lightning_tl.laws.group_fits import analyse
from lightning_tl.laws.law_figures import NAMES, figures
from lightning_tl.laws.results_table import groups

SIZES = (0, 50, 100, 200, 400, 800)


def table(flat: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for render in ("a-rendering-with-a-long-name", "b"):
        for n in SIZES:
            for draw in range(3):
                error = 0.3 if n == 0 else 0.2 if flat else 0.8 * n**-0.4 + 0.1
                rows.append((render, n, draw, error * float(np.exp(rng.normal(0, 0.02)))))
    columns = ["render", "pretrain_images", "draw_seed", "error"]
    return pd.DataFrame(rows, columns=columns).astype(str)


def fits(flat: bool = False):
    return analyse(groups(table(flat)))


@pytest.mark.parametrize("narrow", [False, True])
def test_texts_stay_inside_their_figure(narrow: bool) -> None:
    """Titles, labels, legends: nothing is cut off at the figure's edges."""
    if narrow:
        with narrow_figures():
            made = figures(fits())
    else:
        made = figures(fits())
    assert set(made) <= set(NAMES)
    for name, figure in made.items():
        with mpl.rc_context(STYLE):
            figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        width, height = figure.canvas.get_width_height()
        heading = figure._suptitle
        for legend in figure.legends:  # below the axes, over nothing
            below = legend.get_window_extent(renderer)
            others = [axes.get_tightbbox(renderer) for axes in figure.axes]
            others += [figure._supxlabel.get_window_extent(renderer)] if figure._supxlabel else []
            assert not any(below.overlaps(box) for box in others), name
            assert below.x0 >= -2
            assert below.x1 <= width + 2
        texts = [heading, *(axes.title for axes in figure.axes), *(axes.xaxis.label for axes in figure.axes)]
        for text in texts:
            assert isinstance(text, Text)
            if text.get_text() and text.get_visible() and (text.axes is None or text.axes.get_visible()):
                box = text.get_window_extent(renderer)
                assert box.x0 >= -2, (name, text.get_text())
                assert box.x1 <= width + 2, (name, text.get_text())
                assert -2 <= box.y0 <= box.y1 <= height + 2, (name, text.get_text())


def test_axes_are_stacked() -> None:
    with narrow_figures():
        made = figures(fits())
    assert not is_narrow()
    for name in ("law_parameters", "law_extrapolation"):
        figure = made[name]
        assert figure.get_figwidth() == NARROW
        lefts = {round(axes.get_position().x0, 2) for axes in figure.axes if axes.get_visible()}
        assert len(lefts) == 1
        tops = [axes.get_position().y1 for axes in figure.axes]
        assert tops == sorted(tops, reverse=True)


def test_no_frame_without_a_curve() -> None:
    """Flat curves have no slope to show above their gap."""
    flat = fits(flat=True)
    made = figures(flat)
    assert all(axes.lines for axes in made["law"].axes)
    if all(item.law.at_bound("alpha") for item in flat):
        assert "law_linearised" not in made
    for figure in made.values():
        for axes in figure.axes:
            assert axes.has_data() or not axes.get_visible()


def test_the_command_writes_both_and_removes_old_ones(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "results.csv", index=False)
    (tmp_path / "law_model_size.png").write_bytes(b"of an earlier fit")
    law.main([str(tmp_path / "results.csv")])
    assert not (tmp_path / "law_model_size.png").exists()
    for name in ("law", "law_parameters"):
        assert Image.open(tmp_path / f"{name}_narrow.png").width == round(150 * NARROW)
        assert (tmp_path / f"{name}.png").is_file()
