"""Images of any size with their targets: read, augmented and put into batches one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lightning_tl.data.image_files import Undecodable, decode
from lightning_tl.data.image_geometry import Geometry
from lightning_tl.data.sample_order import Pick, StepPicks, sample_seed
from lightning_tl.data.transforms import Plan, seeded
from lightning_tl.errors import UserError

Kind = Literal["label", "boxes", "mask", "normals", "points"]


MEND_FILE = "replace it, or leave such images out by data.on_error: skip"


class Source(Protocol):
    """A source of samples by index.

    A target is by kind ``label``: an int, or a float array ``[K]``; ``boxes``: a dictionary of the keys of a
    detection target but for image_id, in pixels of the whole image; ``mask``: uint8 ``[H, W]``; ``normals``: uint8
    ``[H, W, 3]`` as rendered shards store them; ``points``: float ``[K, 2]``, (x, y) in pixels of the whole image (see
    :meth:`Geometry.points`), NaN where unknown. The pairs of points that a mirrored image swaps, such as a left and a
    right eye, are in ``mirror_pairs``, if the source has that attribute.
    """

    kind: Kind
    #: what to do about a damaged image
    mend: str

    def __len__(self) -> int:
        """Return the number of samples."""

    def name(self, index: int) -> str:
        """Return the name of a sample: its file."""

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """Return an image, opened but not decoded, and its target."""


def pixels(image: Image.Image, geometry: Geometry, name: str) -> Tensor:
    """Decode colours no larger than the plan needs, and apply it: uint8 ``[3, H, W]``.

    Raises:
        Undecodable: The image is damaged.
    """
    return geometry.image(torch.from_numpy(decode(image, name, geometry.decode_size)).permute(2, 0, 1))


def unit_normals(stored: np.ndarray) -> Tensor:
    """Turn stored normals, uint8 ``[H, W, 3]``, into unit vectors, float ``[3, H, W]``; 128, 128, 128 → zeros."""
    raw = torch.from_numpy(stored).permute(2, 0, 1)
    vectors = raw.float() / 127.5 - 1
    vectors = vectors / vectors.norm(dim=0, keepdim=True).clamp(min=1e-6)
    return torch.where((raw == 128).all(0, keepdim=True), 0.0, vectors)


def _boxes(target: dict[str, Any], geometry: Geometry) -> dict[str, Tensor]:
    (height, width), (rows, columns) = geometry.source, geometry.size
    tensors = {name: torch.as_tensor(value) for name, value in target.items()}
    tensors["boxes"] = geometry.boxes(tensors["boxes"].reshape(-1, 4).float())
    tensors["area"] = tensors["area"].float() * (rows * columns / (height * width))
    return tensors


def _same_size(array: np.ndarray, geometry: Geometry, name: str) -> np.ndarray:
    if array.shape[:2] != geometry.source:
        (h, w), (rows, columns) = array.shape[:2], geometry.source
        raise UserError(f"{name}: the image is {columns} x {rows} px, its labels {w} x {h} px; they must be alike")
    return array


def _points(target: Any, geometry: Geometry, name: str) -> Tensor:
    points = torch.as_tensor(target, dtype=torch.float32)
    if points.ndim != 2 or points.shape[-1] != 2:
        raise UserError(f"{name}: its points have the shape {list(points.shape)}; it must be [K, 2], x and y in pixels")
    return geometry.points(points)


_TARGETS: dict[Kind, Callable[[Any, Geometry, str], Any]] = {
    "label": lambda target, geometry, name: torch.as_tensor(target),
    "boxes": lambda target, geometry, name: _boxes(target, geometry),
    "mask": lambda target, geometry, name: geometry.mask(torch.from_numpy(_same_size(target, geometry, name))).long(),
    "points": _points,
    "normals": lambda target, geometry, name: geometry.normals(unit_normals(_same_size(target, geometry, name))),
}


class ImageDataset(Dataset[Any]):
    """Batches of augmented samples.

    Args:
        source: Source of the samples.
        transform: Transform of image and target.
        seed: Seed of the augmentation.
        indices: Indices of samples in the source, in order (``None``: all).
    """

    def __init__(self, source: Source, transform: Plan, seed: int = 0, indices: np.ndarray | None = None) -> None:
        self.source, self.transform, self.seed = source, transform, seed
        self.indices = np.arange(len(source)) if indices is None else indices
        self._mean = torch.tensor(transform.mean).view(3, 1, 1) * 255
        self._scale = 1 / (torch.tensor(transform.std).view(3, 1, 1) * 255)

    def __len__(self) -> int:
        return len(self.indices)

    def _index(self, pick: int | Pick) -> int:
        return int(self.indices[pick.sample if isinstance(pick, Pick) else pick])

    def name(self, pick: int | Pick) -> str:
        """Return the name of a sample."""
        return self.source.name(self._index(pick))

    def sample(self, pick: int | Pick) -> tuple[Tensor, Any]:
        """Return an image, float ``[3, H, W]``, and its target; augmented for a ``Pick`` of a training step."""
        try:
            return self._sample(pick, self.name(pick))
        except Undecodable as error:
            raise UserError(f"{error}: {self.source.mend}") from None

    def _sample(self, pick: int | Pick, name: str) -> tuple[Tensor, Any]:
        image, target = self.source.read(self._index(pick))
        if isinstance(pick, Pick):
            with seeded(sample_seed(self.seed, pick.step, pick.place)):
                geometry = self.transform.plan(image.height, image.width, training=True)
        else:
            geometry = self.transform.plan(image.height, image.width, training=False)
        target = _TARGETS[self.source.kind](target, geometry, name)
        if self.source.kind == "points" and geometry.flip:
            for one, other in getattr(self.source, "mirror_pairs", ()):
                target[[one, other]] = target[[other, one]]
        return pixels(image, geometry, name).sub(self._mean).mul_(self._scale), target

    def __getitem__(self, indices: Sequence[int | Pick] | StepPicks) -> Any:
        """Return the batch of a list of indices or picks."""
        images, targets = zip(*(self.sample(index) for index in indices), strict=True)
        if self.source.kind == "boxes":
            return list(images), list(targets)
        shapes = sorted({f"{image.shape[2]} x {image.shape[1]}" for image in images})
        if len(shapes) > 1:
            first = self.name(next(iter(indices)))
            raise UserError(
                f"{first} and the images after it differ in size ({', '.join(shapes)} px), so they "
                "make no batch: set data.eval_batch_size to 1"
            )
        return torch.stack(images), torch.stack(targets)
