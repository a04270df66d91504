"""The pre-training loss of a network that is being fine-tuned: how much it forgets."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest
from lightning_tl.losses.training_step import quiet, step_loss
from lightning_tl.measure.arguments import loss_function
from lightning_tl.measure.batchnorm import STATISTICS, Statistics, own_statistics, reestimate
from lightning_tl.measure.objective import LossFn


class PretrainingLoss:
    """A ``loss_fn`` for the callbacks: the present backbone under the saved pre-training head.

    Springer et al. (2025) measure how fragile the *pre-training* loss becomes. Give held-out pre-training batches as
    ``probe``, and this as ``loss_fn``::

        loss = PretrainingLoss(pretrained_module)
        PerturbationSensitivity(loss_fn=loss, probe=pretraining_val_loader, include="^backbone", prefix="pretrain/")

    While a network is fine-tuned, its BatchNorm statistics become those of the target images. Under these the
    pre-training loss rises even if no weight has moved. So they are re-estimated on pre-training batches, unless
    ``bn="kept"``.

    Args:
        pretrained: The pre-trained module, with its head; a copy is kept.
        backbone: The attribute under which both modules hold the backbone (dots reach deeper).
        loss_fn: ``(module, batch) -> scalar tensor`` of the pre-trained module. Default: its ``training_step``.
        bn: BatchNorm's statistics, of backbone and head: ``re-estimated`` before each evaluation, or ``kept`` as the
            backbone has them.
        bn_batches: Pre-training batches that they are re-estimated on; default: the batch that is evaluated.

    Raises:
        UserError: A module has no such backbone; ``bn`` is unknown.
    """

    def __init__(
        self,
        pretrained: nn.Module,
        backbone: str = "backbone",
        loss_fn: LossFn | None = None,
        bn: Statistics = "re-estimated",
        bn_batches: Sequence[Any] | None = None,
    ) -> None:
        if bn not in STATISTICS:
            raise UserError(f"bn={bn!r} is unknown{nearest(str(bn), STATISTICS)}")
        if not isinstance(pretrained, nn.Module):
            raise UserError(
                f"pretrained={pretrained!r} must be the pre-trained module, with its head: "
                "MyModule.load_from_checkpoint(path)"
            )
        loss_function(loss_fn)
        _submodule(pretrained, backbone)
        trainer = getattr(pretrained, "_trainer", None)
        try:
            if trainer is not None:
                pretrained._trainer = None  # type: ignore[assignment]  # a trainer is not to be copied
            self.pretrained = copy.deepcopy(pretrained).eval().requires_grad_(False)
        finally:
            if trainer is not None:
                pretrained._trainer = trainer
        self.backbone, self.loss_fn = backbone, loss_fn or step_loss
        self.bn, self.bn_batches = bn, bn_batches

    def __call__(self, module: nn.Module, batch: Any) -> Tensor:
        """Return the pre-training loss of ``module``'s backbone, a scalar tensor."""
        present = _submodule(module, self.backbone)
        parent, _, name = self.backbone.rpartition(".")
        holder = self.pretrained.get_submodule(parent)
        original = _submodule(self.pretrained, self.backbone)
        device = next(module.parameters()).device
        if next(self.pretrained.parameters()).device != device:
            self.pretrained.to(device)
        setattr(holder, name, present)
        try:
            with quiet(self.pretrained), own_statistics(self.pretrained):
                if self.bn == "re-estimated":
                    batches = [batch] if self.bn_batches is None else self.bn_batches
                    reestimate(self.pretrained, functools.partial(self.loss_fn, self.pretrained), batches)
                return self.loss_fn(self.pretrained, batch)
        finally:
            setattr(holder, name, original)


def _submodule(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        children = ", ".join(child for child, _ in module.named_children())
        raise UserError(f"{type(module).__name__} has no backbone at {name!r}; it has {children}") from None
