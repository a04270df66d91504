"""Exports are opened again by other libraries, or compared with the renders."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from rendered_set import labels, pixels, png, rewrite

from lightning_tl.cli.main import main
from lightning_tl.data.rendered_images import RenderedImages


def export(root, form, out):
    assert main(["dataset", "export", str(root), f"--format={form}", f"--out={out}"]) == 0
    return out


@pytest.mark.filterwarnings("ignore")
def test_coco(renders, tmp_path, capsys):
    from pycocotools.coco import COCO
    from torchvision.datasets import CocoDetection

    out = export(renders, "coco", tmp_path / "c")
    coco = COCO(out / "annotations/instances_train.json")
    images = RenderedImages(renders / "train")
    assert sorted(coco.getCatIds()) == sorted(images.manifest.categories)
    for index in range(len(images)):
        instance = images.instance(index)
        annotations = coco.loadAnns(coco.getAnnIds(index + 1))
        for row, thing in zip(annotations, images.labels(index)["objects"], strict=True):
            assert row["bbox"] == thing["bbox"]
            assert row["category_id"] == thing["category"]
            assert (coco.annToMask(row) == (instance == thing["instance"])).all()
    data = CocoDetection(out / "val", out / "annotations/instances_val.json")
    assert len(data) == 24
    assert (np.array(data[3][0]) == RenderedImages(renders / "val").rgb(3)).all()
    export(renders, "coco", out)  # again


def test_yolo(renders, tmp_path):
    out = export(renders, "yolo", tmp_path / "y")
    facts = yaml.safe_load((out / "data.yaml").read_text())
    assert facts == {"train": "images/train", "val": "images/val", "names": {0: "disc", 1: "bar", 2: "frame"}}
    images = RenderedImages(renders / "train")
    for index in range(len(images)):
        key = images.member(index, "json")[0]
        lines = (out / "labels/train" / f"{key}.txt").read_text().splitlines()
        height, width = Image.open(out / "images/train" / f"{key}.png").size[::-1]
        for line, thing in zip(lines, images.labels(index)["objects"], strict=True):
            number, x, y, w, h = map(float, line.split())
            assert facts["names"][int(number)] == thing["name"]
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            assert box == pytest.approx(thing["bbox"], abs=1e-3)


def test_bop(renders, tmp_path, capsys):
    out = export(renders, "bop", tmp_path / "b")
    assert "do not store the objects' poses" in capsys.readouterr().out
    images = RenderedImages(renders / "train")
    for index in range(len(images)):
        content = images.labels(index)
        folder, view = out / "train" / f"{content['scene']:06d}", content["view"]
        truth, info, camera = (
            json.loads((folder / f"{name}.json").read_text())[str(view)]
            for name in ("scene_gt", "scene_gt_info", "scene_camera")
        )
        assert camera["cam_K"] == np.ravel(content["camera"]["K"]).tolist()
        assert (np.array(Image.open(folder / f"rgb/{view:06d}.png")) == images.rgb(index)).all()
        for place, thing in enumerate(content["objects"]):
            assert truth[place] == {"obj_id": thing["category"]}
            assert info[place]["bbox_visib"] == thing["bbox"]
            mask = np.array(Image.open(folder / f"mask_visib/{view:06d}_{place:06d}.png"))
            assert ((mask == 255) == (images.instance(index) == thing["instance"])).all()
            assert info[place]["px_count_visib"] == (mask == 255).sum()


def test_hdf5(renders, tmp_path):
    import h5py

    out = export(renders, "hdf5", tmp_path / "h")
    images = RenderedImages(renders / "val")
    with h5py.File(out / "val.h5") as file:
        for index in range(len(images)):
            for name in ("rgb", "category", "instance", "normal"):
                assert (file[name][index] == getattr(images, name)(index)).all()
            assert json.loads(file["labels"].asstr()[index]) == images.labels(index)
        assert json.loads(file.attrs["categories"]) == {"1": "disc", "2": "bar", "4": "frame"}


def test_parquet(renders, tmp_path):
    """Opened by pyarrow; the description of the columns is that of ``datasets``."""
    import io

    import pyarrow.parquet

    out = export(renders, "parquet", tmp_path / "p")
    images = RenderedImages(renders / "train")
    table = pyarrow.parquet.read_table(out / "data/train-00000.parquet")
    rows = table.to_pylist()
    assert len(rows) == len(images) == 60
    names = ["disc", "bar", "frame"]
    for index, row in enumerate(rows):
        things = images.labels(index)["objects"]
        assert row["key"] == images.member(index, "json")[0]
        assert (np.array(Image.open(io.BytesIO(row["image"]["bytes"]))) == images.rgb(index)).all()
        assert (np.array(Image.open(io.BytesIO(row["instance_mask"]["bytes"]))) == images.instance(index)).all()
        assert row["bbox"] == [thing["bbox"] for thing in things]
        assert [names[place] for place in row["category"]] == [thing["name"] for thing in things]
        assert json.loads(row["camera"]) == images.labels(index)["camera"]
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.column_names
    assert features["image"] == {"_type": "Image"}
    assert features["category"] == [{"names": names, "_type": "ClassLabel"}]
    header, _, body = (out / "README.md").read_text().removeprefix("---\n").partition("---\n")
    facts = yaml.safe_load(header)
    assert "license" not in facts
    assert "No licence was given" in body
    assert facts["size_categories"] == ["n<1K"]
    assert facts["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/train-*.parquet"},
        {"split": "validation", "path": "data/val-*.parquet"},
    ]
    assert "| validation | 24 |" in body
    assert "| 2 | 4 | frame |" in body
    again = ["dataset", "export", str(renders), "--format=parquet", f"--out={out}", "--license=cc-by-4.0"]
    assert main(again) == 0
    assert yaml.safe_load((out / "README.md").read_text().split("---")[1])["license"] == "cc-by-4.0"


def test_parquet_in_several_files(renders, tmp_path, monkeypatch):
    import pyarrow.parquet

    from lightning_tl.inspection import parquet

    monkeypatch.setattr(parquet, "_FILE_BYTES", 1)
    monkeypatch.setattr(parquet, "_GROUP", 25)
    out = export(renders, "parquet", tmp_path / "p")
    files = sorted((out / "data").glob("train-*"))
    assert [pyarrow.parquet.read_metadata(file).num_rows for file in files] == [25, 25, 10]
    keys = [key for file in files for key in pyarrow.parquet.read_table(file)["key"].to_pylist()]
    images = RenderedImages(renders / "train")
    assert keys == [images.member(index, "json")[0] for index in range(60)]


def single(root):
    """Of each image's objects keep the first in the labels."""

    def edit(members):
        for name in [name for name in members if name.endswith("json")]:
            labels(name.removesuffix(".json"), lambda content: content["objects"].__delitem__(slice(1, None)))(members)

    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            rewrite(root, edit, f"{number:06d}", split)


def test_imagefolder(own_renders, tmp_path, capsys):
    from torchvision.datasets import ImageFolder

    assert main(["dataset", "export", str(own_renders), "--format=imagefolder", f"--out={tmp_path / 'x'}"]) == 2
    assert "shows 2 categories, and a folder a class takes one" in capsys.readouterr().err
    single(own_renders)
    data = ImageFolder(export(own_renders, "imagefolder", tmp_path / "i") / "train")
    assert "path: val/**" in (tmp_path / "i/README.md").read_text()
    images = RenderedImages(own_renders / "train")
    wanted = {images.member(i, "json")[0]: images.labels(i)["objects"][0]["name"] for i in range(len(images))}
    assert {path.split("/")[-1][:10]: data.classes[number] for path, number in data.samples} == wanted


def test_wrong_exports(renders, own_renders, tmp_path, capsys, monkeypatch):
    def said(root, form, out):
        assert main(["dataset", "export", str(root), f"--format={form}", f"--out={out}"]) == 2
        return capsys.readouterr().err

    assert "--format is 'cocco'; did you mean 'coco'?" in said(renders, "cocco", tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert "full: holds something else than this export" in said(renders, "coco", tmp_path / "full")
    assert "mine.txt: a file; give a folder" in said(renders, "coco", tmp_path / "full" / "mine.txt")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "needs h5py: pip install 'lightning-tl[export]'" in said(renders, "hdf5", tmp_path / "h")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow: pip install 'lightning-tl[export]'" in said(renders, "parquet", tmp_path / "q")
    key = "0000010-01"
    rewrite(own_renders, labels(key, lambda content: content["objects"][0].update(category=3)))
    assert f"{key}.json: category 3 is not in the manifest" in said(own_renders, "coco", tmp_path / "b")
    rewrite(own_renders, labels(key, lambda content: content["objects"][0].pop("area")))
    rewrite(own_renders, labels(key, lambda content: content["objects"][0].update(category=1)))
    assert f"{key}.json: objects[0] has no key 'area'" in said(own_renders, "coco", tmp_path / "c")
    rewrite(own_renders, labels(key, lambda content: content.pop("objects")))
    assert f"{key}.json: no key 'objects'" in said(own_renders, "coco", tmp_path / "d")


KEY = "0000010-01"


def without_camera(members):
    labels(KEY, lambda content: content.pop("camera"))(members)


def other_camera(members):
    labels(KEY, lambda content: content["camera"].update(K=[[1, 0], [0, 1]]))(members)


def broken_depth(members):
    members[f"{KEY}.depth.png"] = png(np.zeros((32, 32), np.uint16))[:50]


@pytest.mark.parametrize(
    "form,plant,message",
    [
        ("bop", without_camera, f"{KEY}.json: no key 'camera': delete the shard and render it again"),
        ("bop", other_camera, f"{KEY}.json has no camera: render it again"),
        ("bop", broken_depth, f"{KEY}.depth.png cannot be decoded"),
        ("hdf5", broken_depth, f"{KEY}.depth.png cannot be decoded"),
        (
            "hdf5",
            pixels(f"{KEY}.instance.png", lambda array: array[:20]),
            f"{KEY}.instance.png is uint16 of 20 x 32, the manifest says 32 x 32: delete the shard and render it again",
        ),
        (
            "hdf5",
            pixels(f"{KEY}.normal.png", lambda array: array[..., 0]),
            f"{KEY}.normal.png is uint8 of 32 x 32, the manifest says 32 x 32 x 3",
        ),
    ],
)
def test_images_that_cannot_be_exported(own_renders, tmp_path, capsys, form, plant, message):
    rewrite(own_renders, plant)
    assert main(["dataset", "export", str(own_renders), f"--format={form}", f"--out={tmp_path / 'x'}"]) == 2
    assert message in capsys.readouterr().err


def test_hdf5_and_bop_with_depth(own_renders, tmp_path, capsys):
    import h5py

    depth = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)

    def add(members):
        for name in [name for name in members if name.endswith(".json")]:
            members[name.replace("json", "depth.png")] = png(depth)

    for number in range(2):
        rewrite(own_renders, add, f"{number:06d}", "val")
    with h5py.File(export(own_renders / "val", "hdf5", tmp_path / "h") / "val.h5") as file:
        assert (file["depth"][:] == depth).all()
    out = export(own_renders / "val", "bop", tmp_path / "b")
    assert (np.array(Image.open(out / "val/000003/depth/000001.png")) == depth).all()
    assert "no depth" not in capsys.readouterr().out
