"""Modules whose parameters ``fully_shard`` (FSDP2) splits over processes: what is whose, and sums over all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Any) -> bool:
    """Return whether a tensor is split over processes: a DTensor, as FSDP2 and tensor parallelism make them."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "placements") and hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, detached: all of it, if it is not sharded."""
    tensor = tensor.detach()
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def sharding(module: nn.Module) -> bool:
    """Return whether ``fully_shard`` has wrapped a part of a module."""
    return any(_is_fsdp(child) for child in module.modules())


def _is_fsdp(module: nn.Module) -> bool:
    return callable(getattr(module, "unshard", None)) and callable(getattr(module, "reshard", None))


def reshard(module: nn.Module) -> None:
    """Free the gathered parameters of all parts that ``fully_shard`` has wrapped; without any, do nothing.

    After a forward pass the root's stay gathered, and then so do its entries for them.
    """
    for child in module.modules():
        if _is_fsdp(child):
            child.reshard()  # type: ignore[operator]


@contextmanager
def gradients_unsynchronised(module: nn.Module) -> Iterator[None]:
    """Within, a backward pass makes no part of FSDP2 reduce gradients that training has accumulated."""
    groups = [
        group for child in module.modules() if (group := getattr(_state(child), "_fsdp_param_group", None)) is not None
    ]
    before = [(group.reduce_grads, group.all_reduce_grads) for group in groups]
    for group in groups:
        group.reduce_grads = group.all_reduce_grads = False
    try:
        yield
    finally:
        for group, (reduce, all_reduce) in zip(groups, before, strict=True):
            group.reduce_grads, group.all_reduce_grads = reduce, all_reduce


@contextmanager
def activations_kept(module: nn.Module) -> Iterator[None]:
    """Within, FSDP2's mixed precision does not round what goes into its parts and comes out of them.

    Parameters still are gathered in its type; they are what training computes with.
    """
    states = [s for child in module.modules() if hasattr(s := _state(child), "_mp_policy")]
    before = [state._mp_policy for state in states]
    for state, policy in zip(states, before, strict=True):
        state._mp_policy = dataclasses.replace(policy, cast_forward_inputs=False, output_dtype=None)
    try:
        yield
    finally:
        for state, policy in zip(states, before, strict=True):
            state._mp_policy = policy


def _state(module: nn.Module) -> Any:
    getter = getattr(module, "_get_fsdp_state", None)
    return getter() if callable(getter) else None


def local_part(tensor: Tensor, like: Tensor) -> Tensor:
    """Return the part of a tensor that lies where this process's part of another one lies.

    Args:
        tensor: Whole, or split in the same way.
        like: Of the same shape; whole, or split over processes.
    """
    if not is_sharded(like):
        return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return local(split_like(tensor, like))


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor on the device of another one of its shape, and split over processes in the same way.

    A whole tensor, equal on all processes, is split without messages.
    """
    tensor = tensor.to(like.device)
    if is_sharded(tensor) or not is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    split: Any = like
    return distribute_tensor(tensor, split.device_mesh, split.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return whole tensors on the CPU, on process 0; None on the others. All processes must call this together."""
    first = torch.distributed.get_rank() == 0
    whole = {}
    for name, tensor in tensors.items():
        full: Any = tensor
        full = full.full_tensor() if is_sharded(tensor) else tensor
        if first:
            whole[name] = full.cpu()
    return whole if first else None


def sum_over_shards(table: Tensor, params: Sequence[Tensor]) -> Tensor:
    """Return sums over whole parameters from sums over this process's parts of them.

    Args:
        table: [..., number of parameters], float64.
        params: The parameters; columns of those that are not split stay.
    """
    columns: dict[Any, list[int]] = {}
    split: Any
    for index, split in enumerate(params):
        if is_sharded(split):
            columns.setdefault((split.device_mesh, split.placements), []).append(index)
    table = table.clone()
    for (mesh, placements), indices in columns.items():
        part = table[..., indices].to(local(params[indices[0]]).device)
        for dim, placement in enumerate(placements):
            if placement.is_shard():
                torch.distributed.all_reduce(part, group=mesh.get_group(dim))
        table[..., indices] = part.to(table.device)
    return table


def norm(params: Mapping[str, Tensor]) -> float:
    """Return the L2 norm of all parameters together."""
    parts = [local(parameter) for parameter in params.values()]
    squares = torch.stack([part.double().square().sum().cpu() for part in parts])
    return float(sum_over_shards(squares, list(params.values())).sum().sqrt())
