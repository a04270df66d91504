"""torchvision's data sets: their splits, classes and masks."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from data.modules import both, colours, disjoint, names
from data.sets import write_cifar10, write_dtd, write_voc
from lightning_tl.data import TorchvisionDataset


def test_torchvision_classes(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    write_cifar10(tmp_path, monkeypatch)
    data = both(TorchvisionDataset("CIFAR10", tmp_path, transform={"size": 16, "eval_resize": 16}, fraction=0.1))
    assert data.num_classes == 10
    assert len(data.splits["train"]) == 20  # of 180 (two of each class), as two of each class are for validation
    assert len(data.splits["val"]) == 20
    assert not set(data.splits["train"].indices) & set(data.splits["val"].indices)
    own = [data.splits["train"].sample(i)[1] for i in range(20)]
    assert torch.bincount(torch.stack(own)).tolist() == [2] * 10
    images, classes = next(iter(data.test_dataloader()))
    reference = CIFAR10(tmp_path, train=False)
    assert classes.tolist() == reference.targets
    expected = torch.stack([v2.functional.resize(v2.functional.pil_to_tensor(image), 16) for image, _ in reference])
    torch.testing.assert_close(colours(images), expected.float(), atol=0.01, rtol=0)


def test_torchvision_masks(tmp_path):
    settings = {"target": "semseg", "num_classes": 21, "transform": {"crop": 40, "shorter": [40, 40], "hflip": 0}}
    settings["transform"]["eval_shorter"] = 40
    data = both(TorchvisionDataset("VOCSegmentation", write_voc(tmp_path), batch_size=2, **settings))
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [3, 1, 2]
    assert disjoint(names(data))
    for number, (image, mask) in enumerate(data.test_dataloader()):
        path = tmp_path / "VOCdevkit/VOC2012/SegmentationClass" / f"2012_val{number}.png"
        assert image.shape == (1, 3, 40, 50)
        np.testing.assert_array_equal(mask[0].numpy(), np.asarray(Image.open(path)))
    images, masks = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 40, 40)
    assert masks.shape == (2, 40, 40)


def test_torchvision_with_one_split(tmp_path):
    options = {"size": 40, "image_size": [3, 40, 40], "num_classes": 4}
    data = TorchvisionDataset("FakeData", tmp_path, options=options, num_classes=4, val_share=0.25, batch_size=5)
    both(data)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [26, 10, 4]
    assert disjoint(names(data))
    images, classes = next(iter(data.train_dataloader()))
    assert images.shape == (5, 3, 224, 224)
    assert int(classes.max()) < 4


def test_torchvision_with_three_splits(tmp_path):
    data = both(TorchvisionDataset("DTD", write_dtd(tmp_path), fraction=0.5))
    assert data.num_classes == 3
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [6, 6, 9]
    assert ["split='" + split in data.splits[split].name(0) for split in ("train", "val", "test")] == [True] * 3
    named = {"train": {"split": "test"}, "val": {"split": "train"}, "test": {"split": "val"}}
    data = both(TorchvisionDataset("DTD", tmp_path, **named))
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [9, 12, 6]
    del named["test"]  # then the data set's validation split is the test
    data = both(TorchvisionDataset("DTD", tmp_path, **named))
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [6, 3, 12]
