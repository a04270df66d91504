"""The layers whose gradients of single samples are known in factors, and how the factors are computed.

Torch's layers are recognised by their class; those of other libraries (RMSNorm in all its versions, Hugging Face's
``Conv1D``) by name and parameters. A class may compute something else than its base class or its name says: whoever
uses the factors compares their sum with the gradient (:mod:`~lightning_tl.measure.norm_check`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_tl.measure.layer_gradients import Outer, Rows, SampleGradients, Whole

_RMS_NORM = re.compile(r"RMS_?Norm|T5LayerNorm", re.IGNORECASE)

Prepare = Callable[[Any, Tensor, int], Tensor | None]
Gradients = Callable[[Any, Tensor, Tensor, int, set[str]], dict[str, SampleGradients]]


class LayerKind(NamedTuple):
    """How to find the gradients of single samples at a kind of layer.

    Attributes:
        prepare: ``(layer, inputs, samples)`` → what is needed of the inputs (patches, normalised inputs), the same for
            all gradients; None if the inputs are not as expected.
        gradients: ``(layer, prepared, gradient at the output, samples, wanted)`` → by name of the layer's parameter, of
            those in ``wanted``, the gradients of the samples. A leading dimension of k·samples counts as k positions of
            each sample.
    """

    prepare: Prepare
    gradients: Gradients


def layer_kind(layer: nn.Module) -> LayerKind | None:
    """Return how to find the gradients of single samples, None for an unknown layer."""
    if isinstance(layer, nn.Linear):
        return LayerKind(_positions, _linear)
    if isinstance(layer, nn.Conv2d) and not isinstance(layer, nn.ConvTranspose2d):
        return LayerKind(_patches, _conv)
    if isinstance(layer, nn.Embedding):
        return LayerKind(_ids, _embedding)
    if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
        return LayerKind(_batch_normalised, _channels)
    if isinstance(layer, nn.GroupNorm):
        return LayerKind(_group_normalised, _channels)
    if isinstance(layer, nn.LayerNorm):
        return LayerKind(_layer_normalised, _features)
    if is_rms_norm(layer):
        return LayerKind(_rms_normalised, _features)
    own = {name: p.dim() for name, p in layer.named_parameters(recurse=False)}
    if type(layer).__name__ == "Conv1D" and own == {"weight": 2, "bias": 1}:
        return LayerKind(_positions, _transposed_linear)
    return None


def is_rms_norm(layer: nn.Module) -> bool:
    """Return whether a layer is an RMSNorm of any library: by its name, and one vector of weights."""
    own = {name: p.dim() for name, p in layer.named_parameters(recurse=False)}
    return _RMS_NORM.search(type(layer).__name__) is not None and own == {"weight": 1}


def _positions(layer: nn.Module, x: Tensor, n: int) -> Tensor:
    return x.reshape(n, -1, x.shape[-1]).transpose(1, 2).unsqueeze(1)


def _linear(layer: nn.Linear, a: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, SampleGradients]:
    return _weight_and_bias(a, _positions(layer, g, n), layer, wanted)


def _transposed_linear(layer: Any, a: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, SampleGradients]:
    g = _positions(layer, g, n)
    gradients: dict[str, SampleGradients] = {}
    if "weight" in wanted:
        gradients["weight"] = Outer(a, g, tuple(layer.weight.shape))
    return gradients | _weight_and_bias(a, g, layer, wanted - {"weight"})


def _weight_and_bias(a: Tensor, g: Tensor, layer: Any, wanted: set[str]) -> dict[str, SampleGradients]:
    gradients: dict[str, SampleGradients] = {}
    if "bias" in wanted:
        gradients["bias"] = Whole(g.sum(3).flatten(1))
    if "weight" in wanted:
        gradients["weight"] = Outer(g, a, tuple(layer.weight.shape))
    return gradients


def _patches(layer: nn.Conv2d, x: Tensor, n: int) -> Tensor | None:
    """Return the input's patches, [N, G, C·k·k, T], in the order of the output's positions."""
    padding, size, stride = layer.padding, layer.kernel_size, layer.stride
    if x.dim() != 4:
        return None
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        padding = (0, 0)
    if set(size) == {1} and set(padding) == {0}:
        patches = x[:, :, :: stride[0], :: stride[1]].flatten(2)
    else:
        patches = F.unfold(x, size, dilation=layer.dilation, padding=padding, stride=stride)
    return _by_sample(patches, n, layer.groups)


def _conv(layer: nn.Conv2d, a: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, SampleGradients]:
    return _weight_and_bias(a, _by_sample(g.flatten(2), n, layer.groups), layer, wanted)


def _by_sample(t: Tensor, n: int, groups: int) -> Tensor:
    """Return [n, G, C, k·T] for [k·n, G·C, T]."""
    t = t if t.shape[0] == n else t.reshape(n, -1, *t.shape[1:]).transpose(1, 2).flatten(2)
    return t.reshape(n, groups, -1, t.shape[2])


def _ids(layer: nn.Embedding, x: Tensor, n: int) -> Tensor:
    return x.reshape(n, -1)


def _embedding(layer: nn.Embedding, ids: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, SampleGradients]:
    g = g.reshape(n, -1, g.shape[-1])
    if layer.padding_idx is not None:
        g = g * (ids != layer.padding_idx).unsqueeze(-1)
    return {"weight": Rows(ids, g, tuple(layer.weight.shape))} if "weight" in wanted else {}


def _batch_normalised(layer: Any, x: Tensor, n: int) -> Tensor:
    return F.batch_norm(x, layer.running_mean, layer.running_var, training=False, eps=layer.eps)


def _group_normalised(layer: nn.GroupNorm, x: Tensor, n: int) -> Tensor:
    return F.group_norm(x, layer.num_groups, eps=layer.eps)


def _channels(layer: nn.Module, hat: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, SampleGradients]:
    parts = {"weight": g * hat if "weight" in wanted else g, "bias": g}
    sums = {name: parts[name].flatten(2).sum(2) if g.dim() > 2 else parts[name] for name in wanted}
    return {name: Whole(value.reshape(n, -1, value.shape[1]).sum(1)) for name, value in sums.items()}


def _layer_normalised(layer: nn.LayerNorm, x: Tensor, n: int) -> Tensor | None:
    x = _channels_last(layer, x)
    if tuple(x.shape[-len(layer.normalized_shape) :]) != tuple(layer.normalized_shape):
        return None
    return F.layer_norm(x, layer.normalized_shape, eps=layer.eps)


def _rms_normalised(layer: Any, x: Tensor, n: int) -> Tensor | None:
    if x.shape[-1] != len(layer.weight):
        return None
    given = (getattr(layer, name, None) for name in ("variance_epsilon", "eps", "epsilon"))
    eps = next((value for value in given if isinstance(value, float)), torch.finfo(x.dtype).eps)
    hat: Tensor = F.rms_norm(x, (x.shape[-1],), eps=eps)
    return hat


def _features(layer: nn.Module, hat: Tensor, g: Tensor, n: int, wanted: set[str]) -> dict[str, SampleGradients]:
    g = _channels_last(layer, g)
    own = dict(layer.named_parameters(recurse=False))
    parts = {"weight": g * hat if "weight" in wanted else g, "bias": g}
    return {name: Whole(parts[name].reshape(n, -1, *own[name].shape).sum(1)) for name in wanted}


def _channels_last(layer: Any, x: Tensor) -> Tensor:
    """Return images [N, C, H, W] as [N, H, W, C] for a ``LayerNorm2d``, as ConvNeXt's; other inputs as they are."""
    images = x.dim() == 4 and isinstance(layer, nn.LayerNorm) and type(layer).forward is not nn.LayerNorm.forward
    if not images or tuple(layer.normalized_shape) != (x.shape[1],):
        return x
    return x.movedim(1, -1) if x.shape[-1] != x.shape[1] or "2d" in type(layer).__name__ else x
