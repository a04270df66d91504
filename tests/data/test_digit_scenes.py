from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from lightning_tl.data import DigitScenes
from lightning_tl.data.digit_scenes import TEST, TRAIN, VAL, Scenes
from lightning_tl.data.digits import load_digits, split_digits
from lightning_tl.errors import UserError


@pytest.fixture(scope="module")
def scenes():
    return Scenes(split_digits(100, 0)["train"], 60, 0, "objdet")


def test_boxes_masks_and_pixels_agree(scenes):
    """A mask is the ink and 3 pixels about it; each class's lies in the boxes of that label, made wider by as much."""
    masks = Scenes(scenes.digits, 60, 0, "semseg")
    alone = 0
    for index in range(len(scenes)):
        image, target = scenes.read(index)
        same, mask = masks.read(index)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(same))
        ink = np.asarray(image)[..., 0] >= 64
        np.testing.assert_array_equal(mask > 0, binary_dilation(ink, np.ones((7, 7))))
        inside = np.zeros_like(ink)
        for (x0, y0, x1, y1), label in zip(target["boxes"].astype(int), target["labels"], strict=True):
            wide = slice(max(0, y0 - 3), y1 + 3), slice(max(0, x0 - 3), x1 + 3)
            inside[wide] |= mask[wide] == label
            if (target["labels"] == label).sum() == 1:
                rows, columns = np.nonzero(ink & (mask == label))
                assert x0 - 3 <= columns.min() < columns.max() < x1 + 3, "a digit leaves its box"
                assert y0 - 3 <= rows.min() < rows.max() < y1 + 3
                alone += (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_array_equal(inside, mask > 0)
    assert alone > 60  # only where digits touch is a box larger than what is seen


def test_an_image_depends_on_seed_and_index_alone(scenes):
    again = Scenes(scenes.digits, 3, 0, "objdet")
    np.testing.assert_array_equal(np.asarray(scenes.read(2)[0]), np.asarray(again.read(2)[0]))
    other = Scenes(scenes.digits, 3, 1, "objdet")
    assert (np.asarray(other.read(2)[0]) != np.asarray(again.read(2)[0])).any()


def test_splits_share_no_digit():
    parts = split_digits(100, 0)
    assert not set(parts["train"]) & set(parts["val"]) | set(parts["train"]) & set(parts["test"])


@pytest.mark.parametrize("target", ["sinclass", "objdet", "semseg"])
def test_batches(target):
    data = DigitScenes(target, fraction=0.05)
    data.setup("fit")
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [TRAIN * 0.05, VAL, TEST]
    images, targets = data.splits["test"][list(range(4))]
    if target == "objdet":
        assert all(image.shape == (3, 64, 64) for image in images)
        assert data.num_classes == 10
        return
    assert images.shape == (4, 3, 64, 64)
    assert targets.shape == ((4,) if target == "sinclass" else (4, 64, 64))
    assert int(targets.max()) < data.num_classes


def test_small_fractions_have_all_classes_and_are_nested():
    few, more = (DigitScenes("sinclass", fraction=share) for share in (0.05, 0.2))
    for data in (few, more):
        data.setup("fit")
    few_classes = [int(few.splits["train"].source.read(int(index))[1]) for index in few.splits["train"].indices]
    assert np.bincount(few_classes, minlength=10).min() >= 1
    assert set(few.splits["train"].indices) <= set(more.splits["train"].indices)


def test_one_digit_has_its_own_class():
    images, classes = load_digits()
    source = Scenes(split_digits(100, 0)["val"], 20, 1, "sinclass")

    def cut(pixels):
        rows, columns = np.nonzero(pixels)
        return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]

    for index in range(20):
        image, label = source.read(index)
        digit = cut(np.asarray(image)[..., 0])
        assert any(np.array_equal(digit, cut(each)) for each in images[classes == label])


def test_wrong_target():
    with pytest.raises(UserError, match=r"data.target is 'boxes'; valid: sinclass, objdet, semseg"):
        DigitScenes("boxes")
    with pytest.raises(UserError, match=r"data.transform of objdet has no key 'crop_scale'"):
        DigitScenes("objdet", transform={"crop_scale": [0.5, 1.0]})
