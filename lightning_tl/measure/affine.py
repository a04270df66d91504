"""In which parameters is an output affine, each scalar by itself? For these the trace of its Hessian is zero.

A network of convolutions, linear layers, ReLUs, poolings and BatchNorm in eval mode is piecewise affine in each single
parameter: ∂²f/∂θᵢ² = 0 almost everywhere, although f is not affine in all of them together. Whether this holds is read
from the graph that autograd recorded, functional calls included. Unknown operations count as not affine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge

_LINEAR = frozenset(
    """Add Sub Rsub Neg View UnsafeView ReshapeAlias Reshape T Transpose Permute Movedim Expand Repeat Sum Mean Cat
    Stack Split SplitWithSizes Unbind Chunk Select Slice Narrow Squeeze Unsqueeze Clone Alias Detach ToCopy Contiguous
    Index Gather IndexSelect MaskedSelect ConstantPadNd ReflectionPad1D ReflectionPad2D ReplicationPad2D Flip Roll
    UpsampleNearest2D UpsampleBilinear2D UpsampleBilinear2DAa UpsampleBicubic2D UpsampleNearest1D AvgPool1D AvgPool2D
    AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D MkldnnAdaptiveAvgPool2D PixelShuffle PixelUnshuffle Embedding
    UnsafeSplit Unfold Im2Col Col2Im Diagonal AsStrided Tril Triu""".split()  # noqa: SIM905
)
_PIECEWISE = frozenset(
    """Relu LeakyRelu Hardtanh Threshold MaxPool2DWithIndices MaxPool3DWithIndices AdaptiveMaxPool2D Max Min Amax Amin
    Maximum Minimum Abs Clamp ClampMin ClampMax Where MaskedFill Sort Topk""".split()  # noqa: SIM905
)
# Affine in each factor, if the operands share no parameter.
_PRODUCTS = frozenset(
    """Mul Mm Addmm Bmm Baddbmm Addbmm Mv Dot Addmv Linear Convolution MkldnnConvolution PreluKernel Prelu Addcmul
    NativeBatchNorm CudnnBatchNorm MiopenBatchNorm""".split()  # noqa: SIM905
)


def nonaffine(output: GradientEdge, params: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the parameters in which a recorded output may not be piecewise affine.

    Args:
        output: The edge of the output in the graph that autograd recorded.
        params: Name → parameter; a parameter counts as one block.

    Returns:
        Names; empty if the trace of every output's Hessian is zero.
    """
    names = {id(parameter): (name, 1 << bit) for bit, (name, parameter) in enumerate(params.items())}
    upstream: dict[Any, int] = {}
    suspects = 0
    for node in nodes_in_order([output.node]):
        masks = [0 if source is None else upstream[source] for source, _ in node.next_functions]
        union = 0
        for mask in masks:
            union |= mask
        kind = node.name().rsplit("::", 1)[-1].rstrip("0123456789").removesuffix("Backward")
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            union = names.get(id(leaf), ("", 0))[1]
        elif union and kind not in _LINEAR and kind not in _PIECEWISE:
            suspects |= _nonaffine_in(node, kind, masks, union)
        upstream[node] = union
    return {name for name, bit in names.values() if suspects & bit}


def _nonaffine_in(node: Any, kind: str, masks: list[int], union: int) -> int:
    """Return the parameters, as bits, in which one node is not affine."""
    if kind == "Div":
        denominator = masks[1] if len(masks) > 1 else 0
        return union if denominator else 0
    if kind not in _PRODUCTS:
        return union
    if kind.endswith("BatchNorm") and getattr(node, "_saved_training", True):
        return union
    # An addend (addmm's first operand) may share parameters with the factors; to treat it as a factor is safe.
    seen = shared = 0
    for mask in masks:
        shared |= seen & mask
        seen |= mask
    return shared


def nodes_in_order(roots: Iterable[Any]) -> list[Any]:
    """Return the nodes of a graph, each after all that it depends on."""
    order: list[Any] = []
    done: set[Any] = set()
    stack = [(root, False) for root in roots]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((source, False) for source, _ in node.next_functions if source is not None)
    return order
