"""The page on tasks: its code runs and learns, its recipes and keys are there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tasks.toy import SIDE, trainer
from torch.utils.data import DataLoader, TensorDataset

from lightning_tl.models import build_backbone
from lightning_tl.tasks import Polynomial, SurfaceNormals

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
pytestmark = pytest.mark.filterwarnings("ignore")


def images(number=16):
    return torch.rand(number, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def depths(number=16):
    """Brighter is nearer; the upper rows are unknown."""
    pictures = images(number) * torch.linspace(0.2, 1, number).view(-1, 1, 1, 1)
    metres = 1 + 4 * (1 - pictures.mean((1, 2, 3), keepdim=True)[:, 0].expand(-1, SIDE, SIDE).clone())
    metres[:, :5] = 0
    return DataLoader(TensorDataset(pictures, metres), 8)


def test_the_pages_code_runs(tmp_path, capsys):
    torch.manual_seed(0)
    checkpoint = tmp_path / "a.ckpt"
    torch.save(build_backbone("resnet18").state_dict(), checkpoint)
    names = {"checkpoint": checkpoint, "depth_loader": depths(), "trainer": trainer(tmp_path, max_steps=64)}
    loading, key_points, depth, use = BLOCKS
    exec(loading, names)
    assert "120 matched, 0 missing" in capsys.readouterr().out
    torch.save(build_backbone("resnet10_w16").state_dict(), checkpoint)
    for block in (key_points, depth, use):
        exec(block, names)
    task, losses = names["task"], []
    for net in (task, names["Depth"](1, backbone="resnet10_w16", output_stride=16)):
        net.eval()
        pictures, metres = next(iter(depths()))
        with torch.no_grad():
            losses.append(float(net.loss(net(pictures), metres)))
    assert losses[0] < 0.5 * losses[1]  # trained, and not
    assert 0 < float(names["trainer"].callback_metrics["test/score"]) <= 1


def photos_with_points(folder: Path, number: int = 60) -> Path:
    """Grey photos with a red and a blue spot, which are the key points; some have only one."""
    rng, points = np.random.default_rng(0), {}
    for index in range(number):
        height, width = rng.integers(60, 90, 2)
        pixels = np.full((height, width, 3), 90, np.uint8)
        places: list = []
        for channel in (0, 2):
            y, x = rng.integers(8, height - 8), rng.integers(8, width - 8)
            pixels[y - 6 : y + 6, x - 6 : x + 6] = 0
            pixels[y - 6 : y + 6, x - 6 : x + 6, channel] = 255
            places.append([float(x), float(y)])
        points[f"{index:03d}.png"] = [places[0], None if index % 10 == 0 else places[1]]
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    (folder / "points.json").write_text(json.dumps(points))
    return folder


@pytest.mark.slow
def test_the_pages_key_points_train_from_the_command_line(tmp_path):
    """The page's file and its command, from the folder of the file; it learns where the spots are on average."""
    (tmp_path / "my_keypoints.py").write_text(BLOCKS[1])
    (tmp_path / "photos").mkdir()
    photos_with_points(tmp_path / "photos")
    checkpoint = tmp_path / "runs/pre/checkpoints/best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save(build_backbone("resnet10_w16").state_dict(), checkpoint)
    (block,) = re.findall(r"```\n(lightning-tl fit --config finetune/own_task_small.*?)```", PAGE, re.S)
    command, then = block.replace("\\\n", " ").replace("'[0.6, 1.0]'", "[0.6,1.0]").splitlines()
    words = command.split()[1:]
    more = ["--model.optimizer=AdamW", "--model.optimizer.lr=0.003"]
    more += ["--trainer.max_steps=60", "--data.steps_per_epoch=30"]
    files = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
    (own,) = [content for content in files if "my_keypoints" in str(content)]
    (tmp_path / "my_keypoints.yaml").write_text(yaml.safe_dump(own))  # lies over the recipe, with its callback
    at = words.index("finetune/own_task_small") + 1

    def run(*words):
        return subprocess.run(
            [Path(sys.executable).with_name("lightning-tl"), *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=500,
        )

    fitted = run(*words[:at], "--config=my_keypoints.yaml", *words[at:], *more)
    assert fitted.returncode == 0, fitted.stderr
    assert "saved: runs/points/checkpoints/last.ckpt" in fitted.stdout + fitted.stderr
    assert "sensitivity/gamma_0.01" in (tmp_path / "runs/points/metrics.csv").read_text()
    pictured = run(*then.split()[1:])
    assert pictured.returncode == 0, pictured.stderr
    assert Image.open(tmp_path / "runs/points/predictions.png").width > 500
    table = next((tmp_path / "runs/points").rglob("metrics.csv")).read_text().splitlines()
    column = table[0].split(",").index("val/loss")
    losses = [float(value) for row in table[1:] if (value := row.split(",")[column])]
    assert losses[-1] < 0.3  # the first outputs, near 0, are half a side away from the middle


def test_recipes_and_keys_of_the_page_exist():
    for name in re.findall(r"`((?:pretrain|finetune)/\w+)`", PAGE):
        assert (ROOT / "configs" / f"{name}.yaml").is_file()
        assert (ROOT / "configs" / f"{name}_small.yaml").is_file() or name.endswith("_small")
    keys = SurfaceNormals(3, backbone="resnet10_w16").build_metric()
    keys.update(torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2) / 3**0.5)
    assert all(f"`<stage>/{name}`" in PAGE for name in keys.compute() if name != "score")
    block = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0]
    settings = yaml.safe_load(block)["model"]["init_args"]["schedule"]["init_args"]
    assert Polynomial(**settings).steps(32) == (125_000, 0)
