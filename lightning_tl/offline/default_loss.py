"""A loss for modules without a training step: a criterion of outputs and targets, or a function of module and batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.measure.objective import LossFn

#: By these names of its first parameter a function of module and batch is distinguished from a criterion.
MODULE_NAMES = ("module", "model", "net", "network", "pl_module")


def loss_of(loss: Any, name: str = "loss") -> LossFn:
    """Return ``(module, batch) -> scalar tensor`` for what a user calls a loss.

    Args:
        loss: A function whose first parameter is called ``module``, ``model``, ``net`` or ``network``, which gets
            module and batch; or a criterion, a function, module or class of modules that gets outputs and targets, as
            ``torch.nn.functional.cross_entropy`` and ``torch.nn.MSELoss`` do. For a criterion a batch is
            ``(inputs, targets)``.
        name: What to call it in an error.

    Raises:
        UserError: It is neither.
    """
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        loss = loss()
    if not callable(loss):
        raise UserError(f"{name} is a {type(loss).__name__}, not a function such as torch.nn.functional.cross_entropy")
    if not isinstance(loss, nn.Module) and _first_parameter(loss) in MODULE_NAMES:
        own: LossFn = loss
        return own
    return _of_criterion(loss, name)


def output_loss(module: nn.Module, batch: Any) -> Tensor:
    """Return the loss that a module computes itself, as Hugging Face's do: ``module(**batch).loss``."""
    loss = getattr(module(**batch), "loss", None)
    if not isinstance(loss, Tensor):
        raise UserError(
            f"{type(module).__name__} returned no loss for a batch with {', '.join(map(str, batch))}; does the batch "
            "hold labels? Otherwise name a loss"
        )
    return loss


def default_loss(module: nn.Module, batch: Any) -> LossFn | None:
    """Return the loss of a module for which none was named; None: its ``training_step``.

    Raises:
        UserError: It has none.
    """
    if callable(getattr(module, "training_step", None)):
        return None
    if isinstance(batch, Mapping) and "labels" in batch:
        return output_loss
    raise UserError(
        f"{type(module).__name__} has no training_step, so its loss must be named: loss_fn=, or --loss on the command "
        "line, with a function (module, batch) -> scalar tensor or a criterion such as "
        "torch.nn.functional.cross_entropy for batches of (inputs, targets)"
    )


def _of_criterion(criterion: Callable[..., Tensor], name: str) -> LossFn:
    def loss(module: nn.Module, batch: Any) -> Tensor:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(
                f"{name}: a criterion of outputs and targets needs batches of (inputs, targets), not "
                f"{_described(batch)}; name a function (module, batch) -> scalar tensor instead"
            )
        inputs, targets = batch
        return criterion(module(inputs), targets)

    return loss


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} of {', '.join(map(str, batch))}"
    return f"{len(batch)} parts" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"


def _first_parameter(function: Callable[..., Any]) -> str:
    try:
        return next(iter(inspect.signature(function).parameters), "")
    except (TypeError, ValueError):  # written in C
        return ""
