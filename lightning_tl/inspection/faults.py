"""The faults that a rendered data set can have."""

from __future__ import annotations

from dataclasses import dataclass

#: faults: the data set is wrong, and training on it would be wrong
FAULTS = {
    "shard-missing": "a shard of the manifest is not there",
    "shard-hash": "a shard's sha256 is not the manifest's",
    "shard-unreadable": "a shard is not a readable tar file",
    "shard-count": "a shard does not hold as many images as the manifest says",
    "ids": "a key, scene, view or instance id is wrong or duplicate",
    "member-missing": "an image lacks its colours, a mask, normals or labels",
    "undecodable": "a member cannot be decoded",
    "size": "an image, mask or label has another size than the manifest",
    "label-format": "labels lack a key, or a value is of the wrong type",
    "unknown-category": "a category id or name is not in the manifest",
    "labels": "the list of visible categories is not that of the objects",
    "no-pixels": "an object is listed, but no pixel of the mask belongs to it",
    "unlisted-instance": "the mask has an instance that the labels do not list",
    "box": "a box differs from the mask's",
    "area": "an area differs from the mask's",
    "category-mask": "the mask of categories differs from the objects' categories",
    "visible-fraction": "a visible fraction is not above 0 and at most 1",
    "camera": "the camera's matrices are not an intrinsic matrix and a rigid motion",
    "empty": "an image is of a single colour",
    "normal-length": "normals are not of unit length",
    "normal-facing": "normals face away from the camera",
    "normal-missing": "an object has pixels without a normal",
    "near-duplicate": "an image is nearly the same as another of its split",
    "leak": "an image is nearly the same as one of the other split",
    "never-seen": "a category of the manifest is in no image, and this is too unlikely to be chance",
}
#: remarks: possibly intended
REMARKS = {
    "extra-file": "a file beside the shards is not in the manifest: an unfinished or an older rendering",
    "no-object": "an image shows no object",
    "clipped": "an object at the image's edge is less than a quarter visible",
    "hidden": "an object is less than a twentieth visible",
    "hovering": "an object's lowest visible point is well above the floor",
    "rare": "a category is in few or no images",
    "imbalance": "a category has over ten times, or under a tenth, of the median category's objects",
}


@dataclass(frozen=True)
class Fault:
    """One finding.

    Attributes:
        code: A key of ``FAULTS`` or ``REMARKS``.
        file: The shard or other file.
        key: The image, ``<scene>-<view>``; empty if it is about the whole file.
        detail: Description of the fault.
    """

    code: str
    file: str
    key: str
    detail: str

    @property
    def serious(self) -> bool:
        """Return whether it is a fault, not a remark."""
        return self.code in FAULTS

    def __str__(self) -> str:
        return f"{self.file}{f' {self.key}' if self.key else ''}: {self.detail}"
