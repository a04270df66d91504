"""Methods that begin with the head and go on with the backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning_tl.errors import UserError
from lightning_tl.models.stages import stage_count, stage_of
from lightning_tl.transfer.method import BACKBONE, TransferMethod


class LPFT(TransferMethod):
    """Linear probing, then fine-tuning: first only the head, then everything (Kumar et al. 2022, arXiv 2202.10054).

    The learning-rate schedule starts anew with the second phase, warm-up included. While the head is trained, the
    backbone is in eval mode.

    Args:
        share: Share of the training's steps that the first phase takes.
        probe_steps: Its length in steps, instead of a share.

    Raises:
        UserError: The first phase is not shorter than the training, or both lengths are given.
    """

    name = "lpft"

    def __init__(self, share: float | None = None, probe_steps: int | None = None) -> None:
        if share is not None and probe_steps is not None:
            raise UserError("LPFT: give the length of the first phase once, as share or as probe_steps")
        if share is None and probe_steps is None:
            share = 0.2
        if share is not None and not 0 < share < 1:
            raise UserError(f"LPFT: share is {share:g}; it must be above 0 and below 1")
        if probe_steps is not None and probe_steps < 1:
            raise UserError(f"LPFT: probe_steps is {probe_steps}; it must be at least 1")
        self.share, self.probe_steps = share, probe_steps

    def _probe(self, steps: int) -> int:
        length = self.probe_steps if self.probe_steps is not None else max(1, round((self.share or 0) * steps))
        if length >= steps:
            raise UserError(f"LPFT: the first phase has {length} steps, and the training {steps}; make it shorter")
        return length

    def begins(self, task: Any, steps: int) -> Callable[[str], int]:
        """Return 0 for the head, and the length of the first phase for the backbone."""
        probe = self._probe(steps)
        return lambda name: probe if name.startswith(BACKBONE) else 0

    def restarts(self, steps: int) -> list[int]:
        """Return the step at which the second phase begins."""
        return [self._probe(steps)]


class Unfreeze(TransferMethod):
    """The head is trained from the first step; the stages of the backbone join it one by one, the last one first.

    Howard and Ruder 2018 (arXiv 1801.06146), "gradual unfreezing".

    Args:
        schedule: When each stage begins, from the last stage to the stem: shares of the training's steps below 1, or
            steps. Stages that it has no entry for are never trained.

    Raises:
        UserError: The schedule is empty, decreases, has more entries than the backbone has stages, or an entry beyond
            the end of the training.
    """

    name = "unfreeze"

    def __init__(self, schedule: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5)) -> None:
        self.schedule = list(schedule)
        if not self.schedule:
            raise UserError("Unfreeze: schedule is empty; LinearProbe trains only the head")
        if self.schedule[0] < 0 or self.schedule != sorted(self.schedule):
            raise UserError(f"Unfreeze: schedule is {self.schedule}; its entries must be at least 0 and not decrease")

    def _places(self, task: Any) -> dict[str, int]:
        """Return the place in the schedule of each parameter of the backbone that has one."""
        count = stage_count(task.backbone)
        if len(self.schedule) > count:
            raise UserError(f"Unfreeze: schedule has {len(self.schedule)} entries, but the backbone has {count} stages")
        places = {f"{BACKBONE}{name}": count - 1 - stage for name, stage in stage_of(task.backbone).items()}
        return {name: place for name, place in places.items() if place < len(self.schedule)}

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is of the head or of a stage that the schedule names."""
        named = self._places(task)
        return lambda name: not name.startswith(BACKBONE) or name in named

    def begins(self, task: Any, steps: int) -> Callable[[str], int]:
        """Return when a parameter begins."""
        begins = [round(entry * steps) if entry < 1 else int(entry) for entry in self.schedule]
        if begins != sorted(begins):
            raise UserError(
                f"Unfreeze: schedule is {self.schedule}, which in a training of {steps} steps is {begins}; its entries "
                "must not decrease: give all as shares, or all as steps"
            )
        whole = {name: begins[place] for name, place in self._places(task).items()}
        if late := [step for step in whole.values() if step >= steps]:
            raise UserError(f"Unfreeze: a stage begins at step {max(late)}, but the training has {steps} steps")
        return lambda name: whole.get(name, 0)
