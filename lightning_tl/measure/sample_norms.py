"""Sums of squared per-sample gradient norms from one backward pass, without storing a per-sample gradient.

Hooks record the calls of the layers whose gradients are known in factors (:mod:`~lightning_tl.measure.layer_kinds`).
Parameters that are used in another way are not covered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lightning_tl.measure.layer_gradients import SampleGradients, squared_norm, total
from lightning_tl.measure.layer_kinds import LayerKind, layer_kind

# Patches and normalised inputs are kept between backward passes, up to so many bytes in all.
_KEPT_BYTES = 1 << 28


@dataclass
class _Call:
    """One call of a layer.

    Attributes:
        layer: The layer.
        kind: How its gradients are computed.
        inputs: Its inputs.
        edge: The place of its output in the graph.
        kept: What its kind has prepared of the inputs.
    """

    layer: nn.Module
    kind: LayerKind
    inputs: Tensor
    edge: GradientEdge
    kept: Tensor | None = None


class SampleNorms:
    """Records the calls of the layers whose per-sample gradient norms are cheap.

    Args:
        module: The module.
        params: Name → measured parameter.

    Attributes:
        dropped: Indices of parameters for which the norms are wrong; they are not covered.
        expanded: Whether the last recording repeated an output.
    """

    def __init__(self, module: nn.Module, params: Mapping[str, Tensor]) -> None:
        self._index = {id(p): i for i, p in enumerate(params.values())}
        self._count = len(params)
        self._calls: list[_Call] = []
        self._layers = {
            layer: kind
            for layer in module.modules()
            if any(id(p) in self._index for p in layer.parameters(recurse=False)) and (kind := layer_kind(layer))
        }
        self._bytes = 0
        self.expanded = False
        self.dropped: set[int] = set()

    @contextmanager
    def recording(self, expand: bool = True) -> Iterator[None]:
        """Record a forward pass that runs inside.

        Args:
            expand: Repeat the output of an embedding that is looked up once for all samples, as a table of positions
                is, so that the gradient of each sample is seen. The loss is the same, unless the module takes the
                output for something else than one sample that broadcasts.
        """
        self._calls, self._bytes, self.expanded = [], 0, False

        def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
            inputs = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            if inputs is None or not inputs.dim() or not isinstance(output, Tensor) or not output.requires_grad:
                return None
            inputs, repeated, samples = inputs.detach(), None, self.samples
            if expand and isinstance(layer, nn.Embedding) and inputs.shape[0] == 1 and samples:
                inputs = inputs.expand(samples, *inputs.shape[1:])
                output = repeated = output.expand(samples, *output.shape[1:])
                self.expanded = True
            # the edge is taken now, as an in-place ReLU that follows replaces the output in the graph
            self._calls.append(_Call(layer, self._layers[layer], inputs, get_gradient_edge(output)))
            return repeated

        handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def samples(self) -> int | None:
        """The leading dimension of the first recorded input, which is assumed to be the number of samples.

        An input of one row, for instance of positions, does not count where others have more.
        """
        sizes = [int(call.inputs.shape[0]) for call in self._calls]
        return next((size for size in sizes if size > 1), sizes[0] if sizes else None)

    @property
    def edges(self) -> list[GradientEdge]:
        """Where gradients are needed: the outputs of the recorded calls."""
        return [call.edge for call in self._calls]

    @property
    def covered(self) -> set[int]:
        """Indices of the parameters that :meth:`norms` covers."""
        return {index for call in self._calls for index in self._own(call).values()} - self.dropped

    def parameters_of(self, call: int) -> set[int]:
        """Return the indices of the parameters that the layer of a recorded call holds."""
        return set(self._own(self._calls[call]).values())

    def norms(
        self, gradients: Sequence[Tensor | None], samples: int, scales: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """Return Σ_n ‖g_n‖² by parameter, [number of parameters], float64 on the CPU; 0 where not covered.

        Args:
            gradients: One per recorded edge, in the order of :attr:`edges`.
            samples: The number of samples N; a leading dimension of k·N counts as k positions of each sample.
            scales: By index of a parameter, one number for each index of its first dimension, as a tensor that
                broadcasts against it: then Σ_n ‖scale ∘ g_n‖², of these parameters only.
        """
        wanted = self.covered if scales is None else self.covered & scales.keys()
        several = self._several()
        single: list[tuple[int, Tensor]] = []
        shared: dict[int, list[SampleGradients]] = {}
        for call, gradient in zip(self._calls, gradients, strict=True):
            for index, factors in self._gradients(call, gradient, samples, wanted).items():
                part = factors if scales is None else factors.scaled(scales[index])
                if index in several:
                    shared.setdefault(index, []).append(part)
                else:
                    single.append((index, part.squared_norm()))
        single += [(index, squared_norm(uses)) for index, uses in shared.items()]
        norms = torch.zeros(self._count, dtype=torch.float64)
        if single:
            values = torch.stack([value.double() for _, value in single]).cpu()
            norms.index_add_(0, torch.tensor([index for index, _ in single]), values)
        return norms

    def totals(self, gradients: Sequence[Tensor | None], samples: int) -> dict[int, Tensor]:
        """Return the gradient of all samples together by index of a parameter, as the factors have it.

        Parameters for whose layers the factors cannot be found (other shapes than such a layer has) are left out.

        Args:
            gradients: As for :meth:`norms`.
            samples: As there.
        """
        sums: dict[int, Tensor] = {}
        failed: set[int] = set()
        several, uses = self._several(), dict[int, list[SampleGradients]]()
        for position, (call, gradient) in enumerate(zip(self._calls, gradients, strict=True)):
            try:
                for index, factors in self._gradients(call, gradient, samples, self.covered).items():
                    if index in several:
                        uses.setdefault(index, []).append(factors)
                    else:
                        sums[index] = factors.total()
            except (RuntimeError, TypeError, IndexError) as error:  # a subclass that computes something else
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                failed |= self.parameters_of(position)
        for index, found_uses in uses.items():
            try:
                squared_norm(found_uses)
                sums[index] = total(found_uses)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                failed.add(index)
        return {index: value for index, value in sums.items() if index not in failed}

    def _gradients(
        self, call: _Call, gradient: Tensor | None, samples: int, wanted: set[int]
    ) -> dict[int, SampleGradients]:
        own = {name: index for name, index in self._own(call).items() if index in wanted}
        if gradient is None or not own or call.inputs.shape[0] % samples or gradient.shape[0] % samples:
            return {}
        prepared = call.kept
        if prepared is None:
            prepared = call.kind.prepare(call.layer, call.inputs, samples)
            if prepared is None:
                return {}
            new = prepared.untyped_storage().data_ptr() != call.inputs.untyped_storage().data_ptr()
            size = prepared.numel() * prepared.itemsize if new else 0
            if self._bytes + size <= _KEPT_BYTES:
                call.kept, self._bytes = prepared, self._bytes + size
        by_entry = call.kind.gradients(call.layer, prepared, gradient, samples, set(own))
        return {own[name]: value for name, value in by_entry.items()}

    def _own(self, call: _Call) -> dict[str, int]:
        named = call.layer.named_parameters(recurse=False)
        return {name: self._index[id(p)] for name, p in named if id(p) in self._index}

    def _several(self) -> set[int]:
        """Return the parameters that more than one call uses."""
        counts: dict[int, int] = {}
        for call in self._calls:
            for index in self._own(call).values():
                counts[index] = counts.get(index, 0) + 1
        return {index for index, count in counts.items() if count > 1}
