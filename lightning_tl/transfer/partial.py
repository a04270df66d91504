"""A part of the pre-trained backbone, and the rest new."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_tl.errors import UserError
from lightning_tl.models.filters import chosen_filters
from lightning_tl.models.stages import stage_count, stage_of
from lightning_tl.transfer.method import BACKBONE, TransferMethod, check_pattern

Inherited = Literal["trained", "slowed", "frozen"]
_FROM_THE_FIRST = "the new part of the backbone has to be trained from the first step"
_NO_START = "the new part of the backbone has no pre-trained weights"


class Partial(TransferMethod):
    """A part of the pre-trained backbone is inherited, and the rest is initialised anew (arXiv 2509.22056).

    Exactly one of ``layers``, ``stages`` and ``share`` says which part:

    * A layer's BatchNorm statistics are inherited where all of its parameters are.
    * With ``share``, a filter is inherited with its channel: an entry of a convolution's weight where the channels that
      it reads and writes both are inherited (about share² of the entries), and the channel's entries of BatchNorm.
      Residual connections add channels, so all layers that write into one stage's sum inherit the same ones. Of c
      filters, round(share · c) are inherited; with the same seed, those of a smaller share are among those of a larger.

    Inherited parts that are frozen keep their weights exactly, under any optimiser, and slowed ones move by ``factor``
    times what the optimiser would move them. The BatchNorm of whole frozen layers keeps its statistics; with ``share``
    the statistics follow the target images, as what an inherited filter reads changes.

    Args:
        layers: Pattern (regular expression) of the inherited parameters, by their names in the task
            (``backbone.layer1.0.conv1.weight``).
        stages: How many stages are inherited in addition to the stem: in a ResNet, ``layer1`` to ``layer<stages>``.
        share: Share of the filters of each layer that are inherited.
        inherited: What happens to the inherited part in the training.
        factor: For ``slowed``: the speed of the inherited part relative to the rest; default 0.1.
        seed: Seed of the choice of filters and of the new weights.

    Raises:
        UserError: Not exactly one part is given, an argument is out of range, the part is empty or everything, the
            backbone's layers are not known (``share``), or the training begins from no pre-trained backbone.
    """

    name = "partial"
    part = "start"
    excludes: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("LinearProbe", "FreezeStages", "BitFit", "BNOnly", "LPFT", "Unfreeze"), _FROM_THE_FIRST),
        **dict.fromkeys(("L2SP", "EWC", "WiSEFT"), _NO_START),
    }

    def __init__(
        self,
        layers: str | None = None,
        stages: int | None = None,
        share: float | None = None,
        inherited: Inherited = "trained",
        factor: float | None = None,
        seed: int = 0,
    ) -> None:
        if sum(each is not None for each in (layers, stages, share)) != 1:
            raise UserError("Partial: give exactly one of layers, stages and share, which says what is inherited")
        check_pattern("Partial", "layers", layers)
        if stages is not None and stages < 0:
            raise UserError(f"Partial: stages is {stages}; it must be at least 0")
        if share is not None and not 0 < share < 1:
            raise UserError(f"Partial: share is {share:g}; it must be above 0 and below 1")
        if inherited not in get_args(Inherited):
            raise UserError(f"Partial: inherited is '{inherited}'; it must be one of {', '.join(get_args(Inherited))}")
        if factor is not None and inherited != "slowed":
            raise UserError(f"Partial: factor is given, but the inherited part is {inherited}; it goes with slowed")
        if factor is not None and not 0 < factor < 1:
            raise UserError(f"Partial: factor is {factor:g}; it must be above 0 and below 1")
        if seed < 0:
            raise UserError(f"Partial: seed is {seed}; it must be at least 0")
        self.layers, self.stages, self.share = layers, stages, share
        self.inherited, self.factor, self.seed = inherited, factor, seed
        self._masks: dict[str, Tensor] = {}
        self._held: list[tuple[nn.Parameter, Tensor]] = []
        self._before: list[Tensor] = []

    def start(self, task: Any) -> None:
        """Replace what is not inherited by newly drawn values, where there is a pre-trained backbone."""
        self._masks = self._find(task.backbone)
        named = dict(task.backbone.named_parameters())
        count = sum(int(self._masks[name].sum()) for name in named)
        total = sum(parameter.numel() for parameter in named.values())
        if count in (0, total):
            raise UserError(f"Partial: {'everything' if count else 'no parameter'} is inherited ({self._text()})")
        if task.init_from is None and not getattr(task, "starts_pretrained", False):
            return  # the weights are those of an interrupted training, or on_fit_start refuses
        rank_zero_info(f"transfer {self.label()}: {count:,} of the backbone's {total:,} parameters are inherited")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            fresh = task.freshly_initialised().backbone.state_dict()
        for name, value in task.backbone.state_dict().items():
            value.copy_(torch.where(self._masks[name].to(value.device), value, fresh[name].to(value.device)))

    def _find(self, backbone: nn.Module) -> dict[str, Tensor]:
        """Return by name of a parameter or buffer which of its entries are inherited."""
        state = backbone.state_dict()
        if self.share is not None:
            masks = chosen_filters(backbone, self.share, self.seed)
            if unknown := [name for name in state if name not in masks]:
                raise UserError(
                    f"Partial: share knows the convolutions and BatchNorms of a ResNet, and the backbone has "
                    f"{unknown[0]}; choose by layers"
                )
            return masks
        names = [name for name, _ in backbone.named_parameters()]
        if self.layers is not None:
            chosen = {name for name in names if re.search(self.layers, f"{BACKBONE}{name}")}
        else:
            most = stage_count(backbone) - 1
            if self.stages is not None and self.stages > most:
                raise UserError(
                    f"Partial: stages is {self.stages}, but the backbone has {most} in addition to its stem"
                )
            chosen = {name for name, stage in stage_of(backbone).items() if stage <= (self.stages or 0)}
        for prefix, layer in backbone.named_modules():
            stem = f"{prefix}." if prefix else ""
            own = {f"{stem}{name}" for name, _ in layer.named_parameters(recurse=False)}
            if own and own <= chosen:
                chosen |= {f"{stem}{name}" for name, _ in layer.named_buffers(recurse=False)}
        return {name: torch.full(value.shape, name in chosen) for name, value in state.items()}

    def _text(self) -> str:
        given = {"layers": self.layers, "stages": self.stages, "share": self.share}
        return ", ".join(f"{name} is {value}" for name, value in given.items() if value is not None)

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is not frozen as a whole."""
        if self.inherited != "frozen" or self.share is not None:  # a share of a tensor has to be held in it
            return lambda name: True
        whole = {f"{BACKBONE}{name}" for name, mask in self._masks.items() if bool(mask.all())}
        return lambda name: name not in whole

    def held_entries(self, task: Any) -> int:
        """Return how many entries of trained parameters are frozen."""
        return sum(int(mask.sum()) for _, mask in self._of_parameters(task)) if self.inherited == "frozen" else 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a training that does not begin from a pre-trained backbone."""
        self.need_start(pl_module, "inherits a part of the pre-trained backbone")

    def _of_parameters(self, task: Any) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the trained parameters of which entries are inherited, with the masks of these."""
        trains = self.trains(task)
        named = [(name, parameter) for name, parameter in task.backbone.named_parameters() if self._masks[name].any()]
        return [(each, self._masks[name].to(each.device)) for name, each in named if trains(f"{BACKBONE}{name}")]

    def attach(self, task: Any, optimizer: Optimizer) -> Optimizer:
        """Hold the inherited part back in each step, where it is slowed or frozen."""
        self._held = self._of_parameters(task) if self.inherited != "trained" else []
        if self._held:
            optimizer.register_step_pre_hook(self._remember)
            optimizer.register_step_post_hook(self._hold)
        return optimizer

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Set the gradients of frozen entries to 0, so that they count neither in a clipped norm nor as momentum."""
        for parameter, mask in self._held if self.inherited == "frozen" else ():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0)

    @torch.no_grad()
    def _remember(self, *_: Any) -> None:
        self._before = [parameter.clone() for parameter, _ in self._held]

    @torch.no_grad()
    def _hold(self, *_: Any) -> None:
        speed = 0.0 if self.inherited == "frozen" else 0.1 if self.factor is None else self.factor
        for (parameter, mask), before in zip(self._held, self._before, strict=True):
            kept = before.lerp(parameter, speed) if speed else before
            parameter.copy_(torch.where(mask, kept, parameter))
        self._before = []
