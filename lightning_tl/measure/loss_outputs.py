"""The outputs behind a loss and the loss's own curvature there, read from the graph that autograd recorded.

For L = (1/M) Σ_m ℓ(f_m, y_m) the trace of the Hessian is Tr H = Tr G + Tr R with the Gauss-Newton part
G = (1/M) Σ_m J_mᵀ Λ_m J_m, Λ_m = ∂²ℓ/∂f², and R = Σ_m Σ_c ∂L/∂f_mc ∇²f_mc (Schraudolph 2002). The known
losses are cross-entropy, binary cross-entropy with logits and the squared error, as torch.nn.functional computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge


@dataclass(frozen=True)
class Outputs:
    """The outputs f of a loss that is known.

    Attributes:
        edge: The outputs in the recorded graph.
        residual: ∂L/∂f, the outputs' shape, detached.
        shape: The outputs' shape.
        class_dim: The dimension of the classes for cross-entropy, else None: elements are independent.
        root: For cross-entropy √p, else √Λ, the outputs' shape.
        scale: √ of each row's weight in the mean, of a shape that broadcasts against the outputs.
    """

    edge: GradientEdge
    residual: Tensor
    shape: torch.Size
    class_dim: int | None
    root: Tensor
    scale: Tensor

    @property
    def rank(self) -> int | None:
        """How many unit directions make Tr G exact; None unless the outputs are [N, C], one row per sample."""
        if len(self.shape) == 1 and self.class_dim is None:
            return 1
        if len(self.shape) != 2 or self.class_dim == 0:
            return None
        return self.shape[1] - 1 if self.class_dim == 1 else self.shape[1]

    def random_direction(self, generator: torch.Generator) -> Tensor:
        """Return v = Λ^½ ε (scaled by the row's weight), the outputs' shape, with E[v vᵀ] = Λ and independent rows."""
        return self._factor(_signs(self.shape, generator, self.root))

    def unit_direction(self, index: int, generator: torch.Generator) -> Tensor:
        """Return column ``index`` of Λ^½ for every row, with a random sign per row; the sum over ``rank`` is Λ exactly.

        Cross-entropy: Λ = diag(p) − ppᵀ has rank C − 1. Its root diag(√p)(I − √p√pᵀ) is turned by the Householder
        reflection that maps e₁ to √p. After it the first column is zero, and C − 1 columns remain.
        """
        signs = _signs((*self.shape[:1], *(1,) * (len(self.shape) - 1)), generator, self.root)
        unit = torch.zeros_like(self.root)
        if self.class_dim is None:
            unit[..., index if len(self.shape) > 1 else slice(None)] = 1.0
            return self._factor(unit * signs)
        unit[:, index + 1] = 1.0
        mirror = self.root / self.root.norm(dim=1, keepdim=True).clamp_min(1e-30)
        mirror = mirror.clone()
        mirror[:, 0] -= 1.0
        length = (mirror * mirror).sum(1, keepdim=True)
        reflected = unit - 2 * mirror * mirror[:, index + 1 : index + 2] / length.clamp_min(1e-30)
        return self._factor(reflected * signs)

    def _factor(self, vector: Tensor) -> Tensor:
        if self.class_dim is None:
            return self.root * vector * self.scale
        along = (self.root * vector).sum(self.class_dim, keepdim=True)
        return self.root * (vector - self.root * along) * self.scale


def find_outputs(loss: Tensor) -> Outputs | None:
    """Return the outputs of a loss if it is one of those known, else None.

    Args:
        loss: A scalar with its graph, for instance the result of ``F.cross_entropy`` (no label smoothing).
    """
    node = loss.grad_fn
    while node is not None and node.name() in ("ViewBackward0", "ReshapeAliasBackward0", "SqueezeBackward0"):
        node = node.next_functions[0][0]
    reader = _READERS.get("" if node is None else node.name())
    if reader is None:
        return None
    try:
        parts = reader(node)
    except (AttributeError, IndexError, TypeError):  # another version of torch stores other things in its nodes
        return None
    if parts is None:
        return None
    source, root, scale, class_dim = parts
    edge = GradientEdge(*source)
    (residual,) = torch.autograd.grad(loss, [edge], retain_graph=True)
    return Outputs(edge, residual.detach(), root.shape, class_dim, root.detach(), scale.detach())


Parts = tuple[tuple[Any, int], Tensor, Tensor, int | None]
"""The outputs' place in the graph, and ``root``, ``scale`` and ``class_dim`` of :class:`Outputs`."""


def _cross_entropy(node: Any) -> Parts | None:
    soft = node.next_functions[0][0]
    if soft is None or soft.name() != "LogSoftmaxBackward0" or soft.next_functions[0][0] is None:
        return None
    log_p, target = soft._saved_result, node._saved_target
    dim = soft._saved_dim
    dim = dim - 2**64 if dim >= 2**63 else dim
    dim %= log_p.dim()
    if node._saved_reduction == 0 or log_p.dim() != target.dim() + 1 or dim != (1 if log_p.dim() > 1 else 0):
        return None
    ignore = node._saved_ignore_index
    ignore = ignore - 2**64 if ignore >= 2**63 else ignore
    counted = target != ignore
    weight = node._saved_weight
    rows = counted.to(log_p.dtype)
    if weight is not None:
        rows = rows * weight[target.masked_fill(~counted, 0)]
    total = rows.sum() if node._saved_reduction == 1 else torch.ones_like(rows.sum())
    return soft.next_functions[0], (log_p / 2).exp(), (rows / total).sqrt().unsqueeze(dim), dim


def _squared(node: Any) -> Parts | None:
    sources = node.next_functions
    if node._saved_reduction == 0 or sources[0][0] is None or (len(sources) > 1 and sources[1][0] is not None):
        return None
    outputs = node._saved_self
    count = outputs.numel() if node._saved_reduction == 1 else 1
    root = torch.full_like(outputs, (2 / count) ** 0.5)
    return sources[0], root, root.new_ones(()), None


def _binary(node: Any) -> Parts | None:
    sources = node.next_functions
    if node._saved_reduction == 0 or sources[0][0] is None or any(s is not None for s, _ in sources[1:]):
        return None
    p = node._saved_self.sigmoid()
    curvature = p * (1 - p)
    if node._saved_pos_weight is not None:
        y = node._saved_target
        curvature = curvature * (node._saved_pos_weight * y + 1 - y)
    if node._saved_weight is not None:
        curvature = curvature * node._saved_weight
    if node._saved_reduction == 1:
        curvature = curvature / p.numel()
    return sources[0], curvature.sqrt(), p.new_ones(()), None


_READERS = {
    "NllLossBackward0": _cross_entropy,
    "NllLoss2DBackward0": _cross_entropy,
    "MseLossBackward0": _squared,
    "BinaryCrossEntropyWithLogitsBackward0": _binary,
}


def _signs(shape: Any, generator: torch.Generator, like: Tensor) -> Tensor:
    bits = torch.randint(0, 2, tuple(shape), generator=generator, device=generator.device, dtype=torch.int8)
    return bits.to(like.device, like.dtype) * 2 - 1
