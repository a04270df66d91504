"""Geometry of augmentation: one plan, applied in the same way to colours, masks, normals, boxes and points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

IGNORED = 255  # mask value of pixels that are not counted
Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Geometry:
    """Cut out, resize, cut out or pad, mirror: in this order.

    Attributes:
        source: Height and width of the image, pixels.
        size: Height and width to resize to.
        crop: Region cut out of the image before resizing (``None``: the whole image).
        window: Region cut out afterwards; parts outside the image are filled (``None``: the whole image).
        flip: Mirror left and right.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    crop: Box | None = None
    window: Box | None = None
    flip: bool = False

    @property
    def decode_size(self) -> tuple[int, int]:
        """Smallest height and width that the image must be decoded to: decoding a smaller JPEG is faster."""
        _, _, height, width = self.crop or (0, 0, *self.source)
        rows, columns = self.source[0] * self.size[0] / height, self.source[1] * self.size[1] / width
        return max(1, int(rows)), max(1, int(columns))

    def _crop(self, shape: torch.Size) -> Box | None:
        if self.crop is None or tuple(shape[-2:]) == self.source:
            return self.crop
        # the image was decoded smaller
        y, x = shape[-2] / self.source[0], shape[-1] / self.source[1]
        top, left, height, width = self.crop
        return round(top * y), round(left * x), max(1, round(height * y)), max(1, round(width * x))

    def _place(self, pixels: Tensor, fill: float) -> Tensor:
        """Cut out the window and mirror."""
        if self.window is not None:
            top, left, height, width = self.window
            below, right = top + height - pixels.shape[-2], left + width - pixels.shape[-1]
            padding = [max(0, -left), max(0, -top), max(0, right), max(0, below)]
            if any(padding):
                pixels = F.pad_image(pixels, padding, fill=fill)
            pixels = pixels[..., max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
        return pixels.flip(-1) if self.flip else pixels

    def image(self, pixels: Tensor) -> Tensor:
        """Apply the plan to colours, uint8 ``[3, H, W]``; the fill is black."""
        crop = self._crop(pixels.shape)
        if crop is not None:
            top, left, height, width = crop
            # colours last and without gaps, as torchvision resizes fastest
            rows = pixels.permute(1, 2, 0)[top : top + height, left : left + width].contiguous()
            pixels = rows.permute(2, 0, 1)
        if tuple(pixels.shape[-2:]) != self.size:
            pixels = F.resize_image(pixels, list(self.size), antialias=True)
        return self._place(pixels, 0)

    def mask(self, classes: Tensor) -> Tensor:
        """Apply the plan to classes by pixel, uint8 ``[H, W]``; the fill is ``IGNORED``."""
        classes = classes.unsqueeze(0)
        if self.crop is not None:
            classes = F.crop_image(classes, *self.crop)
        if tuple(classes.shape[-2:]) != self.size:
            classes = F.resize_image(classes, list(self.size), interpolation=InterpolationMode.NEAREST_EXACT)
        return self._place(classes, IGNORED).squeeze(0)

    def normals(self, normals: Tensor) -> Tensor:
        """Apply the plan to unit vectors, float ``[3, H, W]``, zeros where there is no normal.

        Vectors are averaged over the valid ones and made unit again; mirrored, their x points the other way.
        """
        if self.crop is not None:
            normals = F.crop_image(normals, *self.crop)
        if tuple(normals.shape[-2:]) != self.size:
            valid = normals.abs().sum(0, keepdim=True).gt(0).float()
            valid = F.resize_image(valid, list(self.size), interpolation=InterpolationMode.NEAREST_EXACT)
            normals = F.resize_image(normals, list(self.size), antialias=True)
            length = normals.norm(dim=0, keepdim=True)
            normals = torch.where((valid > 0) & (length > 1e-6), normals / length.clamp(min=1e-6), 0.0)
        normals = self._place(normals, 0)
        return normals * normals.new_tensor([-1, 1, 1]).view(3, 1, 1) if self.flip else normals

    def boxes(self, boxes: Tensor) -> Tensor:
        """Apply the plan to boxes ``[n, 4]``, xyxy in pixels of the whole image.

        Raises:
            ValueError: The plan cuts something out.
        """
        if self.crop is not None or self.window is not None:
            raise ValueError("boxes are not cut: a plan for detection only resizes and mirrors")
        (height, width), (rows, columns) = self.source, self.size
        boxes = boxes * boxes.new_tensor([columns / width, rows / height] * 2)
        if self.flip:
            left, top, right, bottom = boxes.unbind(-1)
            boxes = torch.stack([columns - right, top, columns - left, bottom], -1)
        return boxes

    def points(self, points: Tensor) -> Tensor:
        """Apply the plan to points ``[…, 2]``: (x, y) in pixels of the whole image → shares of the output's sides.

        Coordinates are continuous, as those of boxes: 0 is the image's left or upper edge, the middle of its first
        pixel is at 0.5. What is outside the output becomes NaN, as what was NaN before.
        """
        top, left, height, width = self.crop or (0, 0, *self.source)
        rows, columns = self.size
        at = (points - points.new_tensor([left, top])) * points.new_tensor([columns / width, rows / height])
        if self.window is not None:
            at = at - at.new_tensor([self.window[1], self.window[0]])
            rows, columns = self.window[2:]
        at = at / at.new_tensor([columns, rows])
        if self.flip:
            at = torch.stack([1 - at[..., 0], at[..., 1]], -1)
        inside = ((at >= 0) & (at <= 1)).all(-1, keepdim=True)
        return torch.where(inside, at, torch.nan)
