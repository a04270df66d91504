"""The distance from a reference, along a run in which parameters may be frozen, unfrozen, pruned or renamed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.measure.checkpoint import load_checkpoint
from lightning_tl.measure.distance import distance
from lightning_tl.measure.lora import merged_distance
from lightning_tl.measure.measures import Measure, Site
from lightning_tl.measure.params import listed, snapshot
from lightning_tl.measure.sharded import gathered, is_sharded, reshard, split_like
from lightning_tl.measured_value import Measured

DistanceReference = str | Path | Mapping[str, Tensor] | nn.Module


class DistanceMeasure(Measure):
    """The L2 distance between weights and a reference.

    Args:
        reference: ``start``: the weights at the start of the run; a parameter that is frozen then counts from where it
            is when it becomes trainable. Or the path of a checkpoint, a state dict, or a module.

    Raises:
        UserError: The reference is of another type.
    """

    name = "param_distance"
    needs_loss = False

    def __init__(self, reference: DistanceReference = "start") -> None:
        if not isinstance(reference, str | Path | Mapping | nn.Module):
            every = ""
            if isinstance(reference, int):
                every = f"; every_n_steps={reference} sets how often it is measured"
            raise UserError(
                f"reference={reference!r} must be 'start', the path of a checkpoint, a state dict or a module{every}"
            )
        self.reference = reference
        self.weights: dict[str, Tensor] | None = None
        self._frozen: dict[str, nn.Parameter] = {}
        self._warned = False

    def reset(self) -> None:
        """Forget the last run."""
        self.weights, self._frozen, self._warned = None, {}, False

    @property
    def _from_start(self) -> bool:
        return isinstance(self.reference, str) and self.reference == "start"

    def start(self, site: Site) -> None:
        """Take the reference, and the names of the frozen parameters.

        Raises:
            UserError: The reference cannot be read; no parameter is left to measure.
        """
        params = site.params()
        if self.weights is None:
            if self._from_start:
                self.weights = snapshot(params)
            elif isinstance(self.reference, nn.Module):
                self.weights = snapshot(self.reference.state_dict())
            elif isinstance(self.reference, Mapping):
                self.weights = {name: t.detach() for name, t in self.reference.items() if isinstance(t, Tensor)}
            else:
                self.weights = load_checkpoint(self.reference).weights
        # on the parameters' devices, and split as they are, so that a measurement copies nothing across devices
        self.weights = {name: split_like(t, params[name]) if name in params else t for name, t in self.weights.items()}
        self._frozen = {name: p for name, p in site.module.named_parameters() if not p.requires_grad}

    def watch(self, site: Site) -> None:
        """Add parameters to the reference that have become trainable since."""
        assert self.weights is not None
        if not any(p.requires_grad for p in self._frozen.values()):
            return
        if self._from_start:
            fresh = {name: p for name, p in site.params().items() if name not in self.weights}
            self.weights |= snapshot(fresh)
        self._frozen = {name: p for name, p in self._frozen.items() if not p.requires_grad}

    def measure(self, site: Site) -> list[Measured]:
        """Return the distances."""
        reshard(site.module)
        if self.weights is None:
            self.start(site)
        assert self.weights is not None
        moved = distance(_effective(site.module, site.params(), self.weights), self.weights, site.groups)
        if moved.missing and not self._warned:
            site.warn(f"param_distance leaves out parameters that its reference lacks: {listed(moved.missing)}")
        self._warned = True
        values = {"total": moved.total, "relative": moved.relative, "cosine": moved.cosine, **moved.groups}
        if layers := merged_distance(site.module, self.weights, site.params()):
            values |= {"merged": math.hypot(*layers.values()), **{f"merged/{k}": v for k, v in layers.items()}}
        return [site.record("param_distance", value, group) for group, value in values.items()]

    def state(self) -> dict[str, Any]:
        """Return the weights of the start; of sharded ones, whole tensors on process 0, which writes checkpoints."""
        if not self._from_start or self.weights is None or not any(map(is_sharded, self.weights.values())):
            return {"reference": self.weights if self._from_start else None}
        return {"reference": gathered(self.weights)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state, with the same reference."""
        if self._from_start:
            self.weights = state["reference"]


def _effective(module: nn.Module, params: Mapping[str, nn.Parameter], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters that were pruned or parametrised since under their old names, with the weights in effect.

    ``torch.nn.utils.prune`` renames ``weight`` to ``weight_orig`` and multiplies by ``weight_mask``;
    ``torch.nn.utils.parametrize`` renames it to ``parametrizations.weight.original``.

    Args:
        module: The module.
        params: Its parameters by name.
        known: What has the old names.
    """
    buffers = dict(module.named_buffers())
    effective: dict[str, Tensor] = {}
    for name, p in params.items():
        pruned = name.removesuffix("_orig")
        owner, _, rest = name.partition("parametrizations.")
        plain = f"{owner}{rest.removesuffix('.original')}"
        if name not in known and pruned in known and f"{pruned}_mask" in buffers:
            effective[pruned] = p.detach() * buffers[f"{pruned}_mask"]
        elif name not in known and plain in known:
            with torch.no_grad():
                effective[plain] = getattr(module.get_submodule(owner.rstrip(".")), rest.removesuffix(".original"))
        else:
            effective[name] = p
    return effective
