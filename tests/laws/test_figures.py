"""Figures: they show what they should, as pictures and as vectors, and leave no global state behind."""

from __future__ import annotations

import re
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib import rcParams
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from lightning_tl.figure_style import COLOURS, number, save
from lightning_tl.laws import FullLaw
from lightning_tl.laws.columns import Columns
from lightning_tl.laws.curve_figures import equation, law_figure, linearised_figure
from lightning_tl.laws.fine_tuning_figure import fine_tuning_figure
from lightning_tl.laws.group_fits import analyse
from lightning_tl.laws.law_figures import figures
from lightning_tl.laws.parameter_figures import complexity_figure, landscape_figure, model_size_figure
from lightning_tl.laws.results_table import groups

from .tables import falling, flat, results

SIZES = 1000 * 2.0 ** np.arange(7)


@pytest.fixture(scope="module")
def two():
    return analyse(groups(results({"digits": falling(0.4, 0.3), "shapes": flat(0.12)}, 0.1275, seed=1)))


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(0)
    rows = [
        {"n": n, "error": (0.6 * n**-0.45 + gap) * np.exp(0.003 * rng.standard_normal()), "model": model, "pool": pool,
         "complexity": level}
        for model, gap in (("r18", 0.3), ("r50", 0.25), ("r152", 0.2))
        for pool, level in (("a", 1), ("b", 2))
        for n in SIZES
    ]  # fmt: skip
    return analyse(groups(pd.DataFrame(rows), Columns(size="n", by=("model", "pool"))))


def test_the_law_figure_shows_points_laws_bands_and_scratch(two) -> None:
    figure = law_figure(two)
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "pre-training size n (images)"
    assert axes.get_ylabel() == "test error (1 − score)"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(label.startswith("digits: ") for label in labels)
    assert any("no pre-training" in label for label in labels)
    assert len(axes.containers) == 2  # error bars of both groups
    bands = [collection for collection in axes.collections if type(collection).__name__ == "FillBetweenPolyCollection"]
    assert len(bands) == 2
    law = two[0].law
    curves = [line for line in axes.lines if len(line.get_xdata()) == 40 and line.get_color() == COLOURS[0]]
    assert curves[0].get_ydata() == pytest.approx(law.predict(curves[0].get_xdata()))
    low, high = np.array(law.log_level(64.0)[1])
    edge = bands[0].get_paths()[0].vertices
    at = edge[np.isclose(edge[:, 0], 64)][:, 1]
    assert at.min() == pytest.approx(np.exp(low))
    assert at.max() == pytest.approx(np.exp(high))


def test_no_text_shows_the_marks_of_a_formula(two, many, tmp_path) -> None:
    """Dollar signs are not read as formulas, so that no text of ours may count on them."""
    for fits in (two, many):
        for name, figure in figures(fits).items():
            save(figure, tmp_path / f"{name}.png")
            texts = [text for text in figure.findobj(Text) if text.get_visible() and not text.get_parse_math()]
            assert not [text for text in texts if "$" in text.get_text()]
    alpha = re.search("n(⁻[⁰¹²³⁴⁵⁶⁷⁸⁹·]+)", equation(two[0]))[1]
    number = alpha.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻·", "0123456789-."))
    assert float(number) == pytest.approx(-two[0].law.params["alpha"], abs=0.006)


@pytest.mark.parametrize("name", [r"$\nope{$", "a$b$c", "$", r"\$x$", "$$"])
def test_names_with_dollar_signs_are_shown_as_they_are(name, tmp_path) -> None:
    fits = analyse(groups(results({name: falling(0.4, 0.3), "b": flat(0.12)}, 0.1275, seed=1)))
    for kind, figure in figures(fits).items():
        named = any(name in text.get_text() for text in figure.findobj(Text) if text.get_visible())
        assert named or kind not in ("law", "law_linearised")
        save(figure, tmp_path / f"{kind}.svg")  # raises where a name is read as a formula that is none
        written = ElementTree.parse(tmp_path / f"{kind}.svg").iter("{http://www.w3.org/2000/svg}text")
        assert named == any(name in "".join(text.itertext()) for text in written)


def test_colours_stay_apart_for_colour_blind_readers() -> None:
    """Simulated deuteranopia and protanopia (Viénot et al. 1999): every two of the first five stay apart."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = {
        "protan": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "deutan": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }
    seen = np.array([to_rgb(colour) for colour in COLOURS[:5]]) ** 2.2
    for matrix in blind.values():
        colours = np.clip(seen @ (np.linalg.inv(to_lms) @ matrix @ to_lms).T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=2)[np.triu_indices(5, 1)]
        assert apart.min() > 0.12


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_formats(two, tmp_path, suffix: str) -> None:
    before = dict(rcParams)
    path = tmp_path / f"law.{suffix}"
    save(law_figure(two), path)
    start = path.read_bytes()[:200]
    assert {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<svg"}[suffix] in path.read_bytes()[:600] + start
    if suffix == "svg":
        assert "pre-training size n (images)" in path.read_text()  # text stays text
    assert dict(rcParams) == before


def test_a_notebook_shows_a_figure(two) -> None:
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(law_figure(two))
    with Image.open(BytesIO(shown["image/png"])) as picture:
        assert picture.size[0] == 640  # pixels of 6.4 inches


def test_every_figure_by_what_the_table_has(two, many) -> None:
    common = {"law", "law_linearised", "law_parameters", "law_landscape", "law_extrapolation"}
    assert set(figures(two)) == common
    assert set(figures(many[::2])) == common | {"law_model_size"}


def test_many_curves_get_an_axes_each(many) -> None:
    figure = law_figure(many)
    assert [axes.get_title() for axes in figure.axes if axes.get_visible()] == [item.label for item in many]
    points = linearised_figure(many).axes[0].lines[0]
    law = many[0].law
    expected = np.exp(law.cells.log_error) - law.params["C"]
    assert points.get_ydata() == pytest.approx(expected[expected > 0])


def test_gaps_over_model_size(many) -> None:
    figure = model_size_figure(many)
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["11.7M", "25.6M", "60.2M"]
    assert model_size_figure(many[:1]) is None
    assert complexity_figure(many[::2]) is None  # one complexity only
    assert complexity_figure(many) is not None


def test_the_landscape_is_lowest_at_the_fit(many) -> None:
    figure = landscape_figure(many[:1])
    assert figure is not None
    axes, law = figure.axes[0], many[0].law
    mesh = axes.collections[0]
    values = np.asarray(mesh.get_array())
    row, column = np.unravel_index(np.argmin(values), values.shape)
    corners = mesh.get_coordinates()
    assert values.min() == pytest.approx(law.log_rmse, rel=0.1)
    assert corners[row, column, 0] < law.params["alpha"] * 1.15
    assert corners[row + 1, column + 1, 0] > law.params["alpha"] * 0.85


def test_the_full_law_draws_a_curve_a_fine_tuning_size() -> None:
    n, s = (grid.ravel() for grid in np.meshgrid(SIZES, [100.0, 400.0, 1600.0]))
    rng = np.random.default_rng(0)
    error = 4 * (0.05 + n**-0.5) * s**-0.3 * np.exp(0.01 * rng.standard_normal(len(n)))
    frame = pd.DataFrame({"n": n, "s": s, "error": error})
    fits = analyse(groups(frame, Columns(size="n", target_size="s", by=())), FullLaw())
    made = figures(fits)
    assert set(made) == {"law", "law_linearised", "law_parameters", "law_extrapolation", "law_fine_tuning"}
    labels = [text.get_text() for text in made["law"].axes[0].get_legend().get_texts()]
    assert labels == ["s = 100", "s = 400", "s = 1,600"]


def of_several_fine_tuning_sizes(**more: object) -> pd.DataFrame:
    """Two renderings, seven pre-training sizes and scratch, three fine-tuning sizes, two draws."""
    rng, rows = np.random.default_rng(0), []
    for render, gamma in (("a", 0.05), ("b", 0.1)):
        for n in (0.0, *SIZES):
            for s in (100.0, 400.0, 1600.0):
                for draw in (0, 1):
                    fall = n**-0.5 if n else 0.3
                    error = 4 * (gamma + fall) * s**-0.3 * np.exp(0.02 * rng.standard_normal())
                    rows.append({"render": render, "pretrain_images": n, "finetune_images": s, "draw_seed": draw,
                                 "error": error, **more})  # fmt: skip
    return pd.DataFrame(rows)


def test_error_over_fine_tuning_size_of_a_full_law() -> None:
    table = of_several_fine_tuning_sizes()
    fits = analyse(groups(table, Columns(target_size="finetune_images")), FullLaw())
    figure = fine_tuning_figure(fits)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    axes, law = figure.axes[0], fits[0].law
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "fine-tuning size s (images)"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["no pre-training", "n = 1k", "n = 2k", "n = 4k", "n = 16k", "n = 32k", "n = 64k"]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 40]
    for line, n in zip(lines, (1e3, 2e3, 4e3, 16e3, 32e3, 64e3), strict=True):
        s = line.get_xdata()
        assert (s.min(), s.max()) == (pytest.approx(100), pytest.approx(1600))
        assert line.get_ydata() == pytest.approx(law.predict(np.full(len(s), n), s))
    points = next(line for line in axes.lines if line.get_label() == "n = 1k")
    mine = table[(table["render"] == "a") & (table["pretrain_images"] == 1000)]
    assert sorted(points.get_ydata()) == pytest.approx(sorted(mine["error"]))
    low, high = np.exp(law.log_level(1000.0, 100.0)[1])
    edge = axes.collections[0].get_paths()[0].vertices
    at = edge[np.isclose(edge[:, 0], 100)][:, 1]
    assert (at.min(), at.max()) == (pytest.approx(low), pytest.approx(high))


def test_error_over_fine_tuning_size_where_each_has_a_law() -> None:
    fits = analyse(groups(of_several_fine_tuning_sizes()))
    assert len(fits) == 6
    assert "law_fine_tuning" in figures(fits)
    figure = fine_tuning_figure(fits)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    laws = {float(item.group.keys["finetune_images"]): item.law for item in fits if item.group.keys["render"] == "b"}
    drawn = [line.get_ydata() for line in figure.axes[1].lines if list(line.get_xdata()) == [100, 400, 1600]]
    expected = [laws[s].predict([64_000])[0] for s in (100.0, 400.0, 1600.0)]
    assert any(np.allclose(values, expected) for values in drawn)


def test_no_figure_over_one_fine_tuning_size(two, many) -> None:
    table = of_several_fine_tuning_sizes()
    one = table[table["finetune_images"] == 400]
    # One size in all, or one of its own for each rendering: nothing to draw over it.
    assert "law_fine_tuning" not in figures(analyse(groups(one)))
    other = table[(table["finetune_images"] == 400) == (table["render"] == "a")]
    other = other[(other["render"] == "a") | (other["finetune_images"] == 100)]
    assert fine_tuning_figure(analyse(groups(other))) is None
    assert fine_tuning_figure(two) is None
    assert fine_tuning_figure(many) is None


def test_fractions_are_named_so() -> None:
    table = of_several_fine_tuning_sizes().rename(columns={"finetune_images": "finetune_fraction"})
    table["finetune_fraction"] /= 1600
    figure = fine_tuning_figure(analyse(groups(table)))
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "fine-tuning size s (fraction)"


def test_a_group_without_a_fit_is_still_drawn() -> None:
    fits = analyse(groups(results({"a": falling(0.4, 0.3), "b": {64: 0.1, 128: 0.09}}, 0.13, seed=2)))
    labels = [text.get_text() for text in law_figure(fits).axes[0].get_legend().get_texts()]
    assert "b" in labels


@pytest.mark.parametrize("sizes", [(32, 128), (64, 128, 256), (20, 30), (1000, 64000)])
def test_few_sizes_have_plain_ticks(sizes):
    """Also those of less than a decade have at least two, and no powers of ten."""
    runs = pd.DataFrame(
        {"render": "a", "pretrain_images": [0, *sizes], "error": [0.5, *np.linspace(0.4, 0.3, len(sizes))]}
    )
    figure = law_figure(analyse(groups(runs)))
    figure.canvas.draw()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = [
        (at, tick.label1.get_text()) for at, tick in zip(axes.get_xticks(), axes.xaxis.get_major_ticks(), strict=True)
    ]
    inside = [text for at, text in ticks if low <= at <= high]
    assert len(inside) >= 2
    assert all(re.fullmatch(r"[\d.]+k?", text) for text in inside)
    assert not any(tick.label1.get_text() for tick in axes.xaxis.get_minor_ticks())
    assert "no pre-training: 0.5" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_numbers_are_written_without_an_e():
    values = (0.0123, 0.5, 123.4, 12345.0, 999_999.0, 12.3e6, 1.6e-11, 0.0)
    assert [number(value) for value in values] == [
        *("0.0123", "0.5", "123", "12,300", "1×10⁶", "1.23×10⁷", "1.6×10⁻¹¹", "0")
    ]
    assert number(123.0, 2) == "120"
