"""BatchNorm's running statistics, estimated again for the weights that a module has now.

Running statistics belong to weights *and* images. Under other weights, or after training on other images, two changes
affect a loss in eval mode: that of the weights, and statistics that no longer fit. If the statistics are estimated
again on a fixed set of images, only the change of the weights remains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Statistics = Literal["kept", "re-estimated"]
STATISTICS: tuple[Statistics, ...] = get_args(Statistics)


def running_layers(module: nn.Module) -> list[_BatchNorm]:
    """Return the layers of a module that normalise by running statistics in eval mode."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]


@contextmanager
def own_statistics(module: nn.Module) -> Iterator[None]:
    """Within, the layers write into copies of their statistics and counters; the tensors themselves do not change.

    So an autograd graph that was recorded within remains valid afterwards.
    """
    layers = running_layers(module)
    kept = [(layer, layer.running_mean, layer.running_var, layer.num_batches_tracked) for layer in layers]
    try:
        for layer, mean, variance, counter in kept:
            layer.running_mean = None if mean is None else mean.clone()
            layer.running_var = None if variance is None else variance.clone()
            layer.num_batches_tracked = None if counter is None else counter.clone()
        yield
    finally:
        for layer, mean, variance, counter in kept:
            layer.running_mean, layer.running_var, layer.num_batches_tracked = mean, variance, counter


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Within, the layers normalise by the batch, as in training; their running statistics do not change.

    A loss is then a smooth function of the weights that includes what they do to the statistics, so that its gradient
    and Hessian include that too.
    """
    before = [(layer, layer.training, layer.num_batches_tracked) for layer in running_layers(module)]
    with own_statistics(module):
        try:
            for layer, _, _ in before:
                layer.train()
                layer.num_batches_tracked = torch.zeros_like(_counter(layer))
            yield
        finally:
            for layer, training, counter in before:
                layer.training, layer.num_batches_tracked = training, counter


def reestimate(
    module: nn.Module,
    forward: Callable[[Any], object],
    batches: Iterable[Any],
    reduce: Callable[[Tensor], Tensor] | None = None,
    layers: Sequence[_BatchNorm] | None = None,
) -> int:
    """Replace running statistics by their average over batches, for the module's present weights.

    During the forward passes these layers normalise by the batch, as in training; no other layer changes its mode. A
    layer that no batch reaches keeps its statistics. Labels have no influence, though ``forward`` may use them.

    Args:
        module: Its layers with running statistics are changed, in place: ``running_mean`` and ``running_var`` only.
        forward: Called with each batch, without gradients.
        batches: The batches; all have the same weight in the average.
        reduce: Averages a tensor over the processes of a distributed run.
        layers: Only these layers are changed; the others normalise as they do in the module's present mode. Default:
            all that have running statistics.

    Returns:
        The number of layers whose statistics were replaced.
    """
    layers = running_layers(module) if layers is None else layers
    if not layers:
        return 0
    before = [(layer, layer.training, layer.momentum, layer.num_batches_tracked) for layer in layers]
    try:
        for layer in layers:
            layer.train()
            layer.momentum = None  # torch then takes the plain average over batches
            # a counter of its own, as the layer's belongs to its training
            layer.num_batches_tracked = torch.zeros_like(_counter(layer))
        with torch.no_grad():
            for batch in batches:
                forward(batch)
            reached = [layer for layer in layers if int(_counter(layer)) > 0]
            for layer in reached if reduce is not None else ():
                for statistics in (layer.running_mean, layer.running_var):
                    if statistics is not None and reduce is not None:
                        statistics.copy_(reduce(statistics))
    finally:
        for layer, training, momentum, counter in before:
            layer.training, layer.momentum, layer.num_batches_tracked = training, momentum, counter
    return len(reached)


def _counter(layer: _BatchNorm) -> Tensor:
    counter = layer.num_batches_tracked
    return torch.zeros((), dtype=torch.long) if counter is None else counter
