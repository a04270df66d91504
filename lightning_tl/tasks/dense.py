"""The base class of tasks with an output at every pixel: DeepLabV3 with an auxiliary head."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.models import feature_maps, map_channels, map_strides
from lightning_tl.models.deeplab import DeepLabV3Head
from lightning_tl.tasks.base import TransferTask


class DensePrediction(TransferTask):
    """DeepLabV3 on a dilated ResNet; the loss is that of its output plus a share of the auxiliary head's.

    For a new task, subclass it and define ``loss(outputs, targets)``, for outputs ``[B, num_classes, H, W]``, and
    ``build_metric``.

    Args:
        num_classes: Number of outputs per pixel. On the command line it comes from the data module.
        backbone: One of ``lightning_tl.models.BACKBONES``, or a network of timm that gives feature maps; of one map, as
            that of a ViT, a simple feature pyramid is made.
        output_stride: Side of the image over that of the last map: 8, 16 or 32 (half of it for the ResNet-10s).
        aux_weight: Weight of the auxiliary head's loss, which is on ``layer3``.
        aux_lr_factor: The auxiliary head's learning rate over that of the rest.
        kwargs: Those of ``TransferTask``.

    Raises:
        UserError: As ``TransferTask``; an argument out of range; training batches of a single image.
    """

    head: Any

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        output_stride: int = 8,
        aux_weight: float = 0.5,
        aux_lr_factor: float = 10.0,
        **kwargs: Any,
    ) -> None:
        for name, value in (("aux_weight", aux_weight), ("aux_lr_factor", aux_lr_factor)):
            if value < 0:
                raise UserError(f"model.{name} is {value}; it must be at least 0")
        self.output_stride = output_stride  # before the base makes the network
        super().__init__(num_classes, backbone, **kwargs)
        self.aux_weight, self.aux_lr_factor = aux_weight, aux_lr_factor

    def configure_models(self) -> None:
        """Make the dilated backbone and DeepLabV3's heads."""
        self.backbone = self.build_backbone(self.output_stride, maps=True)
        self.head = DeepLabV3Head(
            map_channels(self.backbone), self.num_classes, map_strides(self.backbone), self.output_stride
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return two groups: the auxiliary head's parameters apart."""
        aux = list(self.head.aux_classifier.parameters())
        known = {id(parameter) for parameter in aux}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return [{"params": rest}, {"params": aux, "lr_factor": self.aux_lr_factor}]

    def forward(self, images: Tensor) -> Tensor:
        """Return outputs ``[B, num_classes, H, W]`` for images ``[B, in_chans, H, W]``."""
        return self.outputs_and_aux(images, aux=False)[0]

    def outputs_and_aux(self, images: Tensor, aux: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return the outputs and those of the auxiliary head (``None`` without ``aux``), ``[B, num_classes, H, W]``."""
        images = images.contiguous(memory_format=self.memory_format)
        maps = feature_maps(self.backbone, images, self.backbone_name)
        main, auxiliary = self.head(maps, tuple(images.shape[-2:]), aux)
        return main, auxiliary

    def outputs_and_loss(self, images: Tensor, targets: Any, stage: str) -> tuple[Tensor, Tensor]:
        """Return the outputs, and the loss with the auxiliary head's share."""
        outputs, aux = self.outputs_and_aux(images)
        return outputs, self.loss(outputs, targets) + self.aux_weight * self.loss(aux, targets)

    def check_batch(self, images: Any, targets: Any, stage: str) -> None:
        """Refuse to train on one image at a time, whose pooled features BatchNorm cannot normalise."""
        if stage == "train" and len(images) == 1:
            raise UserError(
                "DeepLabV3 cannot train on batches of one image (its image pooling is normalised over the batch); "
                "set data.batch_size to at least 2 for each process"
            )
