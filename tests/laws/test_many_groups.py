"""Groups fitted together: the same laws as one by one, and as many evaluations a group however many there are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lightning_tl.laws.advice import advise
from lightning_tl.laws.clusters import Cells, cells
from lightning_tl.laws.fitted_law import FittedLaw, prepare_regions
from lightning_tl.laws.fitting import fit_cells, fit_many
from lightning_tl.laws.form_names import FORMS
from lightning_tl.laws.forms import Array, Form, FullLaw, PowerLaw, Sizes, TransferLaw
from lightning_tl.laws.group_fits import analyse, fitted
from lightning_tl.laws.least_squares import Prior, Problem
from lightning_tl.laws.points import Points
from lightning_tl.laws.results_table import groups

SIZES = 1000 * 2.0 ** np.arange(6)


def curves(count: int, repeats: int = 1, sizes: Array = SIZES) -> list[Cells]:
    """Points of several transfer laws, at each size as many as ``repeats``."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(count):
        truth = {"D": rng.uniform(1, 5), "alpha": rng.uniform(0.2, 0.8), "C": rng.uniform(0.0, 0.2)}
        n = np.repeat(sizes, repeats)
        found.append(cells(n, np.log(TransferLaw().predict(truth, n, n)) + 0.02 * rng.standard_normal(len(n))))
    return found


def grids(count: int) -> list[Cells]:
    """Points of several full laws."""
    rng = np.random.default_rng(4)
    n, s = (grid.ravel() for grid in np.meshgrid(SIZES, [200.0, 800.0, 3200.0]))
    found = []
    for _ in range(count):
        truth = {"delta": 2.0, "gamma": rng.uniform(0.05, 0.3), "alpha": rng.uniform(0.3, 0.7), "beta": 0.3}
        noise = 0.01 * rng.standard_normal(len(n))
        found.append(cells(n, np.log(FullLaw().predict(truth, n, s)) + noise, s))
    return found


@pytest.mark.parametrize(
    ("form", "points", "options"),
    [
        (TransferLaw(), curves(5), {}),
        (TransferLaw(), curves(5, repeats=3), {}),
        # not all of one shape: they are searched in several batches
        (TransferLaw(), [*curves(2), *curves(2, sizes=SIZES[:5]), *curves(1, repeats=2)], {}),
        (TransferLaw(), curves(3, repeats=2), {"space": "linear"}),
        (TransferLaw(), curves(3, repeats=2), {"loss": "huber"}),
        (TransferLaw(), curves(3, repeats=2), {"priors": (Prior("D", 2.0),)}),
        (TransferLaw(), curves(3, repeats=2), {"priors": (Prior("D", 2.0),), "space": "linear"}),
        (TransferLaw(), curves(3, repeats=2), {"priors": (Prior("D", 2.0, 0.5),)}),
        (PowerLaw(), curves(3, repeats=2), {}),
        (PowerLaw(), curves(3), {"priors": (Prior("alpha", 0.3, 0.5),)}),
        (FullLaw(), grids(3), {}),
        (FullLaw(), grids(3), {"priors": (Prior("delta", 2.0), Prior("beta", 0.3, 10.0))}),
    ],
)
def test_together_and_one_by_one_agree(form: Form, points: list[Cells], options: dict[str, object]) -> None:
    settings = {name: value for name, value in options.items() if name != "priors"}
    priors = options.get("priors", ())
    # Weights of the Huber loss follow the residuals, which an optimum leaves open to the root of its precision.
    exact = 1e-6 if "loss" in options else 1e-9
    together = fit_many(form, points, priors=[priors] * len(points), **settings)  # type: ignore[list-item, arg-type]
    prepare_regions((law, law.level) for law in together)
    for law, own in zip(together, points, strict=True):
        single = fit_cells(form, own, priors=priors, **settings)  # type: ignore[arg-type]
        assert law.search.rss == pytest.approx(single.search.rss, rel=exact, abs=1e-18)
        for name in form.parameters:
            assert law.params[name] == pytest.approx(single.params[name], rel=1e-6)
            if not form.uses_s:  # rays of the full law start in directions that rounding decides
                assert law.interval(name) == pytest.approx(single.interval(name), rel=1e-6)


@pytest.mark.parametrize("space", ["log", "linear"])
@pytest.mark.parametrize("name", sorted(FORMS))
def test_equal_sizes_as_one_point_have_the_same_sum_of_squares(name: str, space: str) -> None:
    """Against the sum over all the points, the scale (and beta) solved by numpy's least squares."""
    form, rng = FORMS[name](), np.random.default_rng(5)  # type: ignore[index]
    n, s = (np.tile(grid.ravel(), 3) for grid in np.meshgrid(SIZES[:4], [200.0, 800.0]))
    y, weight = rng.normal(-1, 0.3, len(n)), rng.uniform(0.2, 3, len(n))
    sizes = Sizes(n, s, float(n.min()), float(s.min()))
    problem = Problem(form, Points(sizes, y, weight), space)  # type: ignore[arg-type]
    inner, root = problem.form, np.sqrt(weight)
    for _ in range(5):
        outer, plateau = rng.uniform(0.1, 0.9, len(inner.outer)), np.array(rng.uniform(0.1, 0.9))
        shape, design = inner.nonlinear_log_error(outer, plateau, sizes), inner.design_matrix(sizes)
        wanted = y - shape if space == "log" else np.exp(y)
        columns = design if space == "log" else np.exp(shape)[:, None]
        solved = np.linalg.lstsq(root[:, None] * columns, root * wanted, rcond=None)[0]
        by_hand = np.sum(weight * (wanted - columns @ solved) ** 2)
        assert problem.rss(outer[None], plateau[None])[0] == pytest.approx(by_hand, rel=1e-10)


def table(count: int) -> pd.DataFrame:
    """Results of several groups, with runs without pre-training."""
    rows = []
    for i, points in enumerate(curves(count, repeats=2)):
        group = {"render": f"set{i}", "backbone": f"net{i % 3}"}
        rows += [
            {**group, "pretrain_images": n, "pretrain_seed": seed % 2, "error": float(np.exp(y))}
            for seed, (n, y) in enumerate(zip(points.n, points.log_error, strict=True))
        ]
        rows.append({**group, "pretrain_images": 0, "pretrain_seed": 0, "error": 0.5})
    return pd.DataFrame(rows).astype(str)


def counted(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> tuple[int, int]:
    """How often residuals are asked for, and at how many grid points in all."""
    calls = points = 0
    original = Problem.residual

    def residual(self: Problem, outer: Array, plateau: Array, aims: Array | None = None) -> tuple[Array, Array]:
        nonlocal calls, points
        calls, points = calls + 1, points + plateau.size
        return original(self, outer, plateau, aims)

    with monkeypatch.context() as patch:
        patch.setattr(Problem, "residual", residual)
        run()
    return calls, points


def test_groups_share_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many grid points as for the groups one by one, in a fraction of the calls."""
    all_groups = groups(table(16))
    calls, points = counted(monkeypatch, lambda: analyse(all_groups))
    apart = [counted(monkeypatch, lambda group=group: analyse([group])) for group in all_groups]  # type: ignore[misc]
    assert calls < sum(each[0] for each in apart) / 4
    assert points == sum(each[1] for each in apart)


def test_no_region_stays_in_memory() -> None:
    """Regions are the largest part of a fit; what reports ask of them is known without them."""
    fits = fitted(analyse(groups(table(4))))
    laws: list[FittedLaw] = [
        law for item in fits for law in (item.law, item.hold_out.law if item.hold_out else item.law)
    ]
    assert not any(law._regions for law in laws)
    assert all(np.isfinite(item.law.interval("alpha")).all() for item in fits[:1])
    assert not fits[0].law._regions


def test_pairs_of_many_groups_are_those_that_differ_in_one_column() -> None:
    """Against all pairs, one by one."""
    frame = pd.concat([table(4).assign(render=render, finetune_data=data) for render in "abc" for data in "xy"])
    fits = analyse(groups(frame.assign(pretrain_seed=range(len(frame)))))
    keys = {item.label: item.group.keys for item in fits}
    expected = [
        (first, second)
        for i, first in enumerate(keys)
        for second in list(keys)[i + 1 :]
        if sum(keys[first][name] != keys[second][name] for name in keys[first]) == 1
    ]
    assert len(fits) > 8
    assert [(pair.first, pair.second) for pair in advise(fits).comparisons] == expected
