"""Faster R-CNN with a feature pyramid: torchvision's parts on our backbones."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lightning_tl.errors import UserError, nearest
from lightning_tl.models.feature_pyramid import SimpleFeaturePyramid
from lightning_tl.models.timm_networks import STRIDES

ANCHOR_SIZES = (32, 64, 128, 256, 512)
_POOLED = 7  # side of a pooled region, torchvision's
_NUMBERS = {
    name
    for name, argument in inspect.signature(FasterRCNN).parameters.items()
    if name.startswith(("rpn_", "box_")) and isinstance(argument.default, int | float)
}


class _Channels(nn.Module):
    """Stands in for the backbone in torchvision's constructor, which reads only this attribute."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels


class FasterRCNNHead(nn.Module):
    """Feature pyramid, region proposals and box heads on a backbone's four maps, or its single one.

    Ren et al., *Faster R-CNN*, 2015; Lin et al., *Feature Pyramid Networks for Object Detection*, 2017. Outputs equal
    those of torchvision's ``fasterrcnn_resnet50_fpn`` with the same weights. Images are not resized and not
    standardised: the data module has done both.

    Args:
        channels: Channels of the backbone's four maps. Of one map, as of a ViT, a simple feature pyramid is made.
        num_classes: Number of classes without the background.
        anchor_sizes: Side of the anchors in pixels, one per level: the four maps and one pooled from the last.
        fpn_channels: Channels of the pyramid.
        representation_size: Width of the two fully connected layers on a pooled region.
        options: Numerical arguments of torchvision's ``FasterRCNN`` by name (``rpn_…``, ``box_…``), such as
            ``box_batch_size_per_image``, the number of regions per training image.
        strides: Of the maps; needed where there is one.

    Raises:
        UserError: An option is unknown, or there are not five positive anchor sizes.
    """

    def __init__(
        self,
        channels: list[int],
        num_classes: int,
        anchor_sizes: Sequence[int] = ANCHOR_SIZES,
        fpn_channels: int = 256,
        representation_size: int = 1024,
        options: Mapping[str, int | float] | None = None,
        strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__()
        if len(anchor_sizes) != 5 or min(anchor_sizes) < 1:
            raise UserError(f"model.anchor_sizes is {list(anchor_sizes)}; it must be five sizes in px, one per level")
        for name, value in (("fpn_channels", fpn_channels), ("representation_size", representation_size)):
            if value < 1:
                raise UserError(f"model.{name} is {value}; it must be at least 1")
        for name in options or {}:
            if name not in _NUMBERS:
                raise UserError(f"model.detector: Faster R-CNN has no option '{name}'{nearest(name, _NUMBERS)}")
        self.fpn: nn.Module
        if len(channels) == 1:
            self.fpn = SimpleFeaturePyramid(channels[0], strides[0], STRIDES, fpn_channels)
        else:
            self.fpn = FeaturePyramidNetwork(channels, fpn_channels)
        self.pool = LastLevelMaxPool()
        detector = FasterRCNN(
            _Channels(fpn_channels),
            rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in anchor_sizes), ((0.5, 1.0, 2.0),) * 5),
            box_head=TwoMLPHead(fpn_channels * _POOLED**2, representation_size),
            box_predictor=FastRCNNPredictor(representation_size, num_classes + 1),
            **(options or {}),
        )
        self.rpn, self.roi_heads, self.transform = detector.rpn, detector.roi_heads, detector.transform

    def image_list(self, images: list[Tensor]) -> ImageList:
        """Return images ``[C, H, W]`` as one batch, padded with zeros to the right and below to a multiple of 32 px."""
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        return ImageList(self.transform.batch_images(images, 32), sizes)

    def pyramid(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """Return the pyramid's five levels for the backbone's maps."""
        if isinstance(self.fpn, SimpleFeaturePyramid):
            levels = {str(level): features for level, features in enumerate(self.fpn(maps[0]))}
        else:
            levels = self.fpn(OrderedDict((str(level), features) for level, features in enumerate(maps)))
        values, names = self.pool(list(levels.values()), list(maps), list(levels))
        return dict(zip(names, values, strict=True))

    def losses(
        self, pyramid: dict[str, Tensor], images: ImageList, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the four losses by name. They draw anchors and regions from torch's global generator."""
        proposals, rpn_losses = self._mode(True).rpn(images, pyramid, targets)
        _, box_losses = self.roi_heads(pyramid, proposals, images.image_sizes, targets)
        return {**box_losses, **rpn_losses}

    def detect(self, pyramid: dict[str, Tensor], images: ImageList) -> list[dict[str, Tensor]]:
        """Return for each image ``boxes`` ``[n, 4]`` (xyxy in px), ``labels`` ``[n]`` and ``scores`` ``[n]``."""
        proposals, _ = self._mode(False).rpn(images, pyramid)
        detections, _ = self.roi_heads(pyramid, proposals, images.image_sizes)
        return list(detections)

    def _mode(self, training: bool) -> FasterRCNNHead:
        # torchvision's two parts use this flag only to choose between losses and detections: they contain no dropout
        # and no BatchNorm. So the loss can be computed in evaluation too.
        self.rpn.training = self.roi_heads.training = training
        return self
