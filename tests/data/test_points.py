"""Key points go where the pixels go: a spot is drawn at each, and found again in the augmented picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_tl.data.image_dataset import ImageDataset
from lightning_tl.data.image_geometry import Geometry
from lightning_tl.data.sample_order import Pick
from lightning_tl.data.transforms import CropTransform, ResizeTransform, ScaleCropTransform
from lightning_tl.errors import UserError

HEIGHT, WIDTH = 200, 300
#: x, y: the middles of the drawn spots
POINTS = np.array([[60.0, 50.0], [240.0, 60.0], [150.0, 150.0]])
_HALF = 8


def spots() -> np.ndarray:
    """A black image with a square in one of the three colours around each point."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for channel, (x, y) in enumerate(POINTS.astype(int)):
        image[y - _HALF : y + _HALF, x - _HALF : x + _HALF, channel] = 255
    return image


def middle(channel: torch.Tensor) -> tuple[float, float, float]:
    """The brightness of a channel, and its centre of mass (x, y) in continuous coordinates."""
    mass = channel.double()
    total = float(mass.sum())
    ys, xs = torch.arange(mass.shape[0]) + 0.5, torch.arange(mass.shape[1]) + 0.5
    return total, float((mass.sum(0) * xs).sum() / max(total, 1e-9)), float((mass.sum(1) * ys).sum() / max(total, 1e-9))


def check(picture: torch.Tensor, points: torch.Tensor, order: list[int], full: float) -> int:
    """Compare the points with the spots that are whole; return how many were compared."""
    height, width = picture.shape[-2:]
    compared = 0
    for row, channel in enumerate(order):
        total, x, y = middle(picture[channel])
        if total < 1:
            assert points[row].isnan().all()
        elif total > 0.98 * full:
            assert points[row, 0] * width == pytest.approx(x, abs=0.35)
            assert points[row, 1] * height == pytest.approx(y, abs=0.35)
            compared += 1
    return compared


@pytest.mark.parametrize(
    "transform",
    [
        ResizeTransform(size=128),
        CropTransform(size=96, scale=(0.3, 1.0), eval_resize=110),
        ScaleCropTransform(crop=96, shorter=(80, 160), eval_shorter=120),
    ],
    ids=lambda transform: type(transform).__name__,
)
@pytest.mark.parametrize("training", [True, False])
def test_points_are_where_their_spots_are(transform, training: bool) -> None:
    image = torch.from_numpy(spots()).permute(2, 0, 1)
    torch.manual_seed(0)
    compared = lost = 0
    for _ in range(60 if training else 1):
        plan = transform.plan(HEIGHT, WIDTH, training)
        crop = plan.crop or (0, 0, HEIGHT, WIDTH)
        scale = plan.size[0] / crop[2] * plan.size[1] / crop[3]
        points = plan.points(torch.from_numpy(POINTS).float())
        compared += check(plan.image(image), points, [0, 1, 2], 255 * (2 * _HALF) ** 2 * scale)
        lost += int(points.isnan().any(-1).sum())
    assert compared >= (60 if training else 1)
    assert (lost > 0) == (training and not isinstance(transform, ResizeTransform)) or not training


def test_a_point_outside_becomes_nan_and_nan_stays() -> None:
    plan = Geometry((100, 100), (50, 50), crop=(10, 20, 50, 50))
    points = plan.points(torch.tensor([[45.0, 35.0], [19.0, 35.0], [45.0, 61.0], [torch.nan, torch.nan]]))
    torch.testing.assert_close(points[0], torch.tensor([0.5, 0.5]))
    assert points[1:].isnan().all()


class Spots:
    kind, mend = "points", ""

    def __init__(self, points: np.ndarray = POINTS) -> None:
        self.points = points

    def __len__(self) -> int:
        return 4

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int):
        return Image.fromarray(spots()), self.points


class Pairs(Spots):
    mirror_pairs = ((0, 1),)


@pytest.mark.parametrize("source", [Spots(), Pairs()])
def test_pairs_change_places_in_a_mirrored_image(source) -> None:
    transform = CropTransform(size=96, scale=(0.8, 1.0), eval_resize=96, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    dataset = ImageDataset(source, transform, seed=0)
    compared = {False: 0, True: 0}
    for step in range(20):
        images, targets = dataset[[Pick(0, step, 0, 1)]]
        # the first point is left of the second where the image is not mirrored
        mirrored = middle(images[0, 0])[1] > middle(images[0, 1])[1]
        order = [1, 0, 2] if mirrored and isinstance(source, Pairs) else [0, 1, 2]
        brightest = max(float(images[0, channel].sum()) for channel in range(3))
        compared[mirrored] += check(images[0], targets[0], order, brightest)
    assert min(compared.values()) > 5


def test_points_of_another_shape_are_refused() -> None:
    dataset = ImageDataset(Spots(np.zeros((3, 3))), ResizeTransform(size=64))
    with pytest.raises(UserError, match=r"image 0: its points have the shape \[3, 3\]; it must be \[K, 2\]"):
        dataset.sample(0)
