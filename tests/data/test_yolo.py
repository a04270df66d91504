"""YOLO's and Roboflow's layouts: the same boxes as the COCO file that they were written from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.sets import CLASSES, instances, write_coco, write_yolo
from lightning_tl.data.coco import CocoDetection
from lightning_tl.data.transforms import ResizeTransform
from lightning_tl.data.yolo import YoloDetection, label_file
from lightning_tl.errors import UserError

SIZE = ResizeTransform(size=32, hflip=0.0)


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"))


def boxes(dataset) -> dict[str, list]:
    found = {}
    for index in range(len(dataset)):
        _, target = dataset.sample(index)
        rows = zip(target["labels"].tolist(), target["boxes"].tolist(), target["iscrowd"].tolist(), strict=True)
        found[Path(dataset.name(index)).name] = sorted((label, box) for label, box, crowd in rows if not crowd)
    return found


@pytest.mark.parametrize("roboflow", [False, True])
def test_the_boxes_are_those_of_the_coco_file(coco: Path, tmp_path: Path, roboflow: bool) -> None:
    data = YoloDetection(write_yolo(tmp_path / "yolo", coco, roboflow), transform=SIZE, keep_empty=True)
    other = CocoDetection(coco, transform=SIZE, keep_empty=True)
    assert (data.num_classes, data.classes) == (3, other.classes)
    for module in (data, other):
        module.setup("fit")
        module.setup("test")
    for split in ("train", "val", "test"):
        ours, theirs = boxes(data.splits[split]), boxes(other.splits[split])
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert [label for label, _ in ours[name]] == [label for label, _ in theirs[name]]
            for (_, box), (_, expected) in zip(ours[name], theirs[name], strict=True):
                assert box == pytest.approx(expected, abs=1e-3)


def test_images_without_boxes_are_left_out_of_training(coco: Path, tmp_path: Path) -> None:
    data = YoloDetection(write_yolo(tmp_path / "yolo", coco), transform=SIZE)
    data.setup("fit")
    assert all(len(rows) for rows in boxes(data.splits["train"]).values())


def test_labels_of_the_whole_image(coco: Path, tmp_path: Path) -> None:
    data = YoloDetection(write_yolo(tmp_path / "yolo", coco), target="mulclass", transform=SIZE, keep_empty=True)
    data.setup("test")
    shown = {Path(data.splits["test"].name(i)).stem: data.splits["test"].sample(i)[1].tolist() for i in range(6)}
    assert shown["000000"] == [1, 1, 0]
    assert shown["000003"] == [0, 0, 0]


def test_a_polygon_gives_its_bounding_box(coco: Path, tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "yolo", coco)
    (root / "labels/val/000000.txt").write_text("2 0.1 0.2 0.5 0.3 0.4 0.9\n")
    data = YoloDetection(root, transform=SIZE)
    data.setup("test")
    _, target = data.splits["test"].sample(0)
    np.testing.assert_allclose(target["boxes"].numpy(), [[3.2, 6.4, 16.0, 28.8]], rtol=1e-5)


def test_where_labels_are() -> None:
    assert label_file(Path("a/images/b/images/c/1.jpg")) == Path("a/images/b/labels/c/1.txt")
    assert label_file(Path("a/b/1.jpg")) == Path("a/b/1.txt")


@pytest.mark.parametrize(
    "line,words",
    [
        ("3 0.5 0.5 0.1 0.1", r"000000\.txt, line 1: class 3, but .*data\.yaml names 3, 0 to 2"),
        ("0 0.5 0.5 0.1", r"line 1: 4 numbers; it must be class x y width height, or a polygon"),
        ("0 120 80 20 20", r"line 1: '0 120 80 20 20' has pixels; YOLO's labels are shares"),
        ("cat 0.5 0.5 0.1 0.1", r"line 1: 'cat 0\.5 0\.5 0\.1 0\.1' is not made of numbers"),
        ("0 nan 0.5 0.1 0.1", r"line 1: "),
    ],
)
def test_wrong_labels(coco: Path, tmp_path: Path, line: str, words: str) -> None:
    root = write_yolo(tmp_path / "yolo", coco)
    (root / "labels/val/000000.txt").write_text(line)
    data = YoloDetection(root, transform=SIZE)
    with pytest.raises(UserError, match=words):
        data.setup("test")


@pytest.mark.parametrize(
    "change,words",
    [
        ({"names": None}, r"data\.yaml: no list 'names' in it"),
        ({"names": {1: "a"}}, r"the numbers of 'names' must be 0, 1, …, without gaps"),
        ({"nc": 7}, r"nc is 7, but there are 3 names"),
        ({"train": None}, r"no 'train' in it"),
        ({"train": "images/trian"}, r"'images/trian': no such folder \(looked for "),
        ({"train": "train.txt"}, r"'train\.txt': a list of files is not read"),
    ],
)
def test_wrong_layouts(coco: Path, tmp_path: Path, change: dict, words: str) -> None:
    root = write_yolo(tmp_path / "yolo", coco)
    content = yaml.safe_load((root / "data.yaml").read_text()) | change
    (root / "data.yaml").write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(UserError, match=words):
        YoloDetection(root)


def test_a_folder_without_a_data_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.yaml: no such file; it names the classes"):
        YoloDetection(tmp_path)


def test_coco_says_that_a_folder_is_yolos(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in YOLO's format: choose --data YoloDetection"):
        CocoDetection(write_yolo(tmp_path / "yolo", coco))


@pytest.mark.parametrize("splits", [("train", "valid", "test"), ("train", "valid"), ("train", "test")])
def test_coco_as_roboflow_exports_it(coco: Path, tmp_path: Path, splits: tuple[str, ...]) -> None:
    for name in splits:
        shutil.copytree(coco / "train2017", tmp_path / name)
        (tmp_path / name / "_annotations.coco.json").write_text(json.dumps(instances()))
    data = CocoDetection(tmp_path, transform=SIZE)
    data.setup("fit")
    data.setup("test")
    assert data.num_classes == len(CLASSES)
    tested = {str(Path(data.splits["test"].name(i)).parent.name) for i in range(len(data.splits["test"]))}
    assert tested == {splits[-1]}
    validated = {str(Path(data.splits["val"].name(i)).parent.name) for i in range(len(data.splits["val"]))}
    assert validated == {"valid" if len(splits) == 3 else "train"}
