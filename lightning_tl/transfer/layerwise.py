"""Learning rates by depth."""

from __future__ import annotations

from typing import Any

from lightning_tl.errors import UserError
from lightning_tl.models.stages import stage_count, stage_of
from lightning_tl.transfer.method import TransferMethod


class Layerwise(TransferMethod):
    """Learning rates that fall from the head to the stem (Howard and Ruder 2018, arXiv 1801.06146).

    The head has the optimiser's rate, the last stage ``decay`` times that, the stage before it ``decay``² times, and
    so on.

    Args:
        decay: Factor from one stage to the one before it.

    Raises:
        UserError: It is not above 0 and at most 1.
    """

    name = "layerwise"
    part = "rates"

    def __init__(self, decay: float) -> None:
        if not 0 < decay <= 1:
            raise UserError(f"Layerwise: decay is {decay:g}; it must be above 0 and at most 1")
        self.decay = decay

    def parameter_groups(self, task: Any, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Split the groups by stage."""
        count = stage_count(task.backbone)
        stages = stage_of(task.backbone)
        depth = {id(each): count - stages[name] for name, each in task.backbone.named_parameters()}
        parts = []
        for group in groups:
            for below in range(count + 1):
                chosen = [parameter for parameter in group["params"] if depth.get(id(parameter), 0) == below]
                factor = {"lr_factor": group.get("lr_factor", 1.0) * self.decay**below} if below else {}
                if chosen:
                    parts.append(group | {"params": chosen} | factor)
        return parts
