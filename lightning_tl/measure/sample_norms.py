"""Sums of squared per-sample gradient norms from one backward pass, without storing a per-sample gradient.

The gradient of a linear layer for sample n is Σ_t g_nt a_ntᵀ, with its inputs a and the gradients g at its outputs; a
convolution is a linear layer on unfolded patches. Σ_n ‖·‖² then costs what a weight gradient costs (Goodfellow 2015,
arXiv 1510.01799; Rochette et al. 2019, arXiv 1912.06015). Parameters that are used in another way are not covered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

_CHUNK = 1 << 25  # elements of a temporary


@dataclass
class _Call:
    """One call of a layer: its inputs, and the place of its output in the graph."""

    layer: nn.Module
    inputs: Tensor
    edge: GradientEdge


class SampleNorms:
    """Records the calls of the layers whose per-sample gradient norms are cheap.

    Args:
        module: The module.
        params: Name → measured parameter.
    """

    def __init__(self, module: nn.Module, params: Mapping[str, Tensor]) -> None:
        self._index = {id(p): i for i, p in enumerate(params.values())}
        self._count = len(params)
        self._calls: dict[nn.Module, list[_Call]] = {}
        self._layers = [
            layer
            for layer in module.modules()
            if _norms_of(layer) is not None and any(id(p) in self._index for p in layer.parameters(recurse=False))
        ]
        self.dropped: set[int] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record a forward pass that runs inside."""
        self._calls = {}

        def record(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor) and output.requires_grad:
                # the edge is taken now, as an in-place ReLU that follows replaces the output in the graph
                self._calls.setdefault(layer, []).append(_Call(layer, args[0].detach(), get_gradient_edge(output)))

        handles = [layer.register_forward_hook(record) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def samples(self) -> int | None:
        """The leading dimension of the first recorded input, which is assumed to be the number of samples."""
        calls = next(iter(self._calls.values()), None)
        return int(calls[0].inputs.shape[0]) if calls and calls[0].inputs.dim() else None

    @property
    def edges(self) -> list[GradientEdge]:
        """Where gradients are needed: the outputs of the recorded layers that were called once."""
        return [calls[0].edge for calls in self._usable()]

    @property
    def covered(self) -> set[int]:
        """Indices of the parameters that :meth:`norms` covers."""
        return {
            self._index[id(p)]
            for calls in self._usable()
            for p in calls[0].layer.parameters(recurse=False)
            if id(p) in self._index
        } - self.dropped

    def norms(self, gradients: list[Tensor | None], samples: int, scales: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return Σ_n ‖g_n‖² by parameter, [number of parameters], float64 on the CPU; 0 where not covered.

        Args:
            gradients: One per recorded edge, in the order of :attr:`edges`.
            samples: The number of samples N; a leading dimension of k·N counts as k positions of each sample.
            scales: By index of a parameter, one number for each index of its first dimension, as a tensor that
                broadcasts against it: then Σ_n ‖scale ∘ g_n‖², of these parameters only.
        """
        sums: list[tuple[int, Tensor]] = []
        for calls, gradient in zip(self._usable(), gradients, strict=True):
            layer, inputs = calls[0].layer, calls[0].inputs
            if gradient is None or inputs.shape[0] % samples or gradient.shape[0] % samples:
                continue
            own = {
                name: self._index[id(p)] for name, p in layer.named_parameters(recurse=False) if id(p) in self._index
            }
            measure = _norms_of(layer)
            assert measure is not None  # only layers that have one were recorded
            parts = [(set(own), gradient)]
            if scales is not None:
                parts = [
                    ({name}, _scaled(layer, inputs, gradient, scales[index]))
                    for name, index in own.items()
                    if index in scales
                ]
            for wanted, part in parts:
                for name, value in measure(layer, inputs, part, samples, wanted).items():
                    sums.append((own[name], value))
        total = torch.zeros(self._count, dtype=torch.float64)
        if sums:
            values = torch.stack([value.double() for _, value in sums]).cpu()
            total.index_add_(0, torch.tensor([index for index, _ in sums]), values)
        total[list(self.dropped)] = 0
        return total

    def _usable(self) -> list[list[_Call]]:
        return [calls for calls in self._calls.values() if len(calls) == 1]


Norms = Callable[[Any, Tensor, Tensor, int, set[str]], dict[str, Tensor]]


def _scaled(layer: nn.Module, x: Tensor, g: Tensor, scale: Tensor) -> Tensor:
    """Return gradients at the output for which the gradient of the weight becomes scale ∘ itself.

    Each index of a weight's first dimension acts on one channel of the outputs; in an embedding, on one word.
    """
    if isinstance(layer, nn.LayerNorm):
        return g * scale
    rows = scale.flatten()
    if isinstance(layer, nn.Embedding):
        return g * rows[x].unsqueeze(-1)
    return g * (rows if isinstance(layer, nn.Linear) else rows.view(-1, *(1,) * (g.dim() - 2)))


def _linear(layer: nn.Linear, x: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, Tensor]:
    a, b = x.reshape(n, -1, x.shape[-1]), g.reshape(n, -1, g.shape[-1])
    return _weight_and_bias(a.transpose(1, 2), b.transpose(1, 2), wanted)


def _conv(layer: nn.Conv2d, x: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, Tensor]:
    g = g.reshape(n, -1, *g.shape[1:]).transpose(1, 2).flatten(2) if g.shape[0] != n else g.flatten(2)
    if "weight" not in wanted:
        return _weight_and_bias(None, g, wanted)
    patches = _patches(layer, x)
    patches = patches.reshape(n, -1, *patches.shape[1:]).transpose(1, 2).flatten(2) if x.shape[0] != n else patches
    if layer.groups == 1:
        return _weight_and_bias(patches, g, wanted)
    # each group is a layer of its own; all are treated at once, as if they were further samples
    weight = _weight_and_bias(
        patches.reshape(n * layer.groups, -1, patches.shape[-1]),
        g.reshape(n * layer.groups, -1, g.shape[-1]),
        {"weight"},
    )
    return weight | _weight_and_bias(None, g, wanted - {"weight"})


def _patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the input's patches, [N, C·k·k, T], in the order of the output's positions."""
    padding, size, stride = layer.padding, layer.kernel_size, layer.stride
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        padding = (0, 0)
    if set(size) == {1} and set(padding) == {0}:
        return x[:, :, :: stride[0], :: stride[1]].flatten(2)
    return F.unfold(x, size, dilation=layer.dilation, padding=padding, stride=stride)


def _weight_and_bias(a: Tensor | None, g: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    """Return Σ_n ‖Σ_t g_nt a_ntᵀ‖² and Σ_n ‖Σ_t g_nt‖² for a [N, I, T] and g [N, O, T]."""
    norms = {}
    if "bias" in wanted:
        norms["bias"] = g.sum(2).square().sum()
    if "weight" in wanted and a is not None:
        positions, wide, tall = a.shape[2], a.shape[1], g.shape[1]
        if positions == 1:
            norms["weight"] = (a.square().sum((1, 2)) * g.square().sum((1, 2))).sum()
        elif positions * (wide + tall) < wide * tall:
            # ‖Σ_t g_t a_tᵀ‖² = Σ_tt' ⟨a_t, a_t'⟩⟨g_t, g_t'⟩, where there are few positions
            norms["weight"] = ((a.transpose(1, 2) @ a) * (g.transpose(1, 2) @ g)).sum()
        else:
            step = max(1, _CHUNK // (wide * tall))
            norms["weight"] = torch.stack(
                [
                    torch.bmm(g[i : i + step], a[i : i + step].transpose(1, 2)).square_().sum()
                    for i in range(0, len(a), step)
                ]
            ).sum()
    return norms


def _norm_layer(layer: Any, x: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, Tensor]:
    if isinstance(layer, nn.LayerNorm):
        if tuple(x.shape[-len(layer.normalized_shape) :]) != tuple(layer.normalized_shape):
            return {}  # a subclass that normalises other dimensions; the comparison with the gradient drops it
        hat = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
        shape = (n, -1, *layer.normalized_shape)
        parts = {"weight": (g * hat).reshape(shape), "bias": g.reshape(shape)}
        return {name: parts[name].sum(1).square().sum() for name in wanted}
    if isinstance(layer, nn.GroupNorm):
        hat = F.group_norm(x, layer.num_groups, eps=layer.eps)
    else:
        hat = F.batch_norm(x, layer.running_mean, layer.running_var, training=False, eps=layer.eps)
    parts = {"weight": g * hat if "weight" in wanted else g, "bias": g}
    sums = {name: parts[name].flatten(2).sum(2) if x.dim() > 2 else parts[name] for name in wanted}
    return {name: value.reshape(n, -1, value.shape[1]).sum(1).square().sum() for name, value in sums.items()}


def _embedding(layer: nn.Embedding, x: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, Tensor]:
    if x.shape[0] != n:  # a table of positions, the same for every sample, reaches them by broadcasting
        return {}
    ids, g = x.reshape(n, -1), g.reshape(n, -1, g.shape[-1])
    same = (ids[:, :, None] == ids[:, None, :]) & (ids != (-1 if layer.padding_idx is None else layer.padding_idx))[
        :, None
    ]
    return {"weight": ((g @ g.transpose(1, 2)) * same).sum()}


def _norms_of(layer: nn.Module) -> Norms | None:
    if isinstance(layer, nn.Linear):
        return _linear
    if isinstance(layer, nn.Conv2d) and not isinstance(layer, nn.ConvTranspose2d):
        return _conv
    if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
        return _norm_layer
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
        return _norm_layer
    return _embedding if isinstance(layer, nn.Embedding) else None
