"""Renders in the BOP format: one folder per scene."""

from __future__ import annotations

import io
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_tl._io.atomic import write_atomically
from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.errors import UserError
from lightning_tl.inspection.frames import Frame, Frames

NOTES = [
    "Renders do not store the objects' poses: scene_gt.json has obj_id without cam_R_m2c and cam_t_m2c, and there are "
    "no models. What needs poses (pose training, the pose error of the BOP toolkit) cannot be done with it.",
    "bbox_obj is that of the visible mask where the object is wholly visible, else -1, -1, -1, -1. px_count_all is "
    "px_count_visib / visib_fract, rounded. There is no mask/ of whole silhouettes.",
]
_NO_DEPTH = "These renders have no depth: there is no depth/ and px_count_valid is 0. Render with image.depth: true."


def write_bop(splits: list[RenderedImages], out: Path, frames: Frames) -> list[str]:
    """Write ``<split>/<scene 6 digits>/`` with ``rgb/``, ``mask_visib/``, ``depth/`` and the three JSON files.

    ``cam_t_w2c`` is in millimetres, ``obj_id`` the category's id.

    Raises:
        UserError: An image without a camera, or more than a million scenes.
    """
    depths = True
    for images in splits:
        for scene, views in groupby(frames(images), key=lambda frame: int(frame.labels["scene"])):
            if scene > 999_999:
                raise UserError(f"{images.manifest.folder}: scene {scene}; BOP's folders have six digits")
            folder = out / images.manifest.split / f"{scene:06d}"
            truth: dict[str, list[dict[str, int]]] = {}
            info: dict[str, list[dict[str, Any]]] = {}
            cameras: dict[str, dict[str, Any]] = {}
            for frame in views:
                number = str(int(frame.labels["view"]))
                depth = frame.depth()
                depths = depths and depth is not None
                cameras[number] = _camera(frame)
                truth[number] = [{"obj_id": thing["category"]} for thing in frame.labels["objects"]]
                info[number] = _view(folder, frame, depth)
            for name, content in (("scene_gt", truth), ("scene_gt_info", info), ("scene_camera", cameras)):
                write_atomically(folder / f"{name}.json", json.dumps(content))
    notes = NOTES if depths else [*NOTES, _NO_DEPTH]
    write_atomically(out / "README.txt", "\n".join(notes) + "\n")
    return notes


def _camera(frame: Frame) -> dict[str, Any]:
    try:
        k = np.array(frame.labels["camera"]["K"], float).reshape(9)
        pose = np.array(frame.labels["camera"]["world_to_camera"], float).reshape(4, 4)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{frame.images.manifest.folder}: {frame.key}.json has no camera: render it again") from error
    return {
        "cam_K": k.tolist(),
        "depth_scale": 1.0,
        "cam_R_w2c": pose[:3, :3].ravel().tolist(),
        "cam_t_w2c": (pose[:3, 3] * 1000).tolist(),
    }


def _view(folder: Path, frame: Frame, depth: tuple[bytes, np.ndarray] | None) -> list[dict[str, Any]]:
    name = f"{int(frame.labels['view']):06d}"
    suffix, content = frame.colours()
    write_atomically(folder / "rgb" / (name + suffix), content)
    measured = None
    if depth is not None:
        write_atomically(folder / "depth" / f"{name}.png", depth[0])
        measured = depth[1] > 0
    instance = frame.images.instance(frame.index)
    rows = []
    for place, thing in enumerate(frame.labels["objects"]):
        mask = instance == thing["instance"]
        file = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
        write_atomically(folder / "mask_visib" / f"{name}_{place:06d}.png", file.getvalue())
        area, fraction = int(mask.sum()), float(thing["visible_fraction"])
        rows.append(
            {
                "bbox_obj": thing["bbox"] if fraction == 1 else [-1, -1, -1, -1],
                "bbox_visib": thing["bbox"],
                "px_count_all": round(area / fraction) if fraction > 1e-9 else 0,
                "px_count_valid": 0 if measured is None else int((mask & measured).sum()),
                "px_count_visib": area,
                "visib_fract": fraction,
            }
        )
    return rows
