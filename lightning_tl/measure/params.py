"""Which parameters are measured: named selections, groups, snapshots, and vectors over them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest

Groups = Mapping[str, str] | None
"""Regular expression → group name; None groups by first-level module."""

_PIECE = 1 << 17  # so many numbers stay in the cache
# A group may not take a name under which another quantity of the same measurement is logged.
RESERVED = frozenset({"total", "relative", "cosine", "merged", "seconds", "trace", "trace_stderr", "top_eigenvalue"})


def clean_name(name: str) -> str:
    """Return a parameter's name without the part that ``torch.compile`` inserts (``_orig_mod.``)."""
    return name.replace("_orig_mod.", "")


def select(
    module: nn.Module, include: str | None = None, exclude: str | None = None, trainable: bool = True
) -> dict[str, nn.Parameter]:
    """Return the named parameters of a module, shared ones once.

    Args:
        module: Any module.
        include: Regular expression; only names that it matches anywhere are kept.
        exclude: Regular expression; names that it matches anywhere are dropped.
        trainable: Leave out the parameters that do not require a gradient.

    Raises:
        UserError: A pattern is not a regular expression, or no parameter matches.
    """
    patterns = {key: _compile(value, key) for key, value in (("include", include), ("exclude", exclude)) if value}
    every = {clean_name(name): parameter for name, parameter in module.named_parameters()}
    chosen = {
        name: parameter
        for name, parameter in every.items()
        if (parameter.requires_grad or not trainable)
        and ("include" not in patterns or patterns["include"].search(name))
        and not ("exclude" in patterns and patterns["exclude"].search(name))
    }
    if not chosen:
        raise UserError(
            f"no parameter of {type(module).__name__} is left to measure "
            f"(include={include!r}, exclude={exclude!r}, trainable only: {trainable}); it has {listed(every)}"
        )
    lazy = [name for name, parameter in chosen.items() if isinstance(parameter, nn.parameter.UninitializedParameter)]
    if lazy:
        raise UserError(f"{listed(lazy)} of {type(module).__name__} have no shape yet; run one forward pass first")
    integers = [name for name, parameter in chosen.items() if not parameter.is_floating_point()]
    if integers:
        raise UserError(
            f"{listed(integers)} of {type(module).__name__} are stored as integers (quantised weights), of which no "
            "gradient or noise exists; leave them out with exclude=, or load the model in floating point"
        )
    return chosen


def group_names(names: Iterable[str], groups: Groups = None) -> dict[str, list[str]]:
    """Return group → parameter names, in the order of the names.

    Args:
        names: Parameter names.
        groups: Regular expression → group name; the first that matches anywhere in a parameter's name decides. Names
            that none matches go to ``rest``. None: by first-level module.

    Raises:
        UserError: A pattern is not a regular expression or matches nothing, or a group's name is reserved.
    """
    names = list(names)
    members: dict[str, list[str]] = {}
    if groups is None:
        for name in names:
            first = name.split(".", 1)[0]
            members.setdefault(f"{first}_group" if first in RESERVED else first, []).append(name)
        return members
    patterns = {pattern: _compile(pattern, "groups") for pattern in groups}
    for pattern, group in groups.items():
        if group in RESERVED:
            raise UserError(f"groups: {group!r} (for {pattern!r}) is the name of another logged key; choose another")
        if not any(patterns[pattern].search(name) for name in names):
            raise UserError(f"groups: {pattern!r} matches no parameter{nearest(pattern, names)}")
    for name in names:
        group = next((groups[pattern] for pattern, regex in patterns.items() if regex.search(name)), "rest")
        members.setdefault(group, []).append(name)
    return members


def snapshot(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return detached copies by name, on the same devices."""
    return {name: parameter.detach().clone() for name, parameter in params.items()}


def squared_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the squared L2 norm of each tensor, shape [len(tensors)], in float64, on the first tensor's device."""
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    floating = [t if t.is_floating_point() else t.float() for t in tensors]
    if {t.device.type for t in floating} == {"cpu"}:
        return torch.stack([_squared_norm_on_cpu(t) for t in floating])
    norms = torch._foreach_norm(floating, 2)
    return torch.stack([n.to(tensors[0].device, torch.float64) for n in norms]) ** 2


def _squared_norm_on_cpu(tensor: Tensor) -> Tensor:
    """Return a squared norm, float64. In single precision torch's norms on CPUs add up 16M squares 0.1 % too low."""
    if tensor.dtype not in (torch.float32, torch.float64) or not tensor.is_contiguous():
        norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64)
        return norm**2
    # torch's sums are in the numbers' own precision, but by pairs
    return torch.stack([piece.square().sum() for piece in tensor.view(-1).split(_PIECE)]).sum(dtype=torch.float64)


class Layout:
    """Flat vectors over a selection of parameters, ordered so that each group is one slice.

    Args:
        params: Name → parameter.
        groups: As in :func:`group_names`.
    """

    def __init__(self, params: Mapping[str, Tensor], groups: Groups = None) -> None:
        self.groups = group_names(params, groups)
        order = {name: index for index, name in enumerate(params)}
        self.order = [order[name] for members in self.groups.values() for name in members]
        self.shapes = [tuple(p.shape) for p in params.values()]
        self.sizes = [p.numel() for p in params.values()]
        self.size = sum(self.sizes)
        first = next(iter(params.values()))
        self.device, self.dtype = first.device, first.dtype
        self.slices: dict[str, slice] = {}
        start = 0
        for group, members in self.groups.items():
            stop = start + sum(self.sizes[order[name]] for name in members)
            self.slices[group] = slice(start, stop)
            start = stop

    def flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return one vector [P] from tensors in the order of the parameters."""
        return torch.cat([tensors[index].reshape(-1).to(self.device) for index in self.order])

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Return views of a vector [P] with the parameters' shapes, in the order of the parameters."""
        pieces: list[Tensor] = [vector] * len(self.order)
        start = 0
        for index in self.order:
            pieces[index] = vector[start : start + self.sizes[index]].view(self.shapes[index])
            start += self.sizes[index]
        return pieces

    def by_group(self, per_parameter: Sequence[float] | Tensor) -> dict[str, float]:
        """Return by group the sum of numbers that are given per parameter, in the order of the parameters."""
        totals, position = {}, 0
        for group, members in self.groups.items():
            indices = self.order[position : position + len(members)]
            totals[group] = float(sum(float(per_parameter[index]) for index in indices))
            position += len(members)
        return totals


def _compile(pattern: str, argument: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{argument}: {pattern!r} is not a regular expression ({error})") from None


def listed(names: Iterable[str], limit: int = 6) -> str:
    """Return the first names as text, and how many more there are; ``none`` for no name."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "none"
