"""The page on the format of shards, against a shard that Blender has just rendered."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_gen.farm import render
from data_gen.scene_sampler import config_from_dict
from data_gen.shard_writer import read_shard

PAGE = (Path(__file__).parents[3] / "docs" / "shards.md").read_text()
pytestmark = pytest.mark.render

CONFIG = config_from_dict(
    {
        "categories": ["mug", "gear", "cylinder"],
        "objects": {"count": [2, 3]},
        "camera": {"views": 2},
        "image": {"size": 64, "height": 48, "samples": 1, "bounces": 0, "depth": True},
        "scenes_per_shard": 2,
    }
)


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "set"
    render(CONFIG, out, 4, 0, 1)
    return out / "train"


@pytest.fixture(scope="module")
def members(split: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for name, content in read_shard(split / "shards" / "000000.tar"):
        key, _, kind = name.partition(".")
        found.setdefault(key, {})[kind] = content
    return found


def pixels(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)))


def first_column(heading: str) -> list[str]:
    """The names in the first column of the tables below a heading."""
    text = PAGE.split(heading, 1)[1].split("\n## ", 1)[0]
    return [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]


def test_manifest(split: Path) -> None:
    manifest = json.loads((split / "manifest.json").read_text())
    named = {name for row in first_column("# The format") for name in re.findall(r"`(\w+)`", row)}
    assert manifest.keys() | {"skipped"} == named
    assert (manifest["format"], manifest["format_version"]) == ("lightning-tl render", 1)
    assert manifest["image_size"] == [48, 64]
    assert sorted(manifest["categories"].values()) == ["cylinder", "gear", "mug"]
    assert all(int(number) > 0 for number in manifest["categories"])
    (shard,) = manifest["shards"]
    assert all(f'"{key}"' in PAGE for key in shard)
    assert shard["scenes"] == [0, 2]


def test_members(members: dict[str, dict[str, bytes]]) -> None:
    assert list(members) == ["0000000-00", "0000000-01", "0000001-00", "0000001-01"]
    named = {re.match(r" `\d{7}-\d\d\.([\w.]+)`", row)[1] for row in first_column("## Members")}
    for view in members.values():
        assert view.keys() == named
        assert pixels(view["rgb.png"]).dtype == pixels(view["normal.png"]).dtype == np.uint8
        for kind in ("category.png", "instance.png", "depth.png"):
            assert pixels(view[kind]).shape == (48, 64)
            assert Image.open(io.BytesIO(view[kind])).mode == "I;16"


def test_labels(members: dict[str, dict[str, bytes]]) -> None:
    keys = set()
    for view in members.values():
        labels = json.loads(view["json"])
        keys |= labels.keys() | {f"objects[].{key}" for item in labels["objects"] for key in item}
        keys |= {f"camera.{key}" for key in labels["camera"]}
        instance, category = pixels(view["instance.png"]), pixels(view["category.png"])
        assert labels["size"] == [48, 64]
        assert labels["labels"] == sorted(set(np.unique(category)) - {0})
        assert {item["instance"] for item in labels["objects"]} == set(np.unique(instance)) - {0}
        for item in labels["objects"]:
            own = instance == item["instance"]
            rows, columns = np.nonzero(own)
            x, y, width, height = item["bbox"]
            assert (x, y, x + width - 1, y + height - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
            assert item["area"] == own.sum()
            assert set(np.unique(category[own])) == {item["category"]}
            assert 0 < item["visible_fraction"] <= 1
    named: set[str] = set()
    for row in first_column("## Labels"):
        names = re.findall(r"`([\w.\[\]]+)`", row)
        named |= {f"objects[]{name}" if name.startswith(".") else name for name in names}
    assert keys - {"camera"} == named


def test_depth_camera_and_normals_fit_together(split: Path, members: dict[str, dict[str, bytes]]) -> None:
    """By the page's code: the floor is z = 0, and its normal, turned into the world, points up."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "def points_of" in block]
    names: dict = {}
    exec(code, names)
    floors = 0
    for key, view in members.items():
        points = names["points_of"](split / "shards" / "000000.tar", key)
        normals = pixels(view["normal.png"]).astype(float) / 127.5 - 1
        labels = json.loads(view["json"])
        turn = np.array(labels["camera"]["world_to_camera"])[:3, :3]
        world = (normals * [1, -1, -1]) @ turn
        up = world[..., 2] > 0.97
        background = pixels(view["category.png"]) == 0
        floor = background & (np.abs(points[..., 2]) < 0.05)
        # a pixel's sample lies anywhere in it, so its edge and far floors are blurred
        if floor.sum() > 100:
            floors += 1
            assert up[floor].mean() > 0.9
            assert np.median(np.abs(points[floor][:, 2])) < 0.01
        # objects stand on the floor, not below it
        assert np.nanmin(points[~background][:, 2], initial=0) > -0.1
    assert floors


def test_a_surface_towards_the_camera_is_stored_as_the_page_says(members: dict[str, dict[str, bytes]]) -> None:
    """Every visible surface faces the camera: n · (direction to the camera) > 0."""
    for view in members.values():
        stored = pixels(view["normal.png"])
        K = np.array(json.loads(view["json"])["camera"]["K"])
        v, u = np.indices(stored.shape[:2])
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T
        towards = -rays * [1, -1, -1]
        normals = stored.astype(float) / 127.5 - 1
        known = (stored != 128).any(-1)
        assert ((normals * towards).sum(-1)[known] > -0.1).mean() > 0.97
