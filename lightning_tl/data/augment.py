"""Images of one size as a batch: to floats, cropped, resized and standardised in one vectorised go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_tl.errors import UserError


@dataclass
class BatchTransform:
    """uint8 images ``[B, C, H, W]`` → float images ``[B, 1 or C, size, size]``.

    Args:
        size: Side of the output in pixels.
        grayscale: Average the colours into one channel (ITU-R 601 weights).
        standardize: Subtract each image's mean and divide by its standard deviation.
        crop_scale: Range of the share of the image's side that a random square crop keeps. In evaluation the crop is
            the central one of the mean share. ``None``: the whole image.
        invert: Probability with which a training image's brightness is inverted.
        hflip: Probability with which a training image is mirrored.
    """

    size: int = 32
    grayscale: bool = False
    standardize: bool = True
    crop_scale: tuple[float, float] | None = None
    invert: float = 0.0
    hflip: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 8:
            raise UserError(f"transform.size is {self.size}; it must be at least 8 px")
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UserError(
                f"transform.crop_scale is {self.crop_scale}; it must be [low, high] with 0 < low <= high <= 1"
            )
        for name in ("invert", "hflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"transform.{name} is {getattr(self, name)}; it is a probability, between 0 and 1")

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Transform a batch; with a generator as in training, without as in evaluation."""
        batch = images.float() / 255
        if self.grayscale and batch.shape[1] == 3:
            batch = (batch * batch.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        batch = self._resize(batch, generator)
        if generator is not None and self.hflip:
            mirrored = torch.rand(len(batch), generator=generator) < self.hflip
            batch = torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(-1), batch)
        if self.standardize:
            mean, std = batch.mean((1, 2, 3), keepdim=True), batch.std((1, 2, 3), keepdim=True)
            batch = (batch - mean) / (std + 1e-3)
        if generator is not None and self.invert:
            flip = torch.rand(len(batch), generator=generator) < self.invert
            middle = 0.0 if self.standardize else 0.5
            batch = torch.where(flip.view(-1, 1, 1, 1), 2 * middle - batch, batch)
        return batch

    def _resize(self, batch: Tensor, generator: torch.Generator | None) -> Tensor:
        n = len(batch)
        low, high = self.crop_scale or (1.0, 1.0)
        scale = torch.full((n,), (low + high) / 2)
        shift = torch.zeros(n, 2)
        if generator is not None:
            scale = low + (high - low) * torch.rand(n, generator=generator)
            shift = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - scale).unsqueeze(1)
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale, scale, shift
        if bool((scale == 1).all()):
            if batch.shape[-2:] == (self.size, self.size):
                return batch
            return F.interpolate(batch, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        grid = F.affine_grid(theta, [n, batch.shape[1], self.size, self.size], align_corners=False)
        return F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
