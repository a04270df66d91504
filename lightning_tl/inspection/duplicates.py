"""Nearly identical images, found by thumbnails."""

from __future__ import annotations

import numpy as np

#: root mean square difference of two thumbnails, in grey levels of 255, below which their images are nearly the same
THRESHOLD = 1.0
_DIMENSIONS, _NEIGHBOURS, _FITTED, _COARSE = 12, 8, 4096, 4


def near_duplicates(thumbnails: np.ndarray, threshold: float = THRESHOLD) -> list[tuple[int, int, float]]:
    """Return pairs of nearly identical images: for each image, the nearest of the earlier ones, if there is one.

    Thumbnails are averaged over 4 × 4 pixels and projected onto the first principal directions of that, where
    distances can only become smaller; the eight nearest ones there are compared in full.

    Args:
        thumbnails: uint8 ``[N, H, W, 3]``, H and W multiples of 4.
        threshold: Root mean square difference in grey levels.

    Returns:
        (index, an earlier index, their difference), by index.
    """
    from scipy.spatial import cKDTree

    flat = thumbnails.reshape(len(thumbnails), -1)
    if len(flat) < 2:
        return []
    n, height, width, channels = thumbnails.shape
    blocks = thumbnails.reshape(n, height // _COARSE, _COARSE, width // _COARSE, _COARSE, channels)
    # sums over 16 pixels divided by 4: an orthogonal projection
    coarse = (blocks.sum((2, 4), dtype=np.float32) / _COARSE).reshape(n, -1)
    coarse -= coarse.mean(0)
    some = coarse[:: max(1, n // _FITTED)]
    projected = coarse @ np.linalg.eigh(some.T @ some)[1][:, -_DIMENSIONS:]
    radius = threshold * flat.shape[1] ** 0.5
    count = min(_NEIGHBOURS + 1, len(flat))
    _, near = cKDTree(projected).query(projected, k=count, distance_upper_bound=radius)
    pairs = []
    for index, row in enumerate(np.asarray(near)):
        others = row[row < index]  # the tree's filler is N
        if not len(others):
            continue
        difference = flat[others].astype(np.float32) - flat[index]
        rms = np.sqrt((difference**2).mean(1))
        best = int(rms.argmin())
        if rms[best] < threshold:
            pairs.append((index, int(others[best]), float(rms[best])))
    return pairs
