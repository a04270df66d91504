"""Pictures of the images that a fine-tuning trains on, and of what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import replacing
from lightning_tl.figure_style import narrow_path

_MOST = 40
_PREDICTED = 8


def save_target(data: Any, facts: Mapping[str, Any], folder: Path) -> None:
    """Draw the first training batch, once per data set and task; the runs of a study share the file.

    Args:
        data: A data module whose batches begin with images, ``[B, C, H, W]`` or a list of ``[C, H, W]``; of text,
            nothing is drawn.
        facts: ``data`` and ``task`` name the file.
        folder: Where the PNG file is written.
    """
    path = folder / f"{facts.get('data', 'data')}-{facts.get('task', 'task')}.png"
    if path.is_file() or hasattr(data, "sample_tokens"):
        return
    from lightning_tl.data.preview import image_grid, visible_pixels

    images = next(iter(data.train_dataloader()))[0]
    tiles = [visible_pixels(image.float().numpy()) for image in list(images)[:_MOST]]
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(narrow_path(path)) as beside:
        image_grid(tiles[: _MOST // 2], columns=7, side=52).save(beside, "PNG")
    with replacing(path) as beside:
        image_grid(tiles, columns=20, side=48).save(beside, "PNG")


def save_predictions(model: Any, data: Any, path: Path) -> None:
    """Draw the predictions of the first test images beside the truth; nothing for text and data not read by index.

    Args:
        model: The trained task.
        data: Its data module, set up for the test.
        path: PNG file to write.
    """
    split = getattr(data, "splits", {}).get("test")
    if split is None or not len(split) or hasattr(data, "sample_tokens"):
        return
    from lightning_tl.data.prediction_pictures import save_sheet

    save_sheet(path, model, data, split[list(range(min(_PREDICTED, len(split))))], narrow_path(path))
