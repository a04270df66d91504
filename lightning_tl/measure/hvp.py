"""Products of the Hessian with vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.affine import nodes_in_order
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.params import squared_norms

_log = logging.getLogger(__name__)

# Parts of torch's messages for an operation that has a gradient but no gradient of the gradient.
_NO_DOUBLE_BACKWARD = (
    "is not implemented",
    "double backward",
    "differentiate twice",
    "once_differentiable",
    "does not support higher order",
)


class Hessian:
    """The Hessian of an objective at its present weights, as a linear map: ``with Hessian(objective) as H: H(v)``.

    Products are exact where the graph can be differentiated twice: the gradient of ⟨∇L, v⟩, by reverse mode. Else they
    are central differences of gradients, (∇L(θ + hv) − ∇L(θ − hv)) / 2h, and the log says so once. These also include
    the kinks of ReLUs between θ − hv and θ + hv, and can be wrong by a large factor there. With one batch the graph of
    the gradient is built once and kept until the context is left.

    Args:
        objective: Inside its ``measuring()`` context.
        differences: Use finite differences from the start.

    Raises:
        UserError: The objective substitutes weights.
    """

    def __init__(self, objective: Objective, differences: bool = False) -> None:
        if objective.substitute:
            raise UserError(
                "products of the Hessian need whole fp32 weights that can be written: not those of fully_shard, nor "
                "half precision (train with precision='bf16-mixed' or '16-mixed', which keep fp32 weights), nor with "
                "substitute=True. hessian_trace, perturbation_sensitivity and distance do without them"
            )
        self.objective = objective
        self.differences = differences
        self.products = 0
        self._kept: list[Tensor | None] | None = None

    def __enter__(self) -> Hessian:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kept = None

    def __call__(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """Return Hv.

        Args:
            vector: One tensor per parameter, of the parameter's shape; it is not changed.

        Returns:
            One tensor per parameter; zeros for parameters on which the gradient does not depend. Averaged over the
            processes.

        Raises:
            UserError: As :meth:`~lightning_tl.measure.objective.Objective.batch_loss`.
        """
        self.products += 1
        if not self.differences:
            try:
                return self.objective.reduce_list(self._exact(vector))
            except RuntimeError as error:
                self._kept = None
                if not lacks_double_backward(error):
                    raise
                self.differences = True
                _log.warning(
                    "%s has an operation without a double backward (%s); Hessian-vector products are taken by finite "
                    "differences of gradients from here on, which can be far off where the network has kinks (ReLU)",
                    type(self.objective.module).__name__,
                    str(error).splitlines()[0][:120],
                )
        return self._by_differences(vector)

    def _exact(self, vector: Sequence[Tensor]) -> list[Tensor]:
        objective = self.objective
        total = [torch.zeros_like(p) for p in objective.tensors]
        for index, weight in enumerate(objective.weights):
            keep = len(objective.batches) == 1
            grads = self._kept
            if grads is None:
                loss = objective.batch_loss(index)
                grads = list(torch.autograd.grad(loss, objective.tensors, create_graph=True, allow_unused=True))
                if self.products == 1:
                    check_twice_differentiable(grads)
                self._kept = grads if keep else None
            curved = [(g, v) for g, v in zip(grads, vector, strict=True) if g is not None and g.requires_grad]
            if not curved:
                continue
            products = torch.autograd.grad(
                [g for g, _ in curved],
                objective.tensors,
                [v for _, v in curved],
                retain_graph=keep,
                allow_unused=True,
            )
            for into, product in zip(total, products, strict=True):
                if product is not None:
                    into.add_(product.detach(), alpha=weight)
        return total

    def _by_differences(self, vector: Sequence[Tensor]) -> list[Tensor]:
        tensors = self.objective.tensors
        length = float(squared_norms(vector).sum().sqrt())
        if length == 0:
            return [torch.zeros_like(v) for v in vector]
        # the step that balances truncation, h², against rounding, eps/h, at the scale of the weights
        scale = max(float(squared_norms([p.detach() for p in tensors]).sum().sqrt()), 1.0)
        step = torch.finfo(tensors[0].dtype).eps ** (1 / 3) * scale / length
        centre = [p.detach().clone() for p in tensors]
        try:
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    for parameter, c, v in zip(tensors, centre, vector, strict=True):
                        parameter.copy_(c).add_(v, alpha=sign * step)
                sides.append(self.objective.gradient())
        finally:
            with torch.no_grad():
                for parameter, c in zip(tensors, centre, strict=True):
                    parameter.copy_(c)
        return [(plus - minus) / (2 * step) for plus, minus in zip(*sides, strict=True)]


def hvp(objective: Objective, vector: Sequence[Tensor]) -> list[Tensor]:
    """Return one Hessian-vector product; see :class:`Hessian` for arguments, result and errors."""
    with objective.measuring(), Hessian(objective) as hessian:
        return hessian(vector)


def check_twice_differentiable(grads: Sequence[Tensor | None]) -> None:
    """Raise the RuntimeError that torch should raise for functions that are marked ``once_differentiable``.

    Such a function is cut off from its inputs: torch.autograd.grad with ``inputs=`` never reaches the node that would
    raise, and a part of the product is silently missing.
    """
    for node in nodes_in_order(g.grad_fn for g in grads if g is not None and g.grad_fn is not None):
        if node.name().endswith("::Error"):
            raise RuntimeError("a function of the loss is marked once_differentiable: no double backward")


def lacks_double_backward(error: RuntimeError) -> bool:
    """Return whether torch's error means an operation that cannot be differentiated twice."""
    return any(words in str(error) for words in _NO_DOUBLE_BACKWARD)
