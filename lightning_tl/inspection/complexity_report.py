"""`lightning-tl dataset complexity`: a report as text and plain values, from folders and a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl.inspection.feature_statistics import as_json, entropy, gap
from lightning_tl.inspection.features import Standardize, features, open_images, open_reference
from lightning_tl.progress import progress_bar


def complexity(
    root: str | Path,
    checkpoint: Path,
    backbone: str | None = None,
    against: str | Path | None = None,
    *,
    images: int = 5000,
    size: int = 224,
    standardize: Standardize = "imagenet",
    draws: int = 100,
    seed: int = 0,
) -> tuple[str, dict[str, Any]]:
    """Measure the entropy of images' features, and their distance from another set's.

    Args:
        root: Renders, on a store too (``s3://bucket/set``), or a folder of images.
        checkpoint: Checkpoint of the network.
        backbone: Its name, if the checkpoint does not say.
        against: Images to compare with.
        images: Largest number of images of each set.
        size: Side of the network's input, pixels.
        standardize: ``imagenet`` or ``image``.
        draws: Bootstrap resamplings.
        seed: Seed of all random draws.

    Returns:
        The text to print, and the values.

    Raises:
        UserError: As ``open_images``, ``open_reference``, ``features``, ``entropy`` and ``gap``.
    """
    reference = open_reference(checkpoint, backbone)
    sets = [open_images(each, images, seed) for each in (root, against) if each is not None]
    vectors = []
    for each, folder in zip(sets, (root, against), strict=False):
        with progress_bar(f"features of {folder}", "images") as advance:
            vectors.append(features(reference, each, size, standardize, advance=advance))
    with progress_bar("bootstrap", "draws") as advance:
        own = entropy(vectors[0], draws, seed, advance)
    low, high = own.interval
    lines = [
        reference.loading.splitlines()[0],
        f"{root}: {own.images} images, {own.dimensions} features",
        f"complexity       H = {own.value:.2f} nats (95 % interval {low:.2f} to {high:.2f})",
        "H is the entropy of the features: larger is more complex. Compare only values of one checkpoint, size, "
        "standardisation and number of images.",
    ]
    if own.estimator != "unbiased":
        lines.append(
            f"H leans on a shrunk covariance (Ledoit and Wolf, {own.shrinkage:.2g}) and is too high: features are "
            f"constant or dependent, or images fewer than {2 * (own.dimensions + 1)}; give as many by --images."
        )
    apart = None
    if against is not None:
        groups = [np.array([each.group(index) for index in range(len(each))]) for each in sets]
        apart = gap(vectors[0], vectors[1], groups[0], groups[1], seed)
        accuracy = apart.classifier
        lines += [
            f"against {against}, {apart.images} images of each:",
            f"Fréchet distance {apart.frechet:.4g} (squared; between halves of one set "
            f"{apart.floor[0]:.3g}, {apart.floor[1]:.3g})",
            f"domain classifier {accuracy.accuracy:.3f} ± {accuracy.stderr:.3f} (0.5: chance; 1: always right)",
        ]
    facts = {
        "root": str(root),
        "checkpoint": str(checkpoint),
        "against": None if against is None else str(against),
        "size": size,
        "standardize": standardize,
        "seed": seed,
    }
    return "\n".join(lines), facts | as_json(own, apart)
