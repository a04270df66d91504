"""Fractions of a training set, and broken images that are skipped and counted."""

from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
import pytest
from PIL import Image

from data.broken_sets import SMALL, ade20k, coco, folder, mask, truncate, use
from data.modules import ready
from data.sets import write_folder
from lightning_tl.data import ADE20K, CocoDetection, ImageFolder
from lightning_tl.data.transforms import CropTransform, ResizeTransform, ScaleCropTransform, without_enlarging
from lightning_tl.errors import UserError


def attached(data, out):
    """A data module as in a run that writes to a folder."""
    data.trainer = pl.Trainer(default_root_dir=out, accelerator="cpu", logger=False, enable_checkpointing=False)
    return data


@pytest.mark.filterwarnings("ignore")
def test_skipping_leaves_out_what_is_broken_and_counts_it(sets, tmp_path):
    truncate(sets / "folder/train/dog/dog3.jpg")
    (sets / "folder/train/cat/cat0.jpg").write_text("text")
    (sets / "folder/val/owl/owl2.jpg").write_bytes(b"")
    data = attached(ImageFolder(sets / "folder", transform=SMALL, on_error="skip"), tmp_path / "run")
    with pytest.warns(UserWarning, match=r"1 of 9 images of test are skipped; the first: .*owl2.jpg: cannot be dec"):
        use(data)
    names = {split: [part.name(i) for i in range(len(part))] for split, part in data.splits.items()}
    assert len(names["train"]) + len(names["val"]) == 18 - 2
    assert len(names["test"]) == 8
    assert not any(name.endswith(("dog3.jpg", "cat0.jpg")) for name in names["train"] + names["val"])
    lines = [
        line for split in ("train", "val") for line in (tmp_path / f"run/skipped_{split}.txt").read_text().splitlines()
    ]
    assert sorted(line.split(":")[0].split("/")[-1] for line in lines) == ["cat0.jpg", "dog3.jpg"]
    assert "owl2.jpg" in (tmp_path / "run/skipped_test.txt").read_text()
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 8


@pytest.mark.filterwarnings("ignore")
def test_skipping_boxes_and_masks(sets):
    def count(data):
        return sum(len(data.splits[split]) for split in ("train", "val"))

    before = count(coco(sets, keep_empty=True)), count(ade20k(sets))
    (sets / "coco/train2017/000001.jpg").unlink()
    mask(sets, np.full((46, 56), 7, np.uint8))
    assert before == (6, 6)
    assert count(coco(sets, keep_empty=True, on_error="skip", val_share=0.4)) == 5
    assert count(ade20k(sets, on_error="skip", val_share=0.4)) == 5


@pytest.mark.filterwarnings("ignore")
def test_nothing_left_after_skipping(sets):
    for path in (sets / "folder/val").glob("*/*"):
        path.write_text("text")
    with pytest.raises(UserError, match=r"no image of test can be used; the first: .*cat0.jpg: cannot be decoded"):
        folder(sets, on_error="skip")


def listed(out):
    return (out / "subset.txt").read_text().splitlines()


def test_fractions_are_balanced_nested_and_listed(tmp_path):
    root = write_folder(tmp_path / "set", {"train": (44, 22, 11), "val": (1, 1, 1)})  # a tenth is for validation

    def names(fraction, draw=0):
        out = tmp_path / f"run-{fraction}-{draw}"
        data = attached(ImageFolder(root, transform=SMALL, fraction=fraction, draw=draw), out)
        data.setup("fit")
        files = [data.splits["train"].name(i) for i in range(len(data.splits["train"]))]
        assert listed(out) == files
        return set(files)

    tenth, fifth, half = names(0.1), names(0.2), names(0.5)
    assert tenth < fifth < half
    assert [sum(f"/{c}/" in name for name in fifth) for c in ("cat", "dog", "owl")] == [8, 4, 2]
    assert [sum(f"/{c}/" in name for name in names(0.001)) for c in ("cat", "dog", "owl")] == [1, 1, 1]
    assert names(0.2, draw=1) != fifth
    assert names(0.2) == fifth


def test_fractions_of_boxes_and_masks_are_nested(whole):
    def indices(module, fraction, **options):
        data = module(whole / module.__name__.lower().removesuffix("detection"), fraction=fraction, **options)
        data.setup("fit")
        return set(data.splits["train"].indices.tolist())

    for module, options, sizes in ((CocoDetection, {"keep_empty": True}, (2, 4)), (ADE20K, {"num_classes": 5}, (2, 4))):
        few, more = indices(module, 0.4, **options), indices(module, 0.8, **options)
        assert few < more
        assert (len(few), len(more)) == sizes


def test_a_run_says_which_images_it_trained_on(whole, tmp_path):
    """Through the command line: the list is kept with the run, and written by a fit alone."""
    from lightning_tl.run import run

    arguments = [
        "fit",
        "--config=finetune/digits",
        "--data=ImageFolder",
        f"--data.root={whole}/folder",
        "--data.transform={size: 32, eval_resize: 32}",
        "--data.fraction=0.5",
        "--data.batch_size=4",
        "--model.in_chans=3",
        "--trainer.max_steps=2",
        "--model.scheduler.warmup_steps=1",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={tmp_path}/out",
    ]
    cli = run(arguments)
    assert cli.model.num_classes == 3
    # of 8, 6 and 4 images one each is for validation
    assert len(listed(tmp_path / "out")) == round(3.5) + round(2.5) + round(1.5)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_small_photos_are_not_enlarged(sets, stage):
    """Evaluation too reads them at the size of the training images."""
    edge = int(np.median([min(Image.open(path).size) for path in (sets / "folder/train").rglob("*.jpg")]))
    data = ready(ImageFolder(sets / "folder", transform=CropTransform(), shrink_to_photos=True, batch_size=4), stage)
    assert (data.transform.size, data.transform.eval_resize) == (edge, edge)
    loader = data.train_dataloader() if stage == "fit" else data.test_dataloader()
    assert next(iter(loader))[0].shape[2:] == (edge, edge)
    large = ready(ImageFolder(sets / "folder", transform=SMALL, shrink_to_photos=True))
    assert large.transform == SMALL


def test_transforms_of_the_size_of_photos():
    assert without_enlarging(ResizeTransform(size=64), 40) == ResizeTransform(size=40)
    masks = ScaleCropTransform(crop=64, shorter=(52, 96), eval_shorter=64)
    assert without_enlarging(masks, 32) == ScaleCropTransform(crop=32, shorter=(26, 48), eval_shorter=32)
    for transform in (ResizeTransform(size=64), CropTransform(size=64, eval_resize=72), masks):
        assert without_enlarging(transform, 64) is transform
