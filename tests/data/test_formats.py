from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionImageFolder
from torchvision.transforms import v2

from data.modules import both, colours, disjoint, names, ready
from data.sets import CLASSES, instances, write_ade20k, write_coco, write_folder
from lightning_tl.data import ADE20K, CocoDetection, ImageFolder, Rendered
from lightning_tl.data.batch_transform import IMAGENET_MEAN, IMAGENET_STD
from lightning_tl.data.transforms import CropTransform, ResizeTransform, ScaleCropTransform

SMALL = CropTransform(size=32, eval_resize=36)
SCALE = ScaleCropTransform(crop=32, shorter=(30, 50), eval_shorter=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory):
    return write_ade20k(tmp_path_factory.mktemp("ade20k"))


def all_of(loader):
    return list(loader)


def test_folder_is_torchvisions(folder):
    """Images and classes of evaluation are those of torchvision's own ImageFolder with its own transforms."""
    data = ready(ImageFolder(folder, transform=SMALL, eval_batch_size=4), "test")
    assert data.num_classes == 3
    assert data.classes == list(CLASSES)
    pipeline = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(36, antialias=True),
            v2.CenterCrop(32),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    reference = TorchvisionImageFolder(folder / "val", pipeline)
    images, classes = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    assert classes.tolist() == reference.targets
    assert classes.dtype == torch.int64
    torch.testing.assert_close(images, torch.stack([image for image, _ in reference]), atol=1e-5, rtol=0)


def test_folder_trains_on_its_images(folder):
    data = ready(ImageFolder(folder, transform=SMALL, batch_size=6))
    images, classes = next(iter(data.train_dataloader()))
    assert images.shape == (6, 3, 32, 32)
    assert images.dtype == torch.float32
    seen = torch.cat([targets for _, targets in data.train_dataloader()])
    held = torch.cat([targets for _, targets in data.val_dataloader()])
    assert torch.bincount(held).tolist() == [1, 1, 1]  # a tenth of each class, at least one
    counts = torch.bincount(seen[:15]) + torch.bincount(held)  # the first pass
    assert counts.tolist() == [8, 6, 4]
    assert "train/cat/cat" in data.splits["train"].name(0)
    assert classes.dtype == torch.int64
    data.setup("test")
    assert sum(len(targets) for _, targets in data.test_dataloader()) == 9


def test_a_folder_without_splits(tmp_path):
    root = write_folder(tmp_path, {"": (10, 20, 10)})
    parts = names(both(ImageFolder(root, val_share=0.2, test_share=0.1, transform=SMALL)))
    assert [sum(f"/{c}/" in name for name in parts["val"]) for c in CLASSES] == [2, 4, 2]
    assert [sum(f"/{c}/" in name for name in parts["test"]) for c in CLASSES] == [1, 2, 1]
    assert disjoint(parts)
    assert len(set().union(*parts.values())) == 40
    # the same whatever is drawn to train on; the test does not depend on the validation's share either
    other = ImageFolder(root, val_share=0.2, transform=SMALL, draw=3, seed=5, fraction=0.3)
    assert {name: part for name, part in names(both(other)).items() if name != "train"} == {
        name: parts[name] for name in ("val", "test")
    }
    assert names(ready(ImageFolder(root, val_share=0.4, transform=SMALL), "test"))["test"] == parts["test"]


def test_a_folder_with_one_other_part_is_tested_on_it(folder, tmp_path):
    parts = names(both(ImageFolder(folder, transform=SMALL)))
    assert disjoint(parts)
    assert all("/val/" in name for name in parts["test"])
    assert all("/train/" in name for name in parts["train"] | parts["val"])
    assert len(parts["train"] | parts["val"]) == 18
    (tmp_path / "set").mkdir()
    for split, own in (("train", "train"), ("test", "val")):
        (tmp_path / "set" / split).symlink_to(folder / own)
    renamed = names(both(ImageFolder(tmp_path / "set", transform=SMALL)))
    tails = {split: {name.split("/", -1)[-1] for name in part} for split, part in parts.items()}
    assert {split: {name.split("/", -1)[-1] for name in part} for split, part in renamed.items()} == tails


def test_a_folder_with_three_parts_keeps_them(tmp_path):
    root = write_folder(tmp_path, {"train": (8, 6, 4), "val": (3, 3, 3), "test": (2, 2, 2)})
    parts = names(both(ImageFolder(root, transform=SMALL)))
    assert {split: len(part) for split, part in parts.items()} == {"train": 18, "val": 9, "test": 6}
    assert all(f"/{split}/" in name for split, part in parts.items() for name in part)


def test_equal_numbers_of_each_class(tmp_path):
    root = write_folder(tmp_path, {"train": (40, 20, 9), "val": (1, 1, 1)})

    def drawn(fraction, draw=0, equal=True):
        data = ImageFolder(root, fraction=fraction, draw=draw, equal_classes=equal, val_share=0.12)
        return names(ready(data))["train"]

    def counts(names):
        return [sum(f"/{c}/" in name for name in names) for c in CLASSES]

    # 35, 18 and 8 images are left to draw from: 61
    assert [counts(drawn(fraction)) for fraction in (0.05, 0.15, 0.4, 0.6)] == [
        [1, 1, 1],
        [3, 3, 3],
        [8, 8, 8],
        [14, 14, 8],
    ]
    assert counts(drawn(0.15, equal=False)) == [5, 3, 1]
    assert drawn(0.05) < drawn(0.15) < drawn(0.4) < drawn(0.6)
    assert drawn(0.15, draw=1) != drawn(0.15)
    assert counts(drawn(1.0)) == [35, 18, 8]


def test_a_class_may_be_called_train(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("bus", "train"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(tmp_path / name / f"{i}.PNG")
    data = ready(ImageFolder(tmp_path, val_share=0.25, transform=SMALL))
    assert data.classes == ["bus", "train"]
    assert len(data.splits["train"]) == 4


def test_grey_images_and_transparent_ones_have_three_colours(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((40, 40), 200, np.uint8)).save(tmp_path / "a" / "0.png")
    Image.fromarray(np.full((40, 40, 4), 200, np.uint8)).save(tmp_path / "a" / "1.png")
    Image.fromarray(np.full((40, 40, 4), 55, np.uint8), "CMYK").save(tmp_path / "a" / "2.jpg", quality=100)
    data = both(ImageFolder(tmp_path, transform=SMALL))
    means = [float(colours(data.splits[split].sample(0)[0]).mean()) for split in ("train", "val", "test")]
    assert all(abs(value - 200) < 1 or abs(value - 157) < 4 for value in means)


def test_coco_boxes(coco):
    data = ready(CocoDetection(coco, transform=ResizeTransform(size=96), eval_batch_size=4), "test")
    assert data.num_classes == 3
    assert data.classes == ["cat", "dog", "owl"]
    images, targets = (list(chain.from_iterable(parts)) for parts in zip(*data.test_dataloader(), strict=True))
    assert [tuple(image.shape) for image in images] == [(3, 96, 96)] * 6
    by_id = {int(target["image_id"]): target for target in targets}
    assert list(by_id) == [7, 17, 27, 37, 47, 57]
    first = by_id[7]
    sx, sy = 96 / 48, 96 / 40
    expected = torch.tensor([[5.5, 6, 25.5, 16.25], [40, 30, 48, 40], [0, 0, 48, 40]])
    torch.testing.assert_close(first["boxes"], expected * torch.tensor([sx, sy, sx, sy]))
    assert first["labels"].tolist() == [1, 2, 3]  # categories 2, 17, 90
    assert first["iscrowd"].tolist() == [0, 0, 1]
    torch.testing.assert_close(first["area"], torch.tensor([20 * 10.25, 400.0, 48 * 40]) * 0.5 * sx * sy)
    assert by_id[27]["labels"].tolist() == [1]  # the box of no area is left out
    assert by_id[37]["boxes"].shape == (0, 4)
    assert {name: value.dtype for name, value in first.items()} == {
        "boxes": torch.float32,
        "labels": torch.int64,
        "iscrowd": torch.int64,
        "area": torch.float32,
        "image_id": torch.int64,
    }


def test_coco_training_has_no_crowds(coco):
    data = both(CocoDetection(coco, transform=ResizeTransform(size=64), batch_size=2, val_share=0.34))
    parts = names(data)
    held = data.splits["val"].indices
    assert len(held) == 2  # of all six images: validation, like the test, has those without boxes
    usable = {0, 1, 2, 5} - set(held.tolist())  # neither the image without boxes nor that of a crowd alone
    assert set(data.splits["train"].indices.tolist()) == usable
    assert disjoint(parts)
    assert len(parts["test"]) == 6
    targets = [target for _, batch in data.train_dataloader() for target in batch]
    assert all(int(target["iscrowd"].sum()) == 0 for target in targets)
    assert all(len(target["boxes"]) for target in targets)
    assert all(target["boxes"].min() >= 0 and target["boxes"].max() <= 64 for target in targets)
    assert len(ready(CocoDetection(coco, keep_empty=True)).splits["train"]) == 5
    # validation images are read as the test's are: with their crowds
    whole = ready(CocoDetection(coco, keep_empty=True, val_share=0.83))
    crowds = sum(int(target["iscrowd"].sum()) for _, batch in whole.val_dataloader() for target in batch)
    left = whole.splits["train"].indices.tolist()
    assert crowds == 2 - (0 in left) - (4 in left)


def test_coco_with_a_test_set_of_its_own(coco):
    """Its validation set is then the validation, and nothing is split off."""
    files = {"test_images": "val2017", "test_annotations": "annotations/instances_val2017.json"}
    swapped = {"val_images": "train2017", "val_annotations": "annotations/instances_train2017.json"}
    data = both(CocoDetection(coco, keep_empty=True, **files, **swapped))
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [6, 6, 6]
    assert all("val2017" in name for name in names(data)["test"])


def test_coco_labels(coco):
    data = both(CocoDetection(coco, target="mulclass", transform=ResizeTransform(size=32), batch_size=3))
    _, targets = next(iter(data.test_dataloader()))
    assert targets.tolist() == [[1, 1, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert targets.dtype == torch.float32
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (3, 3, 32, 32)


def test_ade20k(ade20k):
    data = both(ADE20K(ade20k, num_classes=5, transform=SCALE, batch_size=4))
    images, masks = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    assert masks.shape == (4, 32, 32)
    assert masks.dtype == torch.int64
    assert set(masks.unique().tolist()) <= {0, 1, 2, 3, 4, 255}
    for number, (image, mask) in enumerate(data.test_dataloader()):  # one by one, each of its own size
        stored = Image.open(ade20k / "annotations" / "validation" / f"ADE_{number}.png")
        width, height = stored.size
        assert image.shape[2:] == mask.shape[1:] == (30, int(30 * width / height))
        counts = np.bincount(np.asarray(stored).ravel(), minlength=6) / (width * height)
        shares = torch.bincount(mask.where(mask != 255, -1).ravel() + 1, minlength=6) / mask.numel()
        np.testing.assert_allclose(shares.numpy(), counts, atol=0.02)  # 0 is ignored, 1 … 5 are 0 … 4
    parts = names(data)
    assert {split: len(part) for split, part in parts.items()} == {"train": 5, "val": 1, "test": 3}
    assert disjoint(parts)
    assert all("/validation/" in name for name in parts["test"])


MODULES = {
    "folder": lambda r: ImageFolder(r["folder"], transform=SMALL, batch_size=5, num_workers=r["workers"]),
    "coco": lambda r: CocoDetection(
        r["coco"], transform=ResizeTransform(size=32), batch_size=3, num_workers=r["workers"]
    ),
    "ade20k": lambda r: ADE20K(r["ade20k"], num_classes=5, transform=SCALE, batch_size=3, num_workers=r["workers"]),
    "normals": lambda r: Rendered(
        r["renders"],
        target="normal",
        transform={"crop": 32, "shorter": [24, 48], "hflip": 0.5},
        batch_size=7,
        num_workers=r["workers"],
    ),
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", MODULES)
def test_workers_give_the_same_batches(folder, coco, ade20k, renders, kind):
    roots = {"folder": folder, "coco": coco, "ade20k": ade20k, "renders": renders}
    alone = all_of(ready(MODULES[kind](roots | {"workers": 0})).train_dataloader())
    shared = all_of(ready(MODULES[kind](roots | {"workers": 2})).train_dataloader())
    assert len(alone) > 1
    assert same(alone, shared)
    assert not same(alone[0], alone[1])


@pytest.mark.parametrize("kind", MODULES)
def test_an_epoch_goes_on_where_it_stopped(folder, coco, ade20k, renders, kind):
    roots = {"folder": folder, "coco": coco, "ade20k": ade20k, "renders": renders, "workers": 0}
    whole = all_of(ready(MODULES[kind](roots)).train_dataloader())
    data = ready(MODULES[kind](roots))
    data._done = lambda: (1, 1)
    assert same(all_of(data.train_dataloader()), whole[1:])


def test_the_same_sample_is_augmented_anew(folder):
    data = ready(ImageFolder(folder, transform=SMALL, batch_size=18, steps_per_epoch=3, seed=1))
    batches = all_of(data.train_dataloader())
    sums = [sorted(round(float(image.sum()), 3) for image in images) for images, _ in batches]
    assert len({tuple(s) for s in sums}) == 3


def test_instances_in_a_file_of_another_name(tmp_path, coco):
    """Any data set in COCO's format: its folders and files are named."""
    (tmp_path / "photos").symlink_to(coco / "val2017")
    (tmp_path / "boxes.json").write_text(json.dumps(instances()))
    files = {f"{split}_{key}": name for split in ("train", "val") for key, name in
             (("images", "photos"), ("annotations", "boxes.json"))}  # fmt: skip
    data = both(CocoDetection(tmp_path, keep_empty=True, **files))
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [5, 1, 6]
