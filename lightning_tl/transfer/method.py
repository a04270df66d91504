"""The base of all ways to transfer: hooks on the network, its parameters, its loss and its optimiser."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_tl.errors import UserError

#: What a method changes. Two methods that change the same thing cannot be combined.
Part = Literal["parameters", "start", "rates", "pull", "average", "batches", "optimiser"]
#: What the names of the backbone's parameters in a task begin with.
BACKBONE = "backbone."
#: Why a method is not combined with one that trains only what it adds to the backbone.
BACKBONE_STAYS = "the backbone's own weights do not move"


class TransferMethod(Callback):
    """A way of fine-tuning: the base class of all.

    Given to a task as ``transfer``, which calls the hooks below; as a Lightning callback it also gets all of a
    callback's hooks, and its ``state_dict`` is saved in checkpoints. For a method of your own, subclass it, keep each
    argument of the constructor as an attribute of the same name, and override what is needed.

    The hooks are called in this order: ``adapt`` (on a network with random weights), loading of the pre-trained
    backbone, ``start``, then ``parameter_groups`` and ``attach`` when the optimiser is made, and ``penalty`` in each
    training step.
    """

    #: Name in the column ``transfer`` of results.csv.
    name: ClassVar[str] = ""
    #: What the method changes.
    part: ClassVar[Part] = "parameters"
    #: Names of methods that this one cannot be combined with, and why.
    excludes: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: Whether an interrupted training goes on.
    restored = False

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments, by name.

        Raises:
            UserError: One is not kept as an attribute.
        """
        for name in self._parameters():
            if not hasattr(self, name):
                raise UserError(
                    f"transfer {type(self).__name__}: keep the argument {name} as an attribute of the same name "
                    f"(self.{name} = {name}), so that checkpoints and tables have its value"
                )
        return {name: getattr(self, name) for name in self._parameters()}

    def label(self) -> str:
        """Return the name with the arguments that are not the defaults: ``l2sp(strength=0.01)``."""
        defaults = self._parameters()
        texts = {key: _text(value) for key, value in self.arguments().items()}
        given = [f"{key}={text}" for key, text in texts.items() if text != _text(defaults[key])]
        name = self.name or type(self).__name__
        return f"{name}({', '.join(given)})" if given else name

    def _parameters(self) -> dict[str, Any]:
        """Return the names of the constructor's arguments, with their defaults."""
        known = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        return {each.name: each.default for each in known if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}

    def adapt(self, task: Any) -> None:
        """Change the structure of ``task.backbone``, in place. The names of existing parameters must stay."""

    def start(self, task: Any) -> None:
        """Take note of, or change, the initial weights, after the pre-trained backbone has been loaded."""

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is ever trained, by its name in the task (``backbone.…``, ``head.…``)."""
        return lambda name: True

    def held_entries(self, task: Any) -> int:
        """Return how many entries never move of the parameters that ``trains`` names."""
        return 0

    def begins(self, task: Any, steps: int) -> Callable[[str], int] | None:
        """Return the step at which a parameter begins to be trained, by its name; None: all begin at step 0.

        Args:
            task: The task.
            steps: Number of steps of the training.
        """
        return None

    def restarts(self, steps: int) -> list[int]:
        """Return the steps, beside 0, at which the learning-rate schedule starts anew."""
        return []

    def parameter_groups(self, task: Any, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the optimiser's groups, made from the task's own; ``lr_factor`` multiplies the learning rate."""
        return groups

    def attach(self, task: Any, optimizer: Optimizer) -> Optimizer:
        """Return the optimiser to use: the given one, with hooks on its steps, or one around it."""
        return optimizer

    def penalty(self, task: Any) -> Tensor | None:
        """Return a term that is added to the training loss and logged as ``train/<name>``; None: none."""
        return None

    def batch_loss(self, task: Any, loss: Tensor) -> Tensor:
        """Return the loss of a training step, given that of the target's batch."""
        return loss

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a method that was given as a callback.

        Raises:
            UserError: The task does not know the method.
        """
        chain = getattr(pl_module, "transfer", None)
        if not any(method is self for method in getattr(chain, "methods", ())):
            name = type(self).__name__
            raise UserError(f"{name} is not a callback: give it to the task, as --model.transfer={name}")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note that this is an interrupted training."""
        self.restored = True

    def need_start(self, task: Any, why: str) -> None:
        """Refuse a training that does not begin from a pre-trained backbone; for ``on_fit_start``.

        Raises:
            UserError: There is none, and no state of an interrupted training has been loaded.
        """
        begun = getattr(task, "init_from", None) is not None or getattr(task, "starts_pretrained", False)
        if not begun and not self.restored:
            raise UserError(f"transfer {type(self).__name__} {why}: give a pre-trained checkpoint (--model.init_from)")


def check_pattern(method: str, argument: str, pattern: str | None) -> None:
    """Refuse a pattern that is not a regular expression.

    Args:
        method: For messages, as is ``argument``.
        argument: Its name.
        pattern: None: none.

    Raises:
        UserError: It is not one.
    """
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise UserError(f"{method}: {argument} is '{pattern}', which is not a regular expression: {error}") from error


class Full(TransferMethod):
    """Fine-tuning of all parameters: the default."""

    name = "full"


def _text(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return "[" + " ".join(map(_text, value)) + "]" if isinstance(value, list | tuple) else str(value)
