"""What is drawn of which records."""

import math

import matplotlib
import pytest

from lightning_tl.measured_value import Measured
from lightning_tl.offline import checkpoints_plot
from lightning_tl.offline.checkpoints_plot import plot_measurements


@pytest.fixture
def figure(tmp_path, monkeypatch):
    """Plot records and return the figure that was saved."""
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *args, **options: figures.append(self) or save(self, *args)
    )

    def plot(records):
        path = tmp_path / "new" / "measurements.png"
        checkpoints_plot.plot_measurements(records, path)
        assert path.read_bytes().startswith(b"\x89PNG")
        return figures[-1]

    return plot


def line(step, values, curvature=0.0):
    for at, value in zip((0.0, 0.5, 1.0, 2.0), values, strict=True):
        yield Measured(step=step, quantity="loss_along", gamma=at, value=value)
        yield Measured(step=step, quantity="quadratic_along", gamma=at, value=1 + curvature * at**2)


def test_panels_curves_and_bands(figure):
    records = [
        Measured(step=4, quantity="param_distance", group="total", value=2.0),
        Measured(step=0, quantity="param_distance", group="total", value=1.0),
        Measured(step=0, quantity="param_distance", group="head", value=9.0),  # a parameter group: not drawn
    ]
    for step in (0, 4):
        for gamma, value in ((0.1, 1.0 + step), (0.02, 0.5)):
            records.append(Measured(step=step, quantity="sensitivity", gamma=gamma, value=value, stderr=0.25))
    distance, rise = figure(records).axes
    (curve,) = distance.lines
    assert curve.get_xydata().tolist() == [[0, 1], [4, 2]]
    assert not distance.collections
    assert [text.get_text() for text in rise.get_legend().get_texts()] == ["γ = 0.02", "γ = 0.1"]
    assert rise.lines[1].get_xydata().tolist() == [[0, 1], [4, 5]]
    band = rise.collections[1].get_paths()[0].vertices  # two standard errors on either side
    assert {tuple(vertex) for vertex in band} == {(0, 0.5), (0, 1.5), (4, 4.5), (4, 5.5)}


def test_lines_with_their_parabolas(figure):
    (axis,) = figure([*line(4, [1, 2, 3, 4]), *line(8, [1, 1, 2, 3], curvature=100.0)]).axes
    assert [curve.get_linestyle() for curve in axis.lines] == ["-", "--", "-", "--"]
    assert axis.lines[3].get_ydata().tolist() == [1, 26, 101, 401]
    assert axis.get_ylim() == (0, 6)  # of the loss: the parabola may leave the panel
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["step = 4", "step = 8"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite(figure, bad):
    """Interpolated statistics can be negative beyond the checkpoint: there is no loss there."""
    (axis,) = figure([*line(4, [1, 2, 3, bad])]).axes
    assert axis.get_ylim() == (0, 6)
    figure([*line(4, [bad] * 4)])


def test_a_file_is_written_for_any_table(tmp_path):
    plot_measurements([Measured(step=0, quantity="hessian", group="trace", value=1.0, stderr=0.0)], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
