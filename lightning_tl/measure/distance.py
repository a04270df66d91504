"""How far the weights have moved from a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.params import Groups, clean_name, group_names, listed
from lightning_tl.measure.sharded import local, local_part, sum_over_shards

_PIECE = 1 << 15


@dataclass(frozen=True)
class Distance:
    """The distance of parameters from their reference.

    Attributes:
        total: ‖θ − θ₀‖₂, in the units of the weights.
        relative: ‖θ − θ₀‖₂ / ‖θ₀‖₂ (infinite for a reference of norm 0).
        cosine: The cosine between θ and θ₀ as flat vectors, in [−1, 1].
        groups: ‖θ_g − θ₀_g‖₂ by group; their squares add up to the square of the total.
        missing: Names of parameters that the reference lacks, or holds in another shape; left out of all numbers.
    """

    total: float
    relative: float
    cosine: float
    groups: dict[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def distance(params: Mapping[str, Tensor], reference: Mapping[str, Tensor], groups: Groups = None) -> Distance:
    """Return the L2 distance between parameters and a snapshot of them (Springer et al. 2025, Fig. 8).

    Everything is summed on the parameters' devices; one small tensor goes to the CPU. Of parameters that
    ``fully_shard`` splits (FSDP2) each process sums its part; all processes must call this together.

    Args:
        params: Name → parameter.
        reference: Name → tensor, for example another model's ``state_dict()``, whole or split like the parameters.
            Names that it lacks are left out.
        groups: As in :func:`~lightning_tl.measure.params.group_names`.

    Raises:
        UserError: No parameter has a counterpart of its shape in the reference.
    """
    known = {clean_name(name): tensor for name, tensor in reference.items()}
    shared = [name for name, p in params.items() if name in known and known[name].shape == p.shape]
    missing = tuple(name for name in params if name not in set(shared))
    if not shared:
        raise UserError(
            f"the reference holds none of the {len(params)} measured parameters in their shape: it has "
            f"{listed(known)}, the module has {listed(params)}"
        )
    members = group_names(params, groups)
    with torch.no_grad():
        whole = [params[name].detach() for name in shared]
        now = [local(p) for p in whole]
        then = [local_part(known[name].to(p.device, p.dtype), p) for name, p in zip(shared, whole, strict=True)]
        table = _on_cpu(now, then) if {t.device.type for t in now} == {"cpu"} else _on_device(now, then)
        table = sum_over_shards(table, whole)
    by_name = {name: float(table[0, i]) for i, name in enumerate(shared)}
    # three norms are enough: the cosine follows from ⟨θ, θ₀⟩ = (‖θ‖² + ‖θ₀‖² − ‖θ − θ₀‖²) / 2
    d2, now2, then2 = (float(row.sum()) for row in table)
    return Distance(
        total=d2**0.5,
        relative=(d2 / then2) ** 0.5 if then2 else float("inf"),
        cosine=max(-1.0, min(1.0, (now2 + then2 - d2) / (2 * (now2 * then2) ** 0.5))) if now2 and then2 else 0.0,
        groups={
            group: sum(by_name[name] for name in names if name in by_name) ** 0.5
            for group, names in members.items()
            if any(name in by_name for name in names)
        },
        missing=missing,
    )


def _on_device(now: list[Tensor], then: list[Tensor]) -> Tensor:
    """Return the squared norms of θ − θ₀, θ and θ₀ by parameter, [3, number of parameters]."""
    norms = [torch._foreach_norm(tensors, 2) for tensors in (torch._foreach_sub(now, then), now, then)]
    return torch.stack([torch.stack([n.to(now[0].device).double() for n in row]) for row in norms]).cpu() ** 2


def _on_cpu(now: list[Tensor], then: list[Tensor]) -> Tensor:
    """Return the same as :func:`_on_device`, reading each number once: pieces that stay in the cache, no large copy."""
    products: list[Tensor] = []
    owners: list[int] = []
    moved = torch.empty(_PIECE)
    for i, (a, b) in enumerate(zip(now, then, strict=True)):
        # where memory formats differ, b is copied to a's order; the order itself does not matter
        if a.stride() != b.stride() or not _dense(a):
            a, b = a.contiguous(), b.contiguous()
        half = a.dtype in (torch.float16, torch.bfloat16)
        into = moved if half or a.dtype == moved.dtype else torch.empty(_PIECE, dtype=a.dtype)
        flat_a, flat_b = (t.as_strided((t.numel(),), (1,)) for t in (a, b))
        for left, right in zip(flat_a.split(_PIECE), flat_b.split(_PIECE), strict=True):
            if half:
                left, right = left.float(), right.float()  # sums in half precision would be rounded to it
            d = torch.sub(left, right, out=into[: left.numel()])
            products += [torch.dot(d, d), torch.dot(left, left), torch.dot(right, right)]
            owners.append(i)
    if len({p.dtype for p in products}) > 1:
        products = [p.double() for p in products]
    pieces = torch.stack(products).double().view(-1, 3)
    return torch.zeros(3, len(now), dtype=torch.float64).index_add_(1, torch.tensor(owners), pieces.T.contiguous())


def _dense(tensor: Tensor) -> bool:
    """Return whether a tensor's elements fill one block of memory, in any order."""
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
