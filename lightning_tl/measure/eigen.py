"""The largest eigenvalues of the Hessian, by Lanczos's method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.hvp import Hessian
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.params import Layout, squared_norms


@dataclass(frozen=True)
class Eigenvalues:
    """Eigenvalues of the Hessian at the upper end of its spectrum.

    Attributes:
        values: Ritz values, the largest first. They approach the eigenvalues from below.
        residuals: ‖Hu − λu‖ of each: an eigenvalue lies within this of the value.
        products: Hessian-vector products spent.
    """

    values: list[float]
    residuals: list[float]
    products: int


def top_eigenvalues(
    objective: Objective, count: int = 1, *, products: int = 20, tolerance: float = 1e-2, seed: int = 0
) -> Eigenvalues:
    """Return the largest eigenvalues by Lanczos with full reorthogonalisation.

    Memory: one vector of the parameters' size per product.

    Args:
        objective: Loss, batches and parameters.
        count: How many.
        products: The budget, in Hessian-vector products.
        tolerance: Stop early once the residuals of all are below this share of the largest value.
        seed: Draws the first vector.

    Raises:
        UserError: The budget is smaller than the count.
    """
    if not 1 <= count <= products:
        raise UserError(f"top eigenvalues: count={count} must be between 1 and products={products}")
    layout = Layout(objective.params)
    generator = torch.Generator(layout.device).manual_seed(seed)
    start = torch.randn(layout.size, generator=generator, device=layout.device, dtype=layout.dtype)
    basis = [start / squared_norms([start])[0].sqrt().to(start.dtype)]
    alphas: list[float] = []
    betas: list[float] = []
    with objective.measuring(), Hessian(objective) as hessian:
        while True:
            image = layout.flatten(hessian(layout.unflatten(basis[-1])))
            alphas.append(float((image * basis[-1]).sum(dtype=torch.float64)))
            for _ in range(2):
                for vector in basis:
                    image -= (vector @ image) * vector
            betas.append(float(squared_norms([image])[0].sqrt()))
            ritz, residuals = _ritz(alphas, betas)
            available = min(count, len(alphas))
            size = max(abs(float(ritz[-1])), 1e-30)
            done = available == count and float(residuals[-count:].max()) <= tolerance * size
            if done or len(alphas) >= min(products, layout.size) or betas[-1] <= 1e-7 * size:
                break
            basis.append(image / betas[-1])
    top = range(len(ritz) - 1, len(ritz) - 1 - available, -1)
    return Eigenvalues([float(ritz[i]) for i in top], [float(residuals[i]) for i in top], hessian.products)


def _ritz(alphas: list[float], betas: list[float]) -> tuple[Tensor, Tensor]:
    """Return Ritz values, ascending, and their residuals from the tridiagonal matrix."""
    matrix = torch.diag(torch.tensor(alphas, dtype=torch.float64))
    for i, beta in enumerate(betas[:-1]):
        matrix[i, i + 1] = matrix[i + 1, i] = beta
    values, vectors = torch.linalg.eigh(matrix)
    return values, betas[-1] * vectors[-1].abs()
