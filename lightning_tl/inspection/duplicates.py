"""Nearly identical images, found by thumbnails."""

from __future__ import annotations

import numpy as np

#: root mean square difference of two thumbnails, in grey levels of 255, below which their images are nearly the same
THRESHOLD = 1.0
_DIMENSIONS, _NEIGHBOURS, _FITTED = 12, 8, 4096


def near_duplicates(thumbnails: np.ndarray, threshold: float = THRESHOLD) -> list[tuple[int, int, float]]:
    """Return pairs of nearly the same image: for each that has an earlier one, that which is nearest.

    Thumbnails are projected onto the set's first principal directions, where distances can only become less; what
    is near there (of its eight nearest) is compared whole.

    Args:
        thumbnails: uint8 ``[N, …]``.
        threshold: Root mean square difference in grey levels.

    Returns:
        (index, an earlier index, their difference), by index.
    """
    from scipy.spatial import cKDTree

    flat = thumbnails.reshape(len(thumbnails), -1)
    if len(flat) < 2:
        return []
    some = flat[:: max(1, len(flat) // _FITTED)].astype(np.float32)
    centre = some.mean(0)
    some -= centre
    directions = np.linalg.eigh(some.T @ some)[1][:, -_DIMENSIONS:]
    projected = np.concatenate(
        [(flat[i : i + _FITTED].astype(np.float32) - centre) @ directions for i in range(0, len(flat), _FITTED)]
    )
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
