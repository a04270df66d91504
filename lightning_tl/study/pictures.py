"""A picture of the images that a fine-tuning trains on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl._io.atomic import replacing

_MOST = 40


def save_target(data: Any, facts: Mapping[str, Any], folder: Path) -> None:
    """Draw the first training batch, once per data set and task; the runs of a study share the file.

    Args:
        data: A data module whose batches begin with images, ``[B, C, H, W]`` or a list of ``[C, H, W]``.
        facts: ``data`` and ``task`` name the file.
        folder: Where the PNG file is written.
    """
    path = folder / f"{facts.get('data', 'data')}-{facts.get('task', 'task')}.png"
    if path.is_file():
        return
    from lightning_tl.data.preview import image_grid

    images = next(iter(data.train_dataloader()))[0]
    tiles = [_pixels(image.float().numpy()) for image in list(images)[:_MOST]]
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        image_grid(tiles, columns=20, side=48).save(beside, "PNG")


def _pixels(image: np.ndarray) -> np.ndarray:
    """Return a standardised image [C, H, W] as uint8 [H, W] or [H, W, 3], scaled to the full range."""
    low, high = float(image.min()), float(image.max())
    scaled = np.round(255 * (image - low) / max(high - low, 1e-9)).astype(np.uint8)
    return scaled[0] if len(scaled) == 1 else scaled[:3].transpose(1, 2, 0)
