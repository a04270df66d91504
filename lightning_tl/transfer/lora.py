"""Low-rank updates of the backbone's weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.transfer.method import BACKBONE, BACKBONE_STAYS, TransferMethod, check_pattern


class LoRA(TransferMethod):
    """Only low-rank updates of the backbone's weights are trained, and the head (Hu et al. 2021, arXiv 2106.09685).

    The weight W of a linear layer or convolution becomes W + s·BA, with s = ``alpha`` / ``rank``. W and the BatchNorm
    layers stay as they were pre-trained, BatchNorm's statistics too. B starts at 0, so that the training begins from
    the pre-trained network. A convolution's weight counts as a matrix [out, in / groups · k · k], so that one with
    groups has an update of that rank too.

    In checkpoints W keeps its name, and the update is ``<layer>.lora_A``, ``.lora_B`` and ``.lora_scaling``. Where such
    a checkpoint is loaded by ``init_from`` or exported, the update is added to W.

    Args:
        rank: r, of the updates.
        alpha: Scale of the updates; default: ``rank``, so that s = 1.
        targets: Pattern (regular expression) of the layers to update, by their names in the task
            (``backbone.layer4.0.conv1``); default: all linear layers and convolutions of the backbone.
        dropout: Share of the inputs of an update that is set to 0 in training.

    Raises:
        UserError: An argument is out of range, a pattern is wrong or matches no such layer, or ``rank`` reaches the
            full rank of every layer; in the first step, an update that the loss does not depend on, as where a network
            computes with a layer's weight directly.
    """

    name = "lora"
    excludes: ClassVar[Mapping[str, str]] = {
        "L2SP": f"{BACKBONE_STAYS}, so there is nothing to pull",
        "EWC": f"{BACKBONE_STAYS}, so there is nothing to pull",
        "WiSEFT": f"{BACKBONE_STAYS}, and between low-rank factors there is no straight line of weights",
        "Partial": f"{BACKBONE_STAYS}, so that new ones would stay random",
    }

    def __init__(self, rank: int, alpha: float | None = None, targets: str | None = None, dropout: float = 0.0) -> None:
        if not isinstance(rank, int) or rank < 1:
            raise UserError(f"LoRA: rank is {rank}; it must be a whole number of at least 1")
        if alpha is not None and not 0 < alpha < math.inf:
            raise UserError(f"LoRA: alpha is {alpha:g}; it must be above 0")
        if not 0 <= dropout < 1:
            raise UserError(f"LoRA: dropout is {dropout:g}; it must be at least 0 and below 1")
        check_pattern("LoRA", "targets", targets)
        self.rank, self.alpha, self.targets, self.dropout = rank, alpha, targets, dropout
        self._checked = False

    def adapt(self, task: Any) -> None:
        """Give the layers their updates."""
        layers = self._layers(task.backbone)
        most = max(min(layer.weight.shape[0], layer.weight[0].numel()) for layer in layers)
        if self.rank >= most:
            raise UserError(f"LoRA: rank is {self.rank}, but the largest of the layers has rank {most}; choose less")
        for layer in layers:
            add_update(layer, self.rank, self.rank if self.alpha is None else self.alpha, self.dropout)

    def _layers(self, backbone: nn.Module) -> list[Any]:
        known = {f"{BACKBONE}{name}".rstrip("."): m for name, m in backbone.named_modules() if type(m) in _UPDATED}
        if not known:
            raise UserError("LoRA: the backbone has no linear layer or convolution of PyTorch's own types")
        layers = [layer for name, layer in known.items() if re.search(self.targets or "", name)]
        if not layers:
            some = ", ".join(list(known)[:3])
            raise UserError(f"LoRA: targets is '{self.targets}', which no layer matches; layers are {some}, …")
        return layers

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the updates again in each training."""
        self._checked = False

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse updates without any influence, after the first backward pass."""
        if self._checked:
            return
        self._checked = True
        for name, parameter in pl_module.named_parameters():
            if name.endswith(".lora_B") and parameter.requires_grad and parameter.grad is None:
                layer = name.removesuffix(".lora_B")
                raise UserError(
                    f"LoRA: the update of {layer} has no influence on the loss: the network does not use this layer, "
                    "or computes with its weight directly; leave it out by targets, a pattern of the layers to update"
                )

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is of an update or of the head."""
        return lambda name: not name.startswith(BACKBONE) or name.endswith((".lora_A", ".lora_B"))


class _WithUpdate(nn.Module):
    """What layers with a low-rank update have in common."""

    weight: Tensor
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_scaling: Tensor  # a buffer, so that a state dict can be merged without other information
    lora_dropout: float

    @property
    def scaling(self) -> float:
        """The factor s of the update s·BA."""
        return float(self.lora_scaling)

    def _dropped(self, inputs: Tensor) -> Tensor:
        return F.dropout(inputs, self.lora_dropout, self.training) if self.lora_dropout else inputs

    def extra_repr(self) -> str:
        """Return the layer's own description, with the rank."""
        return f"{super().extra_repr()}, rank={len(self.lora_A)}"


class LowRankLinear(_WithUpdate, nn.Linear):
    """A linear layer with the weight W + s·BA; A ``[r, in]``, B ``[out, r]``."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs ``[…, out]`` for inputs ``[…, in]``."""
        update = F.linear(F.linear(self._dropped(inputs), self.lora_A), self.lora_B * self.lora_scaling)
        return super().forward(inputs) + update


class _ConvWithUpdate(_WithUpdate):
    # A convolution with few filters and one of 1 x 1 are faster than the gradient of a full weight W + s·BA, by a third
    # in a ResNet-18; only in ResNet-10s of a few channels are they slower. With groups the product is no such pair.
    groups: int
    bias: Tensor | None
    _conv_forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    _pointwise: ClassVar[Callable[..., Tensor]]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs ``[B, out, …]`` for inputs ``[B, in, …]``."""
        if self.groups == 1:
            few = self._conv_forward(self._dropped(inputs), self.lora_A, None)
            update = type(self)._pointwise(few, self.lora_B * self.lora_scaling)
            return self._conv_forward(inputs, self.weight, self.bias) + update
        with torch.autocast(inputs.device.type, enabled=False):  # a sum of weights is not for half precision
            product = (self.lora_B.flatten(1) @ self.lora_A.flatten(1)).view_as(self.weight) * self.lora_scaling
        if self.lora_dropout and self.training:
            update = self._conv_forward(self._dropped(inputs), product, None)
            return self._conv_forward(inputs, self.weight, self.bias) + update
        return self._conv_forward(inputs, self.weight + product, self.bias)


class LowRankConv1d(_ConvWithUpdate, nn.Conv1d):
    """A convolution with the weight W + s·BA; A ``[r, in / groups, k]``, B ``[out, r, 1]``."""

    _pointwise = staticmethod(F.conv1d)


class LowRankConv2d(_ConvWithUpdate, nn.Conv2d):
    """A convolution with the weight W + s·BA; A ``[r, in / groups, k, k]``, B ``[out, r, 1, 1]``."""

    _pointwise = staticmethod(F.conv2d)


class LowRankConv3d(_ConvWithUpdate, nn.Conv3d):
    """A convolution with the weight W + s·BA; A ``[r, in / groups, k, k, k]``, B ``[out, r, 1, 1, 1]``."""

    _pointwise = staticmethod(F.conv3d)


_UPDATED: dict[type[nn.Module], type[_WithUpdate]] = {
    nn.Linear: LowRankLinear,
    nn.Conv1d: LowRankConv1d,
    nn.Conv2d: LowRankConv2d,
    nn.Conv3d: LowRankConv3d,
}


def add_update(layer: Any, rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Turn a layer into one with a low-rank update of its weight, in place; its outputs stay the same.

    A is drawn as the weight of a fresh layer is, from torch's global generator; B is 0.

    Args:
        layer: A linear layer or a convolution of PyTorch's own type.
        rank: r.
        alpha: s·r.
        dropout: Share of the update's inputs that is set to 0 in training.
    """
    layer.__class__ = _UPDATED[type(layer)]  # so that its place, its hooks and its parameters remain
    weight = layer.weight
    layer.lora_A = nn.Parameter(weight.new_empty(rank, *weight.shape[1:]))
    nn.init.kaiming_uniform_(layer.lora_A, a=math.sqrt(5))
    layer.lora_B = nn.Parameter(weight.new_zeros(len(weight), rank, *(1,) * (weight.dim() - 2)))
    layer.register_buffer("lora_scaling", weight.new_tensor(alpha / rank))
    layer.lora_dropout = dropout
