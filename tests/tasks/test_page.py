"""The page on tasks: its code runs and learns, its recipes and keys are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
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

    places = torch.rand(16, 2, 2)
    places[0, 0] = torch.nan
    points = names["KeyPoints"](2, backbone="resnet10_w16", init_from=checkpoint)
    data = DataLoader(TensorDataset(images(), places), 8)
    run = trainer(tmp_path, max_steps=8)
    run.fit(points, data, data)
    (result,) = run.test(points, data, verbose=False)
    assert result["test/loss"] < 0.5
    assert 0 <= result["test/score"] <= 1


def test_recipes_and_keys_of_the_page_exist():
    for name in re.findall(r"`((?:pretrain|finetune)/\w+)`", PAGE):
        assert (ROOT / "configs" / f"{name}.yaml").is_file()
        assert (ROOT / "configs" / f"{name}_small.yaml").is_file() or name.endswith("_small")
    keys = SurfaceNormals(3, backbone="resnet10_w16").build_metric()
    keys.update(torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2) / 3**0.5)
    assert all(f"`<stage>/{name}`" in PAGE for name in keys.compute() if name != "score")
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    settings = yaml.safe_load(block)["model"]["init_args"]["schedule"]["init_args"]
    assert Polynomial(**settings).steps(32) == (125_000, 0)
