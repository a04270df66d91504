"""The trace from differences of gradients, beside the dense Hessian."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace, hvp, noise_scales
from lightning_tl.measure.difference_trace import _QuadraticForm
from lightning_tl.measure.params import Layout
from tests.measure.cases import build, exact


@pytest.mark.parametrize("dtype, slack", [(torch.float64, 1e-7), (torch.float32, 2e-3)])
@pytest.mark.parametrize("kind", ["attention", "tied", "tanh"])
def test_quadratic_forms_are_those_of_the_dense_hessian(kind, dtype, slack):
    dense = exact(build(kind))
    case = build(kind)
    case.module.to(dtype)
    batches = tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, list(case.batches))
    objective = Objective(case.module, case.loss_fn, batches, weights=case.weights, substitute=True)
    layout = Layout(objective.params)
    form = _QuadraticForm(objective, layout, seed=0, scales=None)
    z = torch.cat([form.probe(name, p.detach(), 0).flatten() for name, p in objective.params.items()]).double()
    assert set(z.tolist()) == {-1.0, 1.0}
    with objective.measuring():
        found = form(0, 1.0)
    assert float(found.sum()) == pytest.approx(float(z @ dense.hessian @ z), rel=slack)


def test_trace_and_weighted_trace_within_their_errors():
    case = build("attention")
    dense = exact(case)
    scales = noise_scales(case.module, case.params, "relative")
    objective = Objective(case.module, case.loss_fn, case.batches, weights=case.weights, substitute=True)
    found = hessian_trace(objective, products=60, scales=scales)
    assert found.method == "hutchinson"
    assert found.products == 60
    assert abs(found.value - dense.trace) < 4 * found.stderr
    assert sum(found.groups.values()) == pytest.approx(found.value)
    for group in found.groups:
        assert abs(found.groups[group] - dense.group_trace(f"{group}.")) < 4.5 * found.group_stderr[group]
    sigma = torch.cat([scales[n].double().expand_as(p).flatten() for n, p in case.params.items()])
    assert abs(found.weighted.value - float((sigma**2 * dense.hessian.diagonal()).sum())) < 4 * found.weighted.stderr
    tolerant = hessian_trace(objective, products=60, tolerance=0.5)
    assert tolerant.products < 60


def test_half_precision_is_that_of_an_fp32_copy():
    case = build("attention")
    single = case.module.bfloat16().float()
    written = hessian_trace(Objective(single, case.loss_fn, case.batches, substitute=True), products=6)
    half = hessian_trace(Objective(case.module.bfloat16(), case.loss_fn, case.batches), products=6)
    assert half.value == pytest.approx(written.value, rel=1e-6)


def test_kinks_are_warned_of(caplog):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)]
    batch = (torch.randn(8, 4), torch.randn(8, 1))
    for activation, warned in ((nn.ReLU, True), (nn.Softplus, False)):
        module = nn.Sequential(*[activation() if isinstance(layer, nn.ReLU) else layer for layer in layers])
        objective = Objective(module, lambda m, b: F.mse_loss(m(b[0]), b[1]), [batch], substitute=True)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for seed in range(5):
                hessian_trace(objective, products=3, seed=seed)
        assert any("kinks" in record.message for record in caplog.records) is warned


def test_what_needs_written_weights_is_refused():
    case = build("tanh")
    objective = Objective(case.module, case.loss_fn, case.batches, substitute=True)
    with pytest.raises(UserError, match="method='matvec' needs weights that can be written"):
        hessian_trace(objective, method="matvec")
    with pytest.raises(UserError, match="products of the Hessian need whole fp32 weights"):
        hvp(objective, objective.tensors)
