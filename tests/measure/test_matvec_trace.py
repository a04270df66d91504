"""Traces from products only, against matrices of known spectrum and dense Hessians."""

import pytest
import torch
from scipy import stats

from lightning_tl.measure.matvec_trace import MatvecTrace
from lightning_tl.measure.params import Layout
from tests.measure.cases import (
    build,
    check_unbiased_and_honest,
    estimates,
    exact,
)


@pytest.mark.parametrize("name, steps, method", [("smoothed", 0, "hutchinson"), ("smoothed", 60, "xtrace")])
def test_matvec_is_unbiased_with_an_honest_error(name, steps, method):
    objective = build(name, steps)
    results = estimates(objective, products=24, method="matvec")
    assert {result.method for result in results} == {method}
    check_unbiased_and_honest(results, exact(objective).trace)


SPECTRA = {
    "flat": lambda p: torch.linspace(-1, 1, p),
    "outliers": lambda p: torch.cat([torch.linspace(20, 5, 6), 0.1 * torch.linspace(-1, 1, p - 6)]),
    "steep": lambda p: 1 / torch.arange(1, p + 1) ** 2,
    "low rank": lambda p: torch.cat([torch.linspace(3, 1, 4), torch.zeros(p - 4)]),
}


def of_spectrum(name, size=300):
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return (turn * SPECTRA[name](size).double()) @ turn.T


def matvec(matrix, products=24, seed=0, memory=None, keep=4, vectors=100):
    layout = Layout({"a.x": torch.empty(120, dtype=torch.float64), "b.y": torch.empty(180, dtype=torch.float64)})
    generator = torch.Generator().manual_seed(seed)
    count = []

    def product(v):
        count.append(1)
        return matrix @ v

    run = MatvecTrace(product, layout, generator, products, lambda value, error: False, vectors, memory or {}, keep)
    result = run.run()
    assert len(count) <= products
    return result


@pytest.mark.parametrize(
    "name, method, gain",
    [("flat", "hutchinson", 1.1), ("outliers", "xtrace", 0.6), ("steep", "xtrace", 0.3), ("low rank", "xtrace", 1e-6)],
)
def test_the_estimator_fits_the_spectrum(name, method, gain):
    matrix = of_spectrum(name)
    trace, norm = float(matrix.trace()), float(matrix.norm())
    results = [matvec(matrix, seed=seed) for seed in range(200)]
    assert {result.method for result in results} == {method}
    errors = torch.stack([result.groups.sum() for result in results]) - trace
    assert float(errors.square().mean().sqrt()) < gain * norm * (2 / 24) ** 0.5
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / 200**0.5 + 1e-9
    if name != "low rank":  # there the estimate is exact up to rounding
        half = torch.tensor([stats.t.ppf(0.975, result.degrees) * result.stderr for result in results])
        covered = int((errors.abs() < half).sum())
        assert stats.binom.ppf(0.001, 200, 0.90) <= covered <= stats.binom.ppf(0.999, 200, 0.99)
    for group, s in enumerate((slice(0, 120), slice(120, 300))):
        off = torch.stack([result.groups[group] for result in results]) - matrix.diagonal()[s].sum()
        assert abs(float(off.mean())) < 4 * float(off.std()) / 200**0.5 + 1e-9


def test_xtrace_with_few_vectors_spends_the_rest_on_deflated_probes():
    matrix = of_spectrum("outliers")
    results = [matvec(matrix, products=40, seed=seed, vectors=10) for seed in range(200)]
    errors = torch.stack([result.groups.sum() for result in results]) - matrix.trace()
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / 200**0.5
    assert float(errors.square().mean().sqrt()) < 0.4 * float(matrix.norm()) * (2 / 40) ** 0.5


def test_with_few_products_the_last_subspace_deflates():
    """The next measurement, with the same outliers slightly rotated: their part of the error vanishes."""
    matrix = of_spectrum("outliers")
    generator = torch.Generator().manual_seed(5)
    shift = torch.randn(300, 300, generator=generator, dtype=torch.float64) * 0.02
    later = matrix + shift @ shift.T
    plain, warm = [], []
    for seed in range(100):
        memory = matvec(matrix, products=8, seed=seed).memory
        # other probes than those that the basis comes from, as in a run
        second = matvec(later, products=8, seed=1000 + seed, memory=memory)
        assert second.method == "deflated"
        warm.append(second.groups.sum() - later.trace())
        plain.append(matvec(later, products=8, seed=1000 + seed).groups.sum() - later.trace())
    warm, plain = torch.stack(warm), torch.stack(plain)
    assert abs(float(warm.mean())) < 4 * float(warm.std()) / 10
    assert float(warm.square().mean()) < 0.8 * float(plain.square().mean())
