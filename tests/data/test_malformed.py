"""Broken data and wrong options: one error each, that says what, where and how to mend it; or skipped and counted."""

from __future__ import annotations

import json
import shutil

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from rendered_set import rewrite_shard

from data.broken_sets import ade20k, boxes, coco, drop, edit, folder, mask, truncate, use, voc
from data.sets import annotation
from lightning_tl.data import ADE20K, ImageFolder, Rendered, TorchvisionDataset
from lightning_tl.errors import UserError

# name: (damage, use, message)
FOLDERS = {
    "no such folder": (lambda r: shutil.rmtree(r / "folder"), folder, r"data.root is .*folder: no such folder"),
    "a file instead": (
        lambda r: (shutil.rmtree(r / "folder"), (r / "folder").write_text("")),
        folder,
        r"data.root is .*folder: a file, not a folder",
    ),
    "no classes": (
        lambda r: [shutil.rmtree(r / "folder" / s) for s in ("train", "val")],
        folder,
        r"no classes in it; expected .*/train/CLASS/\*.jpg",
    ),
    "a class without images": (
        lambda r: [p.unlink() for p in (r / "folder/train/owl").iterdir()],
        folder,
        r"train/owl: no image in this class .*remove the folder",
    ),
    "a class of validation alone": (
        lambda r: (r / "folder/val/dog").rename(r / "folder/val/dogs"),
        folder,
        r"val/dogs: no such class among those for training; did you mean 'dog'",
    ),
    "a truncated image": (
        lambda r: truncate(r / "folder/train/dog/dog3.jpg"),
        folder,
        r"train/dog/dog3.jpg: cannot be decoded \(.*truncated.*\): replace it, or .*data.on_error: skip",
    ),
    "no image at all": (
        lambda r: (r / "folder/val/cat/cat1.jpg").write_text("text"),
        folder,
        r"val/cat/cat1.jpg: cannot be decoded \(cannot identify it",
    ),
    "an empty file": (
        lambda r: (r / "folder/train/cat/cat1.jpg").write_bytes(b""),
        folder,
        r"train/cat/cat1.jpg: cannot be decoded",
    ),
    "too few to split off": (
        lambda r: (
            shutil.rmtree(r / "folder/val"),
            [p.unlink() for p in (r / "folder/train").glob("*/*") if "0" not in p.name],
        ),
        folder,
        r"3 images are too few to split off a test part: add images, or give a test split of its own",
    ),
}
COCO = {
    "no file": (
        lambda r: (r / "coco/annotations/instances_train2017.json").unlink(),
        coco,
        r"instances_train2017.json: no such file",
    ),
    "no JSON": (
        lambda r: truncate(r / "coco/annotations/instances_val2017.json"),
        coco,
        r"instances_val2017.json: cannot be read as JSON",
    ),
    "a list": (lambda r: edit(r, lambda c: []), coco, r"holds no object at its top, but a list"),
    "no annotations": (
        lambda r: edit(r, lambda c: c.pop("annotations") and None),
        coco,
        r"no list 'annotations'; an instances file has",
    ),
    "no images": (lambda r: edit(r, lambda c: c.update(images=[])), coco, r"train2017.json: lists no images"),
    "no categories": (lambda r: edit(r, lambda c: c.update(categories=[])), coco, r"lists no categories"),
    "an image without a size": (
        lambda r: edit(r, drop("images", 2, "width")),
        coco,
        r"train2017.json: images\[2\] has no 'width'",
    ),
    "a box without a category": (
        lambda r: edit(r, drop("annotations", 1, "category_id")),
        coco,
        r"annotations\[1\] has no 'category_id'",
    ),
    "an id that is no number": (
        lambda r: edit(r, lambda c: c["images"][0].update(id="7")),
        coco,
        r"images\[0\].id is '7'; it must be a whole number",
    ),
    "an id twice": (lambda r: edit(r, lambda c: c["images"][1].update(id=7)), coco, r"two images have the id 7"),
    "a category twice": (
        lambda r: edit(r, lambda c: c["categories"][1].update(id=90)),
        coco,
        r"two categories have the id 90",
    ),
    "a box of no image": (
        lambda r: edit(r, boxes(image_id=99)),
        coco,
        r"annotations\[1\].image_id is 99, which no image",
    ),
    "an unknown category": (
        lambda r: edit(r, boxes(category_id=3)),
        coco,
        r"annotations\[1\].category_id is 3, which 'categories' does not list",
    ),
    "three numbers": (
        lambda r: edit(r, boxes(bbox=[1, 2, 3])),
        coco,
        r"annotations\[1\].bbox is \[1, 2, 3\]; it must be",
    ),
    "words": (lambda r: edit(r, boxes(bbox=[1, 2, "a", 3])), coco, r"annotations\[1\].bbox is \[1, 2, 'a', 3\]"),
    "not a number": (lambda r: edit(r, boxes(bbox=[1, 2, float("nan"), 3])), coco, r"annotations\[1\].bbox is .*nan"),
    "a negative area": (
        lambda r: edit(r, boxes(area=-4)),
        coco,
        r"annotations\[1\].area is -4; it must be a number of",
    ),
    "an image id that is a list": (
        lambda r: edit(r, boxes(image_id=[7])),
        coco,
        r"annotations\[1\].image_id is \[7\]; it must be a whole number",
    ),
    "other categories": (
        lambda r: edit(r, lambda c: c["categories"].append({"id": 91, "name": "fox"})),
        coco,
        r"list other categories: 91 \(fox\) is not in both",
    ),
    "no boxes to train on": (
        lambda r: edit(r, lambda c: c.update(annotations=[annotation(1, 7, 2, [0, 0, 9, 9], iscrowd=1)])),
        coco,
        r"no image for train",
    ),
    "no folder of images": (
        lambda r: shutil.rmtree(r / "coco/train2017"),
        coco,
        r"train2017: no such folder, where the",
    ),
    "a missing image": (
        lambda r: (r / "coco/train2017/000001.jpg").unlink(),
        coco,
        r"train2017/000001.jpg: no such file",
    ),
    "an image of another size": (
        lambda r: Image.new("RGB", (30, 61)).save(r / "coco/train2017/000001.jpg"),
        coco,
        r"000001.jpg: 30 x 61 px, but .*instances_train2017.json says 30 x 60",
    ),
}


MASKS = {
    "no root": (lambda r: shutil.rmtree(r / "ade20k"), ade20k, r"data.root is .*ade20k: no such folder"),
    "no annotations": (
        lambda r: shutil.rmtree(r / "ade20k/annotations"),
        ade20k,
        r"annotations/training: no such folder; expected .*images/\{training,validation\}",
    ),
    "no images": (
        lambda r: [p.unlink() for p in (r / "ade20k/images/training").iterdir()],
        ade20k,
        r"images/training: no images in it",
    ),
    "an image without a mask": (
        lambda r: (r / "ade20k/annotations/training/ADE_3.png").unlink(),
        ade20k,
        r"images/training/ADE_3.*: no mask of that name in .*annotations/training \(1 such\)",
    ),
    "a mask without an image": (
        lambda r: (r / "ade20k/images/validation/ADE_1.jpg").unlink(),
        ade20k,
        r"annotations/validation/ADE_1.*: no image of that name",
    ),
    "a class too large": (
        lambda r: mask(r, np.full((46, 56), 7, np.uint8)),
        ade20k,
        r"training/ADE_2.png: a pixel of class 7; the masks hold 0 \(other\) and 1 to 5: set data.num_classes",
    ),
    "a mask of another size": (
        lambda r: mask(r, np.ones((46, 50), np.uint8)),
        ade20k,
        r"ADE_2.jpg: the image is 56 x 46 px, its labels 50 x 46 px",
    ),
    "a mask with colours": (
        lambda r: mask(r, np.ones((46, 56, 3), np.uint8)),
        ade20k,
        r"ADE_2.png: a mask has one integer a pixel, this has mode RGB",
    ),
    "a truncated mask": (
        lambda r: truncate(r / "ade20k/annotations/training/ADE_2.png"),
        ade20k,
        r"annotations/training/ADE_2.png: cannot be decoded",
    ),
}
OPTIONS = {
    "a batch of several sizes": (
        lambda r: ade20k(r, eval_batch_size=3),
        r"ADE_0.jpg and the images after it differ in size .*set data.eval_batch_size to 1",
    ),
    "no classes": (lambda r: ade20k(r, num_classes=0), r"data.num_classes is 0; it must be between 1"),
    "a class too large for torchvision's": (
        lambda r: voc(r, num_classes=3),
        r"VOCSegmentation\(image_set='(train|val)'\)\[\d\]: a pixel of class \d+; masks hold 0 to 2",
    ),
    "fraction 0": (lambda r: folder(r, fraction=0.0), r"data.fraction is 0.0; it must be above 0 and at most 1"),
    "fraction 2": (lambda r: coco(r, fraction=2), r"data.fraction is 2; it must be above 0"),
    "draw": (lambda r: folder(r, draw=-1), r"data.draw is -1; it must be at least 0"),
    "seed": (lambda r: folder(r, seed=-1), r"data.seed is -1; it must be at least 0"),
    "workers": (lambda r: folder(r, num_workers=-2), r"data.num_workers is -2; it must be at least 0"),
    "batch": (lambda r: ade20k(r, batch_size=0), r"data.batch_size is 0; it must be at least 1"),
    "on_error": (lambda r: folder(r, on_error="ignore"), r"data.on_error is 'ignore'; valid: raise, skip"),
    "val_share": (
        lambda r: use(ImageFolder(r / "folder/train", val_share=1.0)),
        r"data.val_share is 1.0; it must be be",
    ),
    "test_share": (
        lambda r: use(ImageFolder(r / "folder/train", test_share=0.0)),
        r"data.test_share is 0.0; it must be be",
    ),
    "shares": (
        lambda r: use(ImageFolder(r / "folder/train", val_share=0.5, test_share=0.6)),
        r"data.test_share \(0.6\) and data.val_share \(0.5\) leave nothing to train on",
    ),
    "equal classes without classes": (
        lambda r: voc(r, equal_classes=True, fraction=0.5),
        r"data.equal_classes is for data sets that list a class for each image, which TorchvisionDataset does not",
    ),
    "test images without annotations": (
        lambda r: coco(r, test_images="test2017"),
        r"data.test_images and data.test_annotations belong together: give both",
    ),
    "target of COCO": (
        lambda r: coco(r, target="semseg"),
        r"data.target is 'semseg'; CocoDetection has: objdet, mulcl",
    ),
    "target of torchvision": (lambda r: voc(r, target="objdet"), r"data.target is 'objdet'; TorchvisionDataset has"),
    "name": (lambda r: TorchvisionDataset("CIFER10", r), r"data.name is 'CIFER10', no data set of .* mean 'CIFAR10'"),
    "files": (lambda r: TorchvisionDataset("CIFAR10", r), r"CIFAR10\(train=True\) in .*not found.*data.download: true"),
    "no download": (
        lambda r: TorchvisionDataset("FakeData", r, num_classes=3, download=True),
        r"data.download: FakeData cannot be downloaded",
    ),
    "option": (
        lambda r: TorchvisionDataset("FakeData", r, options={"sise": 3}),
        r"data.options: FakeData has no argument 'sise'; did you mean 'size'",
    ),
    "classes": (lambda r: voc(r, num_classes=None), r"data.num_classes: VOCSegmentation does not tell how many"),
    "no masks": (
        lambda r: use(TorchvisionDataset("FakeData", r, target="semseg", num_classes=3, options={"size": 9})),
        r"FakeData\(size=9\)\[\d\]: gives no mask",
    ),
    "masks for classes": (
        lambda r: use(TorchvisionDataset("VOCSegmentation", r / "voc", num_classes=3)),
        r"VOCSegmentation.*: gives a .*Image.* and no class: it is no data set for sinclass",
    ),
    "too few classes": (
        lambda r: use(
            TorchvisionDataset("FakeData", r, num_classes=2, options={"size": 40, "image_size": [3, 32, 32]})
        ),
        r"FakeData.*: has class \d; with data.num_classes 2",
    ),
    "no class": (
        lambda r: TorchvisionDataset("wrap_dataset_for_transforms_v2", r),
        r"data.name is 'wrap_dataset_for_transforms_v2', no data set of torchvision",
    ),
    "one split named": (
        lambda r: voc(r, train={"image_set": "train"}),
        r"name the splits .*: give the first two, or all three, or none",
    ),
    "a test split alone": (
        lambda r: voc(r, test={"image_set": "val"}),
        r"name the splits .*: give the first two, or all three, or none",
    ),
    "splits that are not plain": (
        lambda r: TorchvisionDataset("EMNIST", r, num_classes=3),
        r"data.train, data.val: the splits of EMNIST are not plain; name them \(split=",
    ),
    "transform": (lambda r: voc(r, transform={"size": 3}), r"data.transform of semseg has no key 'size'"),
}


CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("folder", FOLDERS), ("COCO", COCO), ("masks", MASKS))
    for name, case in cases.items()
}


@pytest.mark.parametrize("damage,read,message", CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore")
def test_broken_data(sets, damage, read, message):
    read(sets)
    damage(sets)
    with pytest.raises(UserError, match=message) as error:
        read(sets)
    assert "\n" not in str(error.value)


def test_a_broken_test_set_is_named_before_the_training(sets):
    """Its images are listed by ``fit``, though not read."""
    (sets / "folder/val/dog").rename(sets / "folder/val/dogs")
    with pytest.raises(UserError, match=r"val/dogs: no such class among those for training"):
        ImageFolder(sets / "folder").setup("fit")
    (sets / "ade20k/images/validation/ADE_1.jpg").unlink()
    with pytest.raises(UserError, match=r"annotations/validation/ADE_1.*: no image of that name"):
        ADE20K(sets / "ade20k", num_classes=5).setup("fit")


@pytest.mark.parametrize("read,message", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.filterwarnings("ignore")
def test_wrong_options(whole, read, message):
    with pytest.raises(UserError, match=message) as error:
        read(whole)
    assert "\n" not in str(error.value)


def test_rendered_options(renders, own_renders):
    with pytest.raises(UserError, match=r"data.target is 'depth'; valid: mulclass, sinclass, objdet, semseg, normal"):
        Rendered(renders, target="depth")
    with pytest.raises(UserError, match=r"data.transform of objdet has no key 'crop'"):
        Rendered(renders, target="objdet", transform={"crop": 32})
    rewrite_shard(own_renders / "train", 0, lambda name, c: c[:60] if name == "0000001-00.normal.png" else c)
    data = Rendered(own_renders, n=16, target="normal", batch_size=16)
    with pytest.raises(UserError, match=r"000000\.tar: 0000001-00\.normal\.png cannot be decoded .*render it again"):
        use(data)


def test_a_damaged_render_is_named(own_renders):
    rewrite_shard(own_renders / "train", 0, lambda name, c: c[:60] if name == "0000001-00.rgb.png" else c)
    data = Rendered(own_renders, n=16, target="objdet", batch_size=16)
    with pytest.raises(UserError, match=r"train: image 2: cannot be decoded \(.*\): delete its shard and run the same"):
        use(data)


def test_a_category_in_a_mask_that_the_manifest_lacks(own_renders):
    path = own_renders / "train" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["categories"]["2"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"labelled with category 2, which its manifest.json does not list"):
        use(Rendered(own_renders, target="semseg", transform={"crop": 32, "shorter": [32, 32]}))


def test_an_error_in_a_loaders_process_is_the_same_error(sets):
    truncate(sets / "folder/train/dog/dog3.jpg")
    with pytest.raises(UserError) as error:
        folder(sets, num_workers=2)
    assert str(error.value).startswith(f"{sets}/folder/train/dog/dog3.jpg: cannot be decoded")
    assert "Traceback" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_overfitting_a_few_batches_is_refused(renders, tmp_path):
    """Lightning would replace the sampler by one that knows neither steps nor batches."""
    data = Rendered(renders, batch_size=4)
    trainer = pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.overfit_batches, trainer.limit_train_batches = 1, 1

    class Anything(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[1].float().mean().view(1, 1)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0)

    with pytest.raises(UserError, match=r"trainer.overfit_batches .*data.n or data.fraction"):
        trainer.fit(Anything(), datamodule=data)
