"""Methods that train a part of the parameters, from the first step to the last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_tl.errors import UserError
from lightning_tl.models.stages import stage_count, stage_of
from lightning_tl.transfer.method import BACKBONE, TransferMethod


class LinearProbe(TransferMethod):
    """Only the head is trained, on the features of the frozen backbone.

    The backbone is in eval mode: its BatchNorm keeps the statistics of the pre-training. No gradient is computed for
    it, so a step takes less than half the time. For detection and dense tasks the head is not linear.
    """

    name = "linear_probe"

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is of the head."""
        return lambda name: not name.startswith(BACKBONE)


class FreezeStages(TransferMethod):
    """The first stages keep the pre-trained weights and BatchNorm statistics; the rest is trained.

    Args:
        stages: How many stages are frozen in addition to the stem: in a ResNet, ``layer1`` to ``layer<stages>``;
            0 freezes only the stem (``conv1``, ``bn1``).

    Raises:
        UserError: The number is negative, or the backbone has fewer stages.
    """

    name = "freeze_stages"

    def __init__(self, stages: int) -> None:
        if stages < 0:
            raise UserError(f"FreezeStages: stages is {stages}; it must be at least 0")
        self.stages = stages

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is of a later stage or of the head."""
        most = stage_count(task.backbone) - 1
        if self.stages > most:
            raise UserError(
                f"FreezeStages: stages is {self.stages}, but the backbone has {most} in addition to its stem"
            )
        frozen = {f"{BACKBONE}{name}" for name, stage in stage_of(task.backbone).items() if stage <= self.stages}
        return lambda name: name not in frozen


class BitFit(TransferMethod):
    """Only the biases of the backbone are trained, and the head (Ben Zaken et al. 2021, arXiv 2106.10199).

    A ResNet's biases are those of its BatchNorm. BatchNorm follows the statistics of the target images.
    """

    name = "bitfit"

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is a bias or of the head."""
        return lambda name: not name.startswith(BACKBONE) or name.endswith("bias")


class BNOnly(TransferMethod):
    """Only BatchNorm's weights and biases are trained, and the head (Frankle et al. 2020, arXiv 2003.00152).

    BatchNorm follows the statistics of the target images.

    Raises:
        UserError: The backbone has no BatchNorm.
    """

    name = "bn_only"

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is of a BatchNorm or of the head."""
        layers = [(name, layer) for name, layer in task.backbone.named_modules() if isinstance(layer, _BatchNorm)]
        if not layers:
            raise UserError("BNOnly: the backbone has no BatchNorm; BitFit trains the biases of any network")
        chosen = {f"{BACKBONE}{prefix}.{own}" for prefix, layer in layers for own, _ in layer.named_parameters()}
        return lambda name: not name.startswith(BACKBONE) or name in chosen


def backbone_parameters(task: Any) -> dict[str, nn.Parameter]:
    """Return the backbone's parameters by their names in the task."""
    return {f"{BACKBONE}{name}": parameter for name, parameter in task.backbone.named_parameters()}
