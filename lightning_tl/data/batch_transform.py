"""Images of one size as a batch: to floats, cropped, resized and standardised in one vectorised step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resize_image

from lightning_tl.errors import UserError

#: mean and standard deviation of ImageNet's colours in [0, 1], as pre-trained ResNets expect
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AT_ONCE = 1 << 18  # numbers that are copied in double precision: 2 MB


@dataclass
class BatchTransform:
    """uint8 images ``[B, C, H, W]`` → float images ``[B, 1 or C, size, size]``.

    Args:
        size: Side of the output in pixels.
        grayscale: Average the colours into one channel (ITU-R 601 weights).
        standardize: Subtract each image's mean and divide by its standard deviation; ``imagenet``: ImageNet's, by
            colour.
        crop_scale: Range of the share of the image's side that a random square crop keeps. In evaluation the crop is
            the central one of the mean share. ``None``: the whole image.
        invert: Probability with which a training image's brightness is inverted.
        hflip: Probability with which a training image is mirrored.
    """

    size: int = 32
    grayscale: bool = False
    standardize: bool | Literal["imagenet"] = True
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
        if self.standardize == "imagenet" and self.grayscale:
            raise UserError("transform.standardize is imagenet, which is by colour: set transform.grayscale to false")

    def __call__(
        self, images: Tensor, generator: torch.Generator | None = None, place: int = 0, total: int | None = None
    ) -> Tensor:
        """Transform a batch; with a generator as in training, without as in evaluation.

        Args:
            images: uint8 ``[B, C, H, W]``.
            generator: Source of the random numbers; ``None`` in evaluation.
            place: Index of the first of these images in a batch that several processes share.
            total: Images of that whole batch (``None``: these are all), for which random numbers are drawn.
        """
        n = len(images)

        def draw(*shape: int) -> Tensor:
            return torch.rand(total or n, *shape, generator=generator)[place : place + n]

        crop = None if self.crop_scale in (None, (1, 1)) else self._crop(n, draw if generator is not None else None)
        if crop is None and images.shape[-2:] != (self.size, self.size):
            # as bytes: several times as fast
            images = resize_image(images, [self.size, self.size], antialias=True)
        mirrored = (draw() < self.hflip).nonzero().squeeze(1) if generator is not None and self.hflip else None
        if mirrored is not None and crop is None:  # as bytes: half the time
            images = images.clone()
            _mirror(images, mirrored)
        average_colours = self.grayscale and images.shape[1] == 3
        # images that are neither cropped nor averaged need no division by 255: fewer steps, the same within rounding
        of_bytes = self.standardize is True and crop is None and not average_colours
        batch = images.to(torch.float32)
        if not of_bytes:
            batch.div_(255)
        if average_colours:
            batch = (batch * batch.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        if crop is not None:
            grid = F.affine_grid(crop, [n, batch.shape[1], self.size, self.size], align_corners=False)
            batch = F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
            if mirrored is not None:
                _mirror(batch, mirrored)
        if self.standardize == "imagenet":
            if batch.shape[1] != 3:
                raise UserError(f"transform.standardize is imagenet, but the images have {batch.shape[1]} channels")
            mean, std = (batch.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
            batch = batch.sub_(mean).div_(std)
        elif of_bytes:
            batch = _standardized_bytes(batch)
        elif self.standardize:
            mean, std = batch.mean((1, 2, 3), keepdim=True), _spread(batch)
            batch = batch.sub_(mean).div_(std + 1e-3)
        if generator is not None and self.invert:
            flip = draw() < self.invert
            middle = 0.0 if self.standardize else 0.5
            batch = torch.where(flip.view(-1, 1, 1, 1), 2 * middle - batch, batch)
        return batch

    def _crop(self, n: int, draw: Callable[..., Tensor] | None) -> Tensor:
        """Return the affine map of each output into its image: ``[n, 2, 3]``, as ``affine_grid`` takes it."""
        low, high = self.crop_scale or (1.0, 1.0)
        scale = torch.full((n,), (low + high) / 2)
        shift = torch.zeros(n, 2)
        if draw is not None:
            scale = low + (high - low) * draw()
            shift = (2 * draw(2) - 1) * (1 - scale).unsqueeze(1)
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale, scale, shift
        return theta


def _mirror(batch: Tensor, numbers: Tensor) -> None:
    """Mirror some images of a batch ``[B, C, H, W]`` in place, whatever its order in memory."""
    # numpy writes whole images at once; torch's index_copy_, number by number, takes seven times as long
    batch.numpy()[numbers.numpy()] = batch.index_select(0, numbers).flip(-1).numpy()


def _standardized_bytes(batch: Tensor) -> Tensor:
    """Subtract each image's mean and divide by its standard deviation + 0.001 of the range.

    Args:
        batch: Float ``[B, C, H, W]`` of values 0 to 255, whatever its order in memory; it is overwritten.
    """
    channels_last = batch.is_contiguous(memory_format=torch.channels_last)  # as decoded images lie in memory
    if not channels_last:
        batch = batch.contiguous()
    rows = (batch.permute(0, 2, 3, 1) if channels_last else batch).flatten(1)  # shares the batch's memory
    rows.sub_(rows.mean(1, keepdim=True))
    spread = torch.linalg.vector_norm(rows, dim=1, keepdim=True).div_((rows.shape[1] - 1) ** 0.5)
    rows.mul_(spread.add_(0.255).reciprocal_())
    return batch


def _spread(batch: Tensor) -> Tensor:
    """Return each image's standard deviation ``[B, 1, 1, 1]``, at a quarter of the time of ``Tensor.std``.

    It is the same to the last bit, but for images that are nearly of one colour (error below 10⁻⁶).
    """
    number = batch[0].numel()
    parts = []
    for part in batch.split(max(1, _AT_ONCE // number)):
        values = part.double()
        total = values.sum((1, 2, 3), keepdim=True)
        squares = torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True).square_()
        parts.append(squares - total.square_() / number)
    return torch.cat(parts).clamp_(min=0).div_(number - 1).sqrt_().to(batch.dtype)
