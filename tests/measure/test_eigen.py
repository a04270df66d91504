"""The largest eigenvalues against dense Hessians in float64."""

import pytest
import torch

from lightning_tl.errors import UserError
from lightning_tl.measure import top_eigenvalues
from tests.measure.cases import build, exact


@pytest.mark.parametrize("name", ["tanh", "conv_bn", "attention"])
def test_top_eigenvalues(name):
    objective = build(name, steps=60)
    case = exact(objective)
    top = top_eigenvalues(objective, 3, products=60, tolerance=1e-6)
    expected = torch.linalg.eigvalsh(case.hessian).flip(0)[:3]
    assert torch.allclose(torch.tensor(top.values, dtype=torch.float64), expected, rtol=1e-5)
    assert max(top.residuals) < 1e-4 * abs(top.values[0])


def test_more_eigenvalues_than_products_are_refused():
    with pytest.raises(UserError, match="count=3 must be between 1 and products=2"):
        top_eigenvalues(build("tanh"), 3, products=2)
