"""The page on data as it stands: its YAML trains through the command line, its code runs, its trees are true."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from data.sets import write_ade20k, write_coco, write_folder, write_yolo
from lightning_tl.cli.main import main
from lightning_tl.run import CheckCLI, RunCLI, run

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def here(renders, tmp_path, monkeypatch):
    shutil.copytree(renders, tmp_path / "renders")
    write_folder(tmp_path / "flowers")
    write_coco(tmp_path / "coco")
    write_yolo(tmp_path / "blocks", tmp_path / "coco")
    write_ade20k(tmp_path / "ADEChallengeData2016")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_the_yaml_of_the_page(here, monkeypatch):
    """Each snippet as a configuration file: parsed, built, set up, and a batch of each split read."""
    monkeypatch.setattr(RunCLI, "_run_subcommand", lambda self, name: None)
    assert len(YAML) == 7
    seen, last = [], ["TorchvisionDataset", "ImageFolder"]
    for text in YAML:
        Path("data.yaml").write_text(text)
        arguments = ["fit", "--config=finetune/digits", "--config=data.yaml", "--trainer.default_root_dir=out"]
        data = run([*arguments, "--data.steps_per_epoch=1"]).datamodule
        for name, value in yaml.safe_load(text)["data"]["init_args"].items():
            if name in ("fraction", "n", "target", "batch_size"):
                assert getattr(data, "task" if name == "target" else name) == value
        data.trainer = None
        data.setup("fit")
        images, _ = next(iter(data.train_dataloader()))
        assert all(image.shape[0] == 3 and image.dtype == torch.float32 for image in images)
        next(iter(data.val_dataloader()))
        seen.append(type(data).__name__)
    assert seen == ["Rendered", "ImageFolder", "CocoDetection", "YoloDetection", "ADE20K", *last]


def test_the_code_of_the_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_data.py").write_text(f"from PIL import Image\n{CODE}")
    monkeypatch.syspath_prepend(tmp_path)
    from my_data import Bright

    data = Bright()
    for stage in ("fit", "test"):
        data.setup(stage)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    assert ((images.mean((1, 2, 3)) > 0) == (labels == 1)).all()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 20, "val": 2, "test": 10}
    # on the command line it has its own options and the shared ones, and a wrong one is named
    command = ["fit", "--model=Classification", "--data=my_data.Bright"]
    with pytest.raises(SystemExit):
        main([*command, "--data.fraction=0.5", "--print_config"])
    options = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    own = {"size": 32, "batch_size": 4}
    images = {"fraction": 0.5, "draw": 0, "on_error": "raise", "shrink_to_photos": False}
    batches = {"eval_batch_size": 256, "seed": 0, "steps_per_epoch": None, "num_workers": 0}
    assert options == own | images | batches
    assert main([*command, "--data.fractoin=0.5"]) == 2
    assert "unknown key 'fractoin' in the configuration; did you mean 'fraction'?" in capsys.readouterr().err


SIZES = [line.split("|")[1:4] for line in PAGE.splitlines() if re.match(r"\| \d+ px", line)]


@pytest.mark.parametrize("photos,render,overrides", SIZES)
def test_settings_for_a_size_of_photos(photos, render, overrides):
    """Both trainings take the overrides of the table, and then see images of that size."""
    side = int(photos.split()[0])
    assert f"--image.size {side}" in render
    kinds = {"one label": ("mulclass", "sinclass"), "boxes": ("objdet", "objdet"), "masks": ("semseg", "semseg")}
    kind = next((kind for kind in kinds if kind in photos), None)
    small = "" if "without `_small`" in overrides else "_small"
    words = re.findall(r"--[\w.]+ [\w.,\[\]]+", overrides)
    for stage, task in zip(("pretrain", "finetune"), kinds[kind or "boxes"], strict=True):
        own = [word for word in words if stage == "finetune" or "eval_resize" not in word]
        args = ["fit", f"--config={stage}/{task}{small}", *" ".join(own).split(), "--data.root=x"]
        init = CheckCLI(args, make=False).config["fit"].data.init_args
        transform = init.transform if isinstance(init.transform, dict) else init.transform.as_dict()
        assert side in (transform.get("size"), transform.get("crop"))


def test_every_module_is_on_the_page():
    from lightning_tl import data

    for name in data.__all__:
        assert name == "RenderedImages" or f"| `{name}` |" in PAGE


def test_defaults_on_the_page():
    from lightning_tl.data.transforms import CropTransform, ResizeTransform, ScaleCropTransform

    rows = {match[1]: match[2] for match in re.finditer(r"\| `(\w+Transform)` \|(.*)\|\n", PAGE)}
    numbers = {name: [int(number) for number in re.findall(r"\d+", row)] for name, row in rows.items()}
    resize, crop, scale = ResizeTransform(), CropTransform(), ScaleCropTransform()
    assert numbers["ResizeTransform"] == [resize.size] * 2
    assert numbers["CropTransform"] == [crop.size, crop.eval_resize, crop.size]
    assert numbers["ScaleCropTransform"] == [*scale.shorter, scale.crop, scale.crop, scale.eval_shorter]
