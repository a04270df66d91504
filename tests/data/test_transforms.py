from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lightning_tl.data.batch_transform import IMAGENET_MEAN, IMAGENET_STD, BatchTransform
from lightning_tl.data.image_dataset import pixels, unit_normals
from lightning_tl.data.image_files import open_image
from lightning_tl.data.image_geometry import IGNORED, Geometry
from lightning_tl.data.transforms import (
    CropTransform,
    ResizeTransform,
    ScaleCropTransform,
    build_transform,
    seeded,
)
from lightning_tl.errors import UserError


def photo(height=60, width=90, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (3, height, width)).astype(np.uint8))


def planned(transform, height=60, width=90, seed=0):
    with seeded(seed):
        return transform.plan(height, width, training=True)


def test_evaluation_of_one_label_is_torchvisions():
    image = photo()
    expected = v2.Compose([v2.Resize(40, antialias=True), v2.CenterCrop(32)])(image)
    out = CropTransform(size=32, eval_resize=40).plan(60, 90, training=False).image(image)
    assert torch.equal(out, expected)


def test_random_part_is_torchvisions():
    image = photo()
    for seed in range(5):
        plan = planned(CropTransform(size=32, eval_resize=32, hflip=0), seed=seed)
        with seeded(seed):
            expected = v2.RandomResizedCrop(32, antialias=True)(image)
        assert torch.equal(plan.image(image), expected)


def test_boxes_go_where_their_pixels_go():
    """Torchvision's own kernels for boxes, and the colours inside."""
    image, boxes = torch.zeros(3, 60, 90, dtype=torch.uint8), torch.tensor([[10.0, 5, 31, 45], [40, 20, 88, 50]])
    image[:, 5:45, 10:31] = 255
    plan = Geometry((60, 90), (120, 180), flip=True)
    tv = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(60, 90))
    expected = F.horizontal_flip(F.resize(tv, [120, 180]))
    torch.testing.assert_close(plan.boxes(boxes), expected.as_subclass(torch.Tensor))
    ys, xs = torch.nonzero(plan.image(image)[0] > 127, as_tuple=True)
    corners = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    torch.testing.assert_close(torch.stack(corners).float(), plan.boxes(boxes)[0], atol=1, rtol=0)


def test_boxes_are_never_cut():
    with pytest.raises(ValueError, match="boxes are not cut"):
        Geometry((8, 8), (8, 8), crop=(0, 0, 4, 4)).boxes(torch.zeros(1, 4))


@pytest.mark.parametrize("shorter,crop", [((40, 40), 48), ((120, 160), 64), ((30, 120), 64)])
def test_mask_and_colours_stay_together(shorter, crop):
    """A picture whose colour is its class: after any plan each pixel's colour still tells its class."""
    classes = torch.from_numpy(np.kron(np.arange(24).reshape(4, 6), np.ones((15, 15)))).to(torch.uint8)
    image = (classes * 10).expand(3, -1, -1)
    padded = 0
    for seed in range(12):
        plan = planned(ScaleCropTransform(crop=crop, shorter=shorter, hflip=0.5), 60, 90, seed)
        mask, colours = plan.mask(classes), plan.image(image)
        assert mask.shape == (crop, crop)
        assert colours.shape == (3, crop, crop)
        inside = mask != IGNORED
        padded += int((~inside).sum())
        assert (colours[:, ~inside] == 0).all()
        near = torch.nn.functional.unfold(mask[None, None].float(), 5, padding=2).view(25, crop, crop)
        middle = inside & (near == mask).all(0)  # away from the blocks' blurred edges
        assert middle.sum() > 50
        agree = (colours[0, middle].int() - mask[middle].int() * 10).abs() <= 1
        assert agree.all()
    assert (padded > 0) == (shorter[0] < crop)


def test_the_shorter_edge_is_uniform():
    edges = [min(planned(ScaleCropTransform(shorter=(20, 29), crop=16), seed=s).size) for s in range(400)]
    counts = np.bincount(edges)[20:30]
    assert len(counts) == 10
    assert counts.min() > 15  # 40 expected


def test_evaluation_keeps_proportions():
    assert ScaleCropTransform(eval_shorter=52).plan(60, 90, training=False) == Geometry((60, 90), (52, 78))
    assert ScaleCropTransform(eval_shorter=52).plan(90, 60, training=False).size == (78, 52)
    assert ResizeTransform(size=32).plan(60, 90, training=False) == Geometry((60, 90), (32, 32))


def sphere(side=64):
    """Normals of a sphere seen from the front, as stored, and as they are."""
    y, x = np.mgrid[:side, :side]
    nx, ny = (x + 0.5) / side * 2 - 1, 1 - (y + 0.5) / side * 2
    inside = nx**2 + ny**2 < 0.9
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1))
    true = np.where(inside, np.stack([nx, ny, nz]), 0).astype(np.float32)
    stored = np.round((true + 1) / 2 * 255).astype(np.uint8)
    return np.where(inside, stored, 128).transpose(1, 2, 0).astype(np.uint8), torch.from_numpy(true)


def degrees(a, b):
    return torch.rad2deg(torch.acos((a * b).sum(0).clamp(-1, 1)))


def test_normals_are_decoded_to_unit_vectors():
    stored, true = sphere()
    decoded = unit_normals(stored)
    valid = true.abs().sum(0) > 0
    assert torch.equal(decoded.abs().sum(0) > 0, valid)
    torch.testing.assert_close(decoded.norm(dim=0)[valid], torch.ones(int(valid.sum())))
    assert degrees(decoded, true)[valid].max() < 0.5


def test_a_mirrored_sphere_is_a_sphere():
    """A sphere looks the same in a mirror, normals and all."""
    decoded = unit_normals(sphere()[0])
    mirrored = Geometry((64, 64), (64, 64), flip=True).normals(decoded)
    valid = decoded.abs().sum(0) > 0
    assert degrees(mirrored, decoded)[valid].max() < 1
    assert degrees(decoded.flip(-1), decoded)[valid].max() > 90  # what a mirror that forgets x would give


@pytest.mark.parametrize("size", [(32, 32), (150, 150)])
def test_resized_normals_stay_unit_and_right(size):
    _, small = sphere(size[0])
    resized = Geometry((64, 64), size).normals(sphere()[1])
    valid = (resized.abs().sum(0) > 0) & (small.abs().sum(0) > 0)
    assert valid.float().mean() > 0.65
    torch.testing.assert_close(resized.norm(dim=0)[valid], torch.ones(int(valid.sum())))
    assert degrees(resized, small)[valid].max() < 4
    assert set(resized.norm(dim=0).round().unique().tolist()) == {0.0, 1.0}


def test_padded_normals_are_none():
    plan = planned(ScaleCropTransform(crop=80, shorter=(64, 64), hflip=0), 64, 64)
    assert (plan.normals(sphere()[1])[:, 64:] == 0).all()


def jpeg(tmp_path, height, width):
    path = tmp_path / "a.jpg"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8))
    image.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


@pytest.mark.parametrize("transform", [ResizeTransform(size=64), CropTransform(size=64, eval_resize=64, hflip=0)])
def test_decoding_smaller_changes_little(tmp_path, transform):
    """A JPEG of 800 x 600 px is decoded at a quarter or an eighth; torchvision decodes all of it."""
    path = jpeg(tmp_path, 600, 800)
    whole = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    for seed in range(4):
        plan = planned(transform, 600, 800, seed)
        image = open_image(path, "a.jpg")
        out = pixels(image, plan, "a.jpg")
        difference = (out.int() - plan.image(whole).int()).abs().float()
        assert out.shape == (3, 64, 64)
        assert difference.mean() < 3
    assert image.size < (800, 600)


def test_an_image_is_never_decoded_smaller_than_it_is_used(tmp_path):
    path = jpeg(tmp_path, 300, 400)
    for transform in (ResizeTransform(size=160), CropTransform(size=100), ScaleCropTransform(shorter=(60, 300))):
        for seed in range(10):
            plan = planned(transform, 300, 400, seed)
            image = open_image(path, "a.jpg")
            pixels(image, plan, "a.jpg")
            height, width = plan.decode_size
            assert image.height >= min(height, 300)
            assert image.width >= min(width, 400)


def test_seeding_leaves_no_trace():
    before = torch.get_rng_state()
    with seeded(3):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_imagenets_colours():
    images = photo(32, 32).unsqueeze(0)
    expected = F.normalize(images.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(BatchTransform(size=32, standardize="imagenet")(images), expected)


@pytest.mark.parametrize("transform", [{"hflip": 0.5, "invert": 0.5}, {"crop_scale": (0.3, 0.9), "hflip": 0.5}])
def test_a_batch_in_parts_is_the_batch(transform):
    images = torch.stack([photo(32, 32, seed) for seed in range(6)])
    transform = BatchTransform(size=24, standardize=False, **transform)

    def part(a, b):
        return transform(images[a:b], torch.Generator().manual_seed(1), a, 6)

    torch.testing.assert_close(torch.cat([part(0, 2), part(2, 6)]), part(0, 6))


def test_families_are_chosen_by_their_keys():
    families = (BatchTransform, CropTransform)
    assert build_transform(None, "sinclass", *families) == BatchTransform()
    assert build_transform({"size": 20, "crop_scale": [0.5, 1]}, "sinclass", *families).crop_scale == (0.5, 1)
    assert build_transform({"size": 20, "ratio": [1, 1]}, "sinclass", *families) == CropTransform(20, ratio=(1.0, 1.0))
    transform = CropTransform(size=32)
    assert build_transform(transform, "sinclass", *families) is transform
    assert build_transform({}, "normal", ScaleCropTransform, hflip=0.0).hflip == 0
    assert build_transform({"hflip": 0.5}, "normal", ScaleCropTransform, hflip=0.0).hflip == 0.5


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"sice": 3}, r"data.transform of sinclass has no key 'sice'; did you mean 'size'\?"),
        ({"grayscale": True, "ratio": [1, 1]}, r"data.transform mixes keys of several transforms \(grayscale, ratio\)"),
        (ScaleCropTransform(), r"data.transform is a ScaleCropTransform; sinclass takes a BatchTransform or CropTr"),
        ({"size": "many"}, r"data.transform: Parser key .size.: .*many"),
        ({"size": 5}, r"transform.size is 5; it must be at least 8 px"),
        ({"eval_resize": 100}, r"transform.eval_resize is 100, less than transform.size 224"),
        ({"scale": [0.5, 0.1]}, r"transform.scale is \(0.5, 0.1\); it must be \[low, high\] with 0 < low <= high <= 1"),
        ({"ratio": [0, 1]}, r"transform.ratio is \(0.0, 1.0\); .* 0 < low <= high"),
        ({"hflip": 2, "ratio": [1, 1]}, r"transform.hflip is 2.0; it is a probability"),
        ({"std": [0, 1, 1]}, r"transform.std is \(0.0, 1.0, 1.0\); it must be above 0"),
        ({"standardize": "imagenet", "grayscale": True}, r"imagenet, which is by colour: set transform.grayscale to"),
    ],
)
def test_wrong_transforms(settings, message):
    with pytest.raises(UserError, match=message):
        build_transform(settings, "sinclass", BatchTransform, CropTransform)


def test_wrong_scale_crops():
    with pytest.raises(UserError, match=r"transform.shorter is \(9, 8\); it must be \[low, high\]"):
        ScaleCropTransform(shorter=(9, 8))
    with pytest.raises(UserError, match=r"transform.crop is 2; it must be at least 8"):
        ScaleCropTransform(crop=2)
    with pytest.raises(UserError, match=r"imagenet, but the images have 1 channels"):
        BatchTransform(size=32, standardize="imagenet")(torch.zeros(1, 1, 32, 32, dtype=torch.uint8))
