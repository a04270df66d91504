"""Small bottleneck networks after the residual blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.transfer.method import BACKBONE, BACKBONE_STAYS, TransferMethod


class Adapter(TransferMethod):
    """Only a bottleneck after each residual block is trained, and the head.

    Houlsby et al. 2019 (arXiv 1902.00751); for convolutional networks Rebuffi et al. 2017 (arXiv 1705.08045). The
    output x of a block becomes x + up(relu(down(x))), where ``down`` and ``up`` are convolutions of 1 x 1. ``up``
    starts at 0, so that the training begins from the pre-trained network. The backbone's weights and its BatchNorm
    layers stay as they were pre-trained, BatchNorm's statistics too.

    In checkpoints an adapter is ``<block>.adapter.down`` and ``.up``. It cannot be merged into the weights: ``export``
    refuses such a checkpoint, and ``init_from`` accepts it only for a backbone with the same adapters.

    Args:
        width: Channels between ``down`` and ``up``.

    Raises:
        UserError: The width is below 1, or the backbone has no residual blocks of timm's ResNets.
    """

    name = "adapter"
    excludes: ClassVar[Mapping[str, str]] = {
        "L2SP": f"{BACKBONE_STAYS}, so there is nothing to pull",
        "EWC": f"{BACKBONE_STAYS}, so there is nothing to pull",
        "WiSEFT": f"{BACKBONE_STAYS}, so there is nothing to interpolate",
        "Partial": f"{BACKBONE_STAYS}, so that new ones would stay random",
    }

    def __init__(self, width: int) -> None:
        if not isinstance(width, int) or width < 1:
            raise UserError(f"Adapter: width is {width}; it must be a whole number of at least 1")
        self.width = width

    def adapt(self, task: Any) -> None:
        """Put an adapter after each residual block."""
        from timm.models.resnet import BasicBlock, Bottleneck  # takes half a second to import

        blocks: list[Any] = [block for block in task.backbone.modules() if isinstance(block, BasicBlock | Bottleneck)]
        if not blocks:
            kind = type(task.backbone).__name__
            raise UserError(f"Adapter: the backbone ({kind}) has no residual blocks of timm's ResNets; LoRA needs none")
        for block in blocks:
            last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
            block.adapter = BottleneckAdapter(last.out_channels, self.width).to(last.weight)
            block.register_forward_hook(_adapted)

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is of an adapter or of the head."""
        return lambda name: not name.startswith(BACKBONE) or ".adapter." in name


class BottleneckAdapter(nn.Module):
    """``x + up(relu(down(x)))``, which is x until ``up`` has been trained.

    Args:
        channels: Channels of x.
        width: Channels between ``down`` and ``up``.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, width, 1)
        self.act = nn.ReLU()
        self.up = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return maps ``[B, channels, H, W]`` for maps of that shape."""
        outputs: Tensor = x + self.up(self.act(self.down(x)))
        return outputs


def _adapted(block: Any, inputs: Any, output: Tensor) -> Tensor:
    outputs: Tensor = block.adapter(output)
    return outputs
