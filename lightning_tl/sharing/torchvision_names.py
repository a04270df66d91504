"""Our networks under the names of torchvision's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.models import BACKBONES
from lightning_tl.sharing.trained_network import TrainedNetwork
from lightning_tl.tasks import ObjectDetection
from lightning_tl.tasks.dense import DensePrediction

_DETECTOR = {
    "backbone.": "backbone.body.",
    "head.fpn.": "backbone.fpn.",
    "head.rpn.": "rpn.",
    "head.roi_heads.": "roi_heads.",
}
_DEEPLAB = {"backbone.": "backbone.", "head.classifier.": "classifier.", "head.aux_classifier.": "aux_classifier."}
_CLASSIFIER = {"backbone.": "", "head.": "fc."}
_DILATED = ("resnet50", "resnet101")  # torchvision's basic blocks cannot be dilated


def torchvision_state(network: TrainedNetwork) -> tuple[dict[str, Tensor], str]:
    """Return a network's weights under torchvision's names, and the call that makes torchvision's network.

    Raises:
        UserError: torchvision has no such network.
    """
    task, name = network.task, network.task.backbone_name
    if name not in BACKBONES or name.startswith("resnet10_"):
        raise UserError(
            f"export: --format torchvision is for ResNet-18 to -152, and the backbone is {name}; use --format timm"
        )
    if isinstance(task, ObjectDetection):
        if name == "resnet50":
            call = f"torchvision.models.detection.fasterrcnn_resnet50_fpn(num_classes={task.num_classes + 1})"
        else:
            call = (
                f'torchvision.models.detection.FasterRCNN(resnet_fpn_backbone(backbone_name="{name}", weights=None, '
                f"norm_layer=torch.nn.BatchNorm2d), num_classes={task.num_classes + 1})"
            )
        return _renamed(task, _DETECTOR), call
    if isinstance(task, DensePrediction):
        if name not in _DILATED or task.output_stride != 8:
            raise UserError(
                "export: torchvision's DeepLabV3 has a ResNet-50 or -101 with output stride 8, and this network a "
                f"{name} with {task.output_stride}; use --format backbone or onnx"
            )
        call = f"torchvision.models.segmentation.deeplabv3_{name}(num_classes={task.num_classes}, aux_loss=True)"
        return _renamed(task, _DEEPLAB), call
    if not isinstance(task.head, nn.Linear) or task.head.bias is None:
        raise UserError(
            f"export: torchvision's {name} has a linear head, and that of {type(task).__name__} is none; use --format "
            "backbone or safetensors"
        )
    return _renamed(task, _CLASSIFIER), f"torchvision.models.{name}(num_classes={task.num_classes})"


def _renamed(task: Any, names: dict[str, str]) -> dict[str, Tensor]:
    state = {}
    for key, value in task.state_dict().items():
        for own, theirs in names.items():
            if key.startswith(own):
                state[theirs + key.removeprefix(own)] = value
                break
        else:
            raise UserError(f"export: torchvision's network has no place for {key}; use --format safetensors")
    return state
