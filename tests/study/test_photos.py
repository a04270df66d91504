"""The showcase on photos: the page's snippet makes the folder, and the study starts from it."""

from __future__ import annotations

import csv
import hashlib
import pickle
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from shipped import kinds, parsed, planned, read
from study.small_study import run
from torchvision.datasets import CIFAR10

from lightning_tl.cli import study as command
from lightning_tl.data import ImageFolder
from lightning_tl.errors import UserError
from lightning_tl.study.expansion import expand
from lightning_tl.study.plan import data_sets

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/photos.md").read_text(encoding="utf-8")
(SNIPPET,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
CHANGES = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SETTINGS = yaml.safe_load((ROOT / "configs/study/photos_small.yaml").read_text())


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Files as CIFAR-10's archive holds them, of noise; the images of a class have a red of 20 times its number."""
    folder = tmp_path / "downloads" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, content: object) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(name: str, of_each: int) -> tuple[str, str]:
        labels = rng.permutation(np.repeat(np.arange(10), of_each))
        data = rng.integers(0, 256, (len(labels), 3, 32, 32), np.uint8)
        data[:, 0] = 20 * labels[:, None, None]
        return write(name, {"data": data.reshape(len(labels), -1), "labels": labels.tolist()})

    monkeypatch.setattr(CIFAR10, "train_list", [list(batch(f"data_batch_{i}", 14)) for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [list(batch("test_batch", 62))])
    name, digest = write("batches.meta", {"label_names": NAMES})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_study_starts_from_the_folder_that_the_snippet_makes(cifar, capsys):
    exec(SNIPPET, {})
    for split in ("train", "val"):
        assert sorted(path.name for path in (cifar / "photos" / split).iterdir()) == NAMES
        for number, name in enumerate(NAMES):
            files = sorted((cifar / "photos" / split / name).iterdir())
            assert len(files) == 60
            pixels = np.asarray(Image.open(files[7]))
            assert pixels.shape == (32, 32, 3)
            assert (pixels[..., 0] == 20 * number).all()
    own = {key.removeprefix("data."): value for key, value in SETTINGS["finetune"]["set"].items()}
    data = ImageFolder(Path(own["root"]), val_share=own["val_share"], fraction=own["fraction"], batch_size=32)
    for stage in ("fit", "test"):
        data.setup(stage)
    numbers = {name: len(split) for name, split in data.splits.items()}
    assert numbers == {"train": 210, "val": 180, "test": 600}
    assert "210 to train on, 180 for validation, 600 for the test" in PAGE
    assert command.main(["run", "--config=study/photos_small", f"--out={cifar / 'out'}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "shapes-plain: " in said
    assert "10 pre-trainings" in said
    assert "33 fine-tunings" in said


def write_photos(folder: Path, side: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("mug", "vase"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")


def test_without_photos_the_message_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data\.root is photos: no such folder in"):
        command.main(["run", "--config=study/photos_small", "--out=out", "--dry-run"])


@pytest.mark.slow
@pytest.mark.parametrize("changes", map(yaml.safe_load, CHANGES), ids=lambda each: str(each["render"]["set"]))
def test_the_changes_for_larger_photos(changes, tmp_path, monkeypatch, capsys):
    """The study with them is checked whole, and renders, pre-training and photos are then of one size."""
    monkeypatch.chdir(tmp_path)
    side = changes["render"]["set"]["image.size"]
    write_photos(tmp_path / "photos", side + 10)
    settings = yaml.safe_load((ROOT / "configs/study/photos_small.yaml").read_text())
    for stage in changes:
        settings[stage]["set"] |= changes[stage]["set"]
    Path("study.yaml").write_text(yaml.safe_dump(settings))
    assert command.main(["run", "--config=study.yaml", "--out=out", "--dry-run"]) == 0
    assert "nothing was run" in capsys.readouterr().out
    assert {each.config["image"]["size"] for each in data_sets(expand(read("study.yaml")))} == {side}
    for each in kinds(planned(read("study.yaml"), tmp_path / "planned")):
        transform = parsed(each.args)["data"]["init_args"]["transform"]
        assert transform.get("init_args", transform)["size"] == side


@pytest.mark.render
@pytest.mark.slow
def test_the_study_small(tmp_path):
    """Tiny sizes from a folder without splits: rendered, pre-trained, fine-tuned, and reported."""
    write_photos(tmp_path / "photos", 32)
    settings = yaml.safe_load((ROOT / "configs/study/photos_small.yaml").read_text())
    settings["render"]["set"] |= {"image.samples": 1, "camera.views": 2, "scenes_per_shard": 4}
    settings["render"]["val_images"] = 8
    short = {"images": 64, "warmup_images": 16, "batch": 16}
    for stage in ("pretrain", "finetune"):
        settings[stage]["set"] |= {"model.schedule.init_args": short, "data.batch_size": 16, "data.steps_per_epoch": 2}
    settings["pretrain"]["product"]["data.n"] = [8, 16, 32, 64]
    settings["finetune"]["set"]["data.root"] = str(tmp_path / "photos")
    settings["finetune"]["zip"] = [{"data.draw": [0, 1], "seed_everything": [0, 1]}]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings | {"workers": 2}))
    done = subprocess.run(run(tmp_path / "study.yaml", tmp_path / "out"), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/results.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 2 * (4 + 1) * 2  # scratch stands once for each rendering
    assert {row["render"] for row in found} == {"shapes-plain", "shapes"}
    assert {row["finetune_images"] for row in found} == {
        "12"
    }  # of 20 two are the test and six validation; half of the rest
    assert "Does pre-training on rendered objects help" in (tmp_path / "out/report.html").read_text()
