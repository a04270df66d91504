"""Every data module: three disjoint splits, and no test image is read before the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.sets import write_ade20k, write_coco, write_dtd, write_folder, write_voc
from lightning_tl.data import ADE20K, CocoDetection, Digits, DigitScenes, ImageFolder, Rendered, TorchvisionDataset
from lightning_tl.data.batched_module import BatchedDataModule
from lightning_tl.data.transforms import CropTransform, ResizeTransform, ScaleCropTransform
from lightning_tl.errors import UserError

CROP, RESIZE = CropTransform(size=32, eval_resize=32), ResizeTransform(size=32)
SCALE = ScaleCropTransform(crop=32, shorter=(30, 50), eval_shorter=30)
MASKS = {"target": "semseg", "num_classes": 21, "transform": {"crop": 32, "shorter": [30, 50]}}


def three_parts(root: Path) -> Path:
    return write_folder(root, {"train": (8, 6, 4), "val": (3, 3, 3), "test": (2, 2, 2)})


# the data set on disk, the module, and where its test images are (None: split off)
FILES: dict[str, tuple[Callable[[Path], Path], Callable[..., BatchedDataModule], str | None]] = {
    "train and val": (write_folder, lambda r, **o: ImageFolder(r, transform=CROP, **o), "val/*/*.jpg"),
    "train, val and test": (three_parts, lambda r, **o: ImageFolder(r, transform=CROP, **o), "test/*/*.jpg"),
    "classes": (
        lambda root: write_folder(root, {"": (10, 20, 10)}),
        lambda r, **o: ImageFolder(r, transform=CROP, **o),
        None,
    ),
    "COCO": (
        write_coco,
        lambda r, **o: CocoDetection(r, transform=RESIZE, keep_empty=True, **o),
        "val2017/*.jpg",
    ),
    "ADE20K": (
        write_ade20k,
        lambda r, **o: ADE20K(r, num_classes=5, transform=SCALE, **o),
        "*/validation/*",
    ),
    "VOC": (
        write_voc,
        lambda r, **o: TorchvisionDataset("VOCSegmentation", r, **MASKS, **o),
        "VOCdevkit/VOC2012/*/2012_val*",
    ),
    "DTD": (write_dtd, lambda r, **o: TorchvisionDataset("DTD", r, **o), "dtd/dtd/images/*/*_test*.jpg"),
}


def ready(data: BatchedDataModule) -> BatchedDataModule:
    for stage in ("fit", "test"):
        data.setup(stage)
    return data


def images(data: BatchedDataModule, split: str) -> set[str]:
    """The files of a split, by path; torchvision's samples have a number in their split's list."""
    part = data.splits[split]
    if isinstance(data, TorchvisionDataset):
        own = part.source.dataset
        files = getattr(own, "images", None) or own._image_files
        return {str(files[index]) for index in part.indices}
    return {part.name(i) for i in range(len(part))}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FILES)
def test_splits_are_disjoint_by_file(kind, tmp_path):
    write, module, _ = FILES[kind]
    write(tmp_path)
    data = ready(module(tmp_path))
    train, val, test = (images(data, split) for split in ("train", "val", "test"))
    assert train
    assert val
    assert test
    assert not train & val
    assert not train & test
    assert not val & test
    # validation and test do not depend on what is drawn to train on
    other = ready(module(tmp_path, fraction=0.5, draw=2, seed=7))
    assert [images(other, split) for split in ("val", "test")] == [val, test]
    assert images(other, "train") < train


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("kind", [kind for kind, (_, _, where) in FILES.items() if where])
def test_no_test_image_is_read_before_the_test(kind, on_error, tmp_path):
    """The test images are destroyed: training and validation notice nothing, the test does."""
    write, module, where = FILES[kind]
    write(tmp_path)
    destroyed = list(tmp_path.glob(where))
    assert destroyed
    for path in destroyed:
        path.write_bytes(b"no image")
    data = module(tmp_path, on_error=on_error)
    data.setup("fit")
    data.setup("validate")
    assert sum(len(batch[0]) for batch in each(data.train_dataloader(), data.val_dataloader())) > 0

    def test():
        data.setup("test")
        list(data.test_dataloader())

    with pytest.raises(UserError, match=r"cannot be (decoded|read)"):
        test()


def each(*loaders) -> Iterator:
    for loader in loaders:
        yield from loader


def test_digits_are_split_by_image():
    """The data modules of handwritten digits draw each split from images of its own."""
    scenes = ready(DigitScenes("sinclass"))
    parts = {split: set(part.source.digits.tolist()) for split, part in scenes.splits.items()}
    assert not parts["train"] & parts["val"]
    assert not parts["train"] & parts["test"]
    assert not parts["val"] & parts["test"]
    digits = ready(Digits(shots=20))
    pixels = {name: {part.images(i).tobytes() for i in range(len(part))} for name, part in digits.splits.items()}
    assert not pixels["train"] & pixels["val"]
    assert not pixels["train"] & pixels["test"]
    assert not pixels["val"] & pixels["test"]


def test_renders_have_no_test_part_and_say_so(renders, caplog):
    data = ready(Rendered(renders))
    assert data.splits["test"] is data.splits["val"]
    assert "validation images stand in for test images" in caplog.text
    caplog.clear()
    Rendered(renders).setup("fit")
    assert not caplog.text


def test_a_missing_split_is_named():
    class Half(BatchedDataModule):
        def setup(self, stage: str) -> None:
            self.splits["train"] = []

    data = Half()
    data.setup("test")
    with pytest.raises(UserError, match=r"Half has no test split: its setup must put one into self.splits\['test'\]"):
        data.test_dataloader()
