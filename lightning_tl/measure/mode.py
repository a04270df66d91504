"""In which mode a module gives its loss outside training."""

from __future__ import annotations

from collections.abc import Callable

from lightning_tl.errors import UserError
from lightning_tl.measure.guard import MODES, Mode
from lightning_tl.measure.objective import Objective


def find_mode(build: Callable[[Mode], Objective], own_loss: bool) -> Mode:
    """Return the mode in which the loss can be computed: eval, else train mode with dropout off and BatchNorm frozen.

    Args:
        build: Mode → objective.
        own_loss: The loss is that of the training, not a function that the user passed.

    Raises:
        UserError: Neither works, or the loss is not a function of the weights.
    """
    errors: dict[Mode, Exception] = {}
    for mode in MODES:
        objective = build(mode)
        with objective.measuring():
            try:
                objective.batch_loss(0)
            except Exception as error:
                if not own_loss:
                    raise
                errors[mode] = error
                continue
            objective.check_repeatable()
            return mode
    reasons = "; ".join(f"in {mode} mode: {type(error).__name__}: {error}" for mode, error in errors.items())
    raise UserError(
        f"the loss of {type(objective.module).__name__} cannot be computed outside training ({reasons}). "
        "Pass loss_fn(module, batch) -> scalar tensor"
    ) from errors["eval"]
