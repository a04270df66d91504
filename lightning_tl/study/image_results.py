"""What a study keeps of each test image: a file per run, and bootstrap replicates of its error in its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def save_image_results(model: Any, folder: Path) -> tuple[dict[str, str], list[float]]:
    """Write ``test_images.npz``, with what the score needs of each test image, in the order of the test set.

    Args:
        model: The task after its test.
        folder: Folder of the run.

    Returns:
        The fact ``test_set``, a hash of the targets, and replicates of the error over test images; both empty where
        the task keeps no results of images, or the score of a replicate is not defined.
    """
    kept = getattr(model, "image_results", None)
    if kept is None or kept.count < 2:
        return {}, []
    np.savez_compressed(folder / "test_images.npz", **kept.results)
    replicates = [float(f"{1 - value:.6g}") for value in kept.replicates]
    return {"test_set": kept.targets_hash}, replicates if np.isfinite(replicates).all() else []
