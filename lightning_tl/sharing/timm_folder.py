"""A network as a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.models import feature_width
from lightning_tl.sharing.safetensors_file import write_safetensors
from lightning_tl.sharing.trained_network import TrainedNetwork
from lightning_tl.tasks import ObjectDetection
from lightning_tl.tasks.dense import DensePrediction


def write_timm_folder(network: TrainedNetwork, folder: Path) -> str:
    """Write ``config.json`` and ``model.safetensors``, as timm's networks on the Hugging Face Hub have them.

    A linear head becomes timm's classifier; of other tasks only the backbone is written.

    Args:
        network: The network.
        folder: An existing folder.

    Returns:
        The call that makes the network.

    Raises:
        UserError: timm has no such network, or it lacks layers of timm's.
    """
    task, name = network.task, network.task.backbone_name
    if not timm.is_model(name):
        raise UserError(f"export: timm has no network '{name}'; use --format backbone or safetensors")
    linear = isinstance(task.head, nn.Linear) and task.head.bias is not None
    classes = task.num_classes if linear and not isinstance(task, DensePrediction | ObjectDetection) else 0
    backbone: Any = task.backbone
    state = dict(backbone.state_dict())
    known = dict(getattr(backbone, "pretrained_cfg", {}) or {})
    if classes:
        classifier = known.get("classifier")
        if not isinstance(classifier, str):
            raise UserError(f"export: timm's {name} has no single classifier; use --format backbone or safetensors")
        state |= {f"{classifier}.weight": task.head.weight, f"{classifier}.bias": task.head.bias}
    options = dict(task.backbone_options or {})
    own = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=task.in_chans, **options).state_dict()
    for key in own:
        if key not in state:
            raise UserError(
                f"export: the network lacks {key} of timm's {name}, as it was trained for feature maps; use --format "
                "backbone or safetensors"
            )
    if getattr(backbone, "dynamic_img_size", False):  # position embeddings keep their shape, as in ours
        own_size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
        options |= {"dynamic_img_size": True} | ({} if own_size is None else {"img_size": list(own_size)})
    configuration = {
        "architecture": name,
        "num_classes": classes,
        "num_features": feature_width(backbone),
        "pretrained_cfg": _pretrained_cfg(network, known, classes),
        **({"model_args": options} if options else {}),
        **({"label_names": network.classes} if classes and network.classes else {}),
    }
    write_safetensors(folder / "model.safetensors", state)
    (folder / "config.json").write_text(json.dumps(configuration, indent=2) + "\n")
    return 'timm.create_model("local-dir:FOLDER", pretrained=True)'


def _pretrained_cfg(network: TrainedNetwork, known: dict[str, Any], classes: int) -> dict[str, Any]:
    """Return timm's description of the inputs: that of the checkpoint where it says so, else nothing."""
    steps, size = network.preprocessing or {}, network.image_size()
    found: dict[str, Any] = {"custom_load": False, "num_classes": classes}
    found |= {key: known[key] for key in ("pool_size", "first_conv", "classifier") if known.get(key) is not None}
    if size is not None:
        found["input_size"] = [network.task.in_chans, size, size]
        shorter = steps.get("resize_shorter")
        found |= {"crop_pct": size / shorter, "crop_mode": "center"} if shorter else {"crop_mode": "squash"}
    found |= {key: steps[key] for key in ("mean", "std", "interpolation") if key in steps}
    return found
