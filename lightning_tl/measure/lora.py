"""How far low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) have moved the weights that they adapt.

An adapter adds s·BA to a weight. The distance of its own parameters depends on how the product is split into factors,
and says little; what moves the function is the distance of the product. It is found from small matrices, and the
product is never formed: for B [out, r] and A [r, in], ‖BA‖² = tr((BᵀB)(AAᵀ)).

The layers are recognised by their attributes, those of PEFT and of loralib, and neither library is imported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.measure.params import clean_name

# Pairs of attributes that hold A and B by adapter: of linear layers and convolutions, and of embeddings.
_PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True)
class Adapter:
    """One low-rank update s·BA of one layer.

    Attributes:
        layer: Name of the adapted layer in the module.
        scaling: s.
        a: Name of A's parameter, [r, in] (of convolutions [r, in, k, k]).
        b: Name of B's parameter, [out, r] (of convolutions [out, r, 1, 1]).
        low_rank: Whether the update is s·BA; not for variants that also rescale the weight (DoRA).
    """

    layer: str
    scaling: float
    a: str
    b: str
    low_rank: bool = True

    @property
    def names(self) -> tuple[str, str]:
        """The names of both parameters."""
        return self.a, self.b


def find_adapters(module: nn.Module) -> list[Adapter]:
    """Return the active LoRA adapters in a module, in its order; an empty list without any."""
    names = {id(p): clean_name(name) for name, p in module.named_parameters(remove_duplicate=False)}
    return [adapter for name, layer in module.named_modules() for adapter in _of_layer(clean_name(name), layer, names)]


def merged_distance(
    module: nn.Module, reference: Mapping[str, Tensor], measured: Collection[str] | None = None
) -> dict[str, float]:
    """Return ‖Σ s·BA − Σ s·B₀A₀‖₂ by adapted layer: how far its adapters have moved its merged weight.

    Computed in float64. Nothing is merged.

    Args:
        module: With adapters.
        reference: Name → tensor. An adapter of which it holds neither factor starts from 0; a factor that it lacks, or
            holds in another shape, counts as unchanged.
        measured: Only layers of which an adapter's parameter has one of these names.

    Returns:
        By name of the layer; variants that are not a sum of s·BA (DoRA) are left out.
    """
    known = {clean_name(name): tensor for name, tensor in reference.items()}
    params = {clean_name(name): p.detach() for name, p in module.named_parameters(remove_duplicate=False)}
    layers: dict[str, list[Adapter]] = {}
    for adapter in find_adapters(module):
        layers.setdefault(adapter.layer, []).append(adapter)
    return {
        layer: _distance(adapters, params, known)
        for layer, adapters in layers.items()
        if all(a.low_rank for a in adapters)
        and (measured is None or any(name in measured for a in adapters for name in a.names))
    }


def _distance(adapters: list[Adapter], params: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> float:
    left: list[Tensor] = []
    right: list[Tensor] = []
    for adapter in adapters:
        a, b = params[adapter.a], params[adapter.b]
        a0, b0 = (_as(known.get(name), now) for name, now in ((adapter.a, a), (adapter.b, b)))
        if a0 is None and b0 is None:
            b0 = torch.zeros_like(b)
        a, b = _matrix(a), _matrix(b)
        a0, b0 = a if a0 is None else _matrix(a0), b if b0 is None else _matrix(b0)
        # BA − B₀A₀ = (B − B₀)A + B₀(A − A₀), in which nothing large cancels
        left += [adapter.scaling * (b - b0), adapter.scaling * b0]
        right += [a, a - a0]
    columns, rows = torch.cat(left, 1), torch.cat(right, 0)
    squared = ((columns.T @ columns) * (rows @ rows.T)).sum()
    return float(squared.clamp_min(0).sqrt())


def _as(reference: Tensor | None, now: Tensor) -> Tensor | None:
    return None if reference is None or reference.shape != now.shape else reference.to(now.device)


def _matrix(factor: Tensor) -> Tensor:
    return factor.double().flatten(1)


def _of_layer(name: str, layer: Any, names: Mapping[int, str]) -> Iterator[Adapter]:
    for key_a, key_b in _PAIRS:
        first, second = getattr(layer, key_a, None), getattr(layer, key_b, None)
        if isinstance(first, Tensor) and isinstance(second, Tensor):  # loralib: one adapter, without a name
            pairs: dict[str, tuple[Tensor | None, Tensor | None]] = {"": (first, second)}
        elif isinstance(first, nn.ModuleDict | nn.ParameterDict) and isinstance(second, type(first)):
            active = getattr(layer, "active_adapters", None) or list(first.keys())
            both = [key for key in active if key in first and key in second]
            pairs = {key: (_weight(first[key]), _weight(second[key])) for key in both}
        else:
            continue
        for key, (a, b) in pairs.items():
            scaling = getattr(layer, "scaling", 1.0)
            scaling = scaling.get(key, 1.0) if isinstance(scaling, dict) else scaling
            if a is None or b is None or a.dim() < 2 or b.dim() < 2 or a.shape[0] != b.flatten(1).shape[1]:
                continue
            if id(a) in names and id(b) in names:
                variants = (getattr(layer, "lora_variant", None) or {}, getattr(layer, "lora_magnitude_vector", ()))
                plain = not any(key in found for found in variants)
                yield Adapter(name, float(scaling), names[id(a)], names[id(b)], plain)


def _weight(factor: Any) -> Tensor | None:
    weight = factor if isinstance(factor, Tensor) else getattr(factor, "weight", None)
    return weight if isinstance(weight, Tensor) else None
