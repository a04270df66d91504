from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

from lightning_tl.data.batch_transform import BatchTransform, _spread
from lightning_tl.errors import UserError


def pixels(n=3, side=32, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (n, channels, side, side)).astype(np.uint8))


def plain(**settings):
    return BatchTransform(standardize=False, **settings)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_whole_image_of_the_same_size_is_only_scaled():
    images = pixels()
    torch.testing.assert_close(plain(size=32)(images), images.float() / 255)


def test_central_crop_is_a_slice():
    images = pixels()
    out = plain(size=16, crop_scale=(0.5, 0.5))(images)
    torch.testing.assert_close(out, images[:, :, 8:24, 8:24].float() / 255)


def test_evaluation_crops_the_mean_share():
    images = pixels()
    a = plain(size=24, crop_scale=(0.5, 0.7))(images)
    b = plain(size=24, crop_scale=(0.6, 0.6))(images)
    torch.testing.assert_close(a, b)


def test_central_crop_against_bilinear_sampling():
    images = pixels(side=40)
    out = plain(size=28, crop_scale=(0.8, 0.8))(images)
    at = (np.arange(28) + 0.5) * (0.8 * 40 / 28) - 0.5 + 0.1 * 40
    grid = np.meshgrid(at, at, indexing="ij")
    for n in range(3):
        for c in range(3):
            expected = map_coordinates(images[n, c].double().numpy() / 255, grid, order=1)
            np.testing.assert_allclose(out[n, c].numpy(), expected, atol=1e-5)


def test_shrinking_the_whole_image_is_antialiased():
    images = pixels(n=1, side=64, channels=1)
    out = plain(size=16)(images)[0, 0].numpy()
    expected = np.asarray(Image.fromarray(images[0, 0].numpy()).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(out * 255, expected, atol=1.01)  # both round to bytes
    assert np.abs(out * 255 - expected).mean() < 0.1


def test_grayscale_weights():
    images = pixels()
    expected = np.tensordot(images.numpy() / 255, [0.299, 0.587, 0.114], axes=(1, 0))
    np.testing.assert_allclose(plain(grayscale=True)(images)[:, 0].numpy(), expected, atol=1e-6)
    one = pixels(channels=1)
    torch.testing.assert_close(plain(grayscale=True)(one), one.float() / 255)


def test_standardisation():
    images = pixels()
    out = BatchTransform(size=32)(images).numpy()
    x = images.numpy() / 255
    expected = np.stack([(image - image.mean()) / (image.std(ddof=1) + 1e-3) for image in x])
    np.testing.assert_allclose(out, expected, atol=1e-4)
    flat = BatchTransform(size=32)(torch.full((1, 3, 32, 32), 77, dtype=torch.uint8))
    np.testing.assert_allclose(flat.numpy(), 0, atol=1e-3)


@pytest.mark.parametrize("contrast", [1, 0.1, 0.004])  # the last: two neighbouring grey levels
def test_standardisation_is_that_in_double_precision(contrast):
    images = 255 - (contrast * 255 * torch.rand(6, 3, 40, 40, generator=generator(0))).round()
    x = images.double() / 255
    expected = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-3)
    out = BatchTransform(size=40)(images.byte())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 1, 3, 2), (1, 0, 2, 3)])
def test_standardisation_in_each_order_of_memory(order):
    images = pixels(6)
    back = [order.index(axis) for axis in range(4)]
    same = images.permute(order).contiguous().permute(back)
    assert torch.equal(same, images)
    assert not same.is_contiguous()
    torch.testing.assert_close(BatchTransform(size=32)(same), BatchTransform(size=32)(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_mirroring_in_each_order_of_memory(memory_format, channels):
    images = pixels(9, channels=channels).contiguous(memory_format=memory_format)
    out = plain(hflip=0.5)(images, generator(3))
    mirrored = [not torch.equal(a, b) for a, b in zip(out, plain()(images), strict=True)]
    assert 0 < sum(mirrored) < len(images)
    expected = [image.flip(-1) if flip else image for image, flip in zip(plain()(images), mirrored, strict=True)]
    assert torch.equal(out, torch.stack(expected))


@pytest.mark.parametrize("shape", [(200, 3, 32, 32), (5, 1, 24, 24), (2, 3, 320, 320)])  # several parts, one, one each
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_spread_is_that_of_torch_bit_by_bit(shape, memory_format):
    contrast = torch.linspace(0.01, 1, shape[0]).view(-1, 1, 1, 1)
    images = 255 * (1 - contrast * torch.rand(shape, generator=generator(0)))
    images = images.round().div(255).contiguous(memory_format=memory_format)
    spread = images.std((1, 2, 3), keepdim=True)
    assert torch.equal(_spread(images), spread)
    assert _spread(torch.full(shape, 1 / 3)).max() < 1e-6  # one colour


def test_training_is_a_function_of_the_generator():
    transform = BatchTransform(size=20, crop_scale=(0.5, 0.9), invert=0.5, hflip=0.5)
    images = pixels()
    torch.testing.assert_close(transform(images, generator(1)), transform(images, generator(1)), rtol=0, atol=0)
    assert not torch.equal(transform(images, generator(1)), transform(images, generator(2)))
    state = torch.get_rng_state()
    transform(images, generator(1))
    assert torch.equal(state, torch.get_rng_state())


def test_random_crops_stay_inside_and_within_the_range():
    # a picture of its own coordinates: what is cut out tells where it came from
    side = 200
    ramp = torch.arange(side, dtype=torch.uint8)
    images = torch.stack([ramp.expand(side, side).T, ramp.expand(side, side)]).expand(64, 2, side, side)
    out = plain(size=32, crop_scale=(0.4, 0.8))(images.contiguous(), generator()) * 255
    shares = []
    for axis, channel in ((2, 0), (3, 1)):
        low, high = (out.select(axis, end)[:, channel].mean(1) for end in (0, -1))
        shares.append((high - low) / 31 * 32 / side)
        assert low.min() >= -1
        assert high.max() <= side
        assert low.std() > 5  # they are not all in one place
    assert torch.allclose(shares[0], shares[1], atol=1e-3)  # square
    assert shares[0].min() > 0.39
    assert shares[0].max() < 0.81
    assert shares[0].std() > 0.05


@pytest.mark.parametrize("crop_scale", [None, (0.5, 0.9)])
def test_mirroring(crop_scale):
    images = pixels()
    one = plain(size=16, crop_scale=crop_scale)
    always = plain(size=16, crop_scale=crop_scale, hflip=1.0)
    torch.testing.assert_close(always(images, generator()), one(images, generator()).flip(-1))
    torch.testing.assert_close(always(images), one(images))  # never in evaluation
    half = plain(size=16, hflip=0.5)(pixels(n=200), generator())
    mirrored = (half == plain(size=16)(pixels(n=200)).flip(-1)).flatten(1).all(1)
    assert 60 < int(mirrored.sum()) < 140


@pytest.mark.parametrize("standardize,middle", [(True, 0.0), (False, 0.5)])
def test_inverting(standardize, middle):
    images = pixels()
    one = BatchTransform(size=32, standardize=standardize)
    always = BatchTransform(size=32, standardize=standardize, invert=1.0)
    torch.testing.assert_close(always(images, generator()), 2 * middle - one(images))
    torch.testing.assert_close(always(images), one(images))


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"size": 7}, r"transform.size is 7; it must be at least 8 px"),
        ({"crop_scale": (0.0, 0.5)}, r"transform.crop_scale is \(0.0, 0.5\)"),
        ({"crop_scale": (0.8, 0.5)}, r"0 < low <= high <= 1"),
        ({"crop_scale": (0.8, 1.5)}, r"0 < low <= high <= 1"),
        ({"invert": 1.1}, r"transform.invert is 1.1; it is a probability"),
        ({"hflip": -0.1}, r"transform.hflip is -0.1; it is a probability"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(UserError, match=message):
        BatchTransform(**settings)
