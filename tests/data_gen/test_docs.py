"""The page on rendering: its example is followed word by word from an empty folder, and its table has every key."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import mesh_files
import numpy as np
import pytest
import trimesh
import yaml

from data_gen.render_config import RenderConfig, SourceConfig
from data_gen.scene_sampler import config_from_dict, load_config, sample_scene
from data_gen.sources import open_catalogue
from lightning_tl.cli.main import main
from lightning_tl.cli.parsing import command_parser, parse
from lightning_tl.errors import UserError

ROOT = Path(__file__).parents[2]
COMPLEXITY = ROOT / "configs" / "render" / "complexity"


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs" / "render.md").read_text(encoding="utf-8")


def _blocks(page, kind):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in blocks if name == kind]


@pytest.mark.render
def test_bring_your_own_meshes_word_by_word(page, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    section = page.split("## Your own meshes in five minutes")[1].split("\n## ")[0]
    listing, *commands = _blocks(section, "")
    assert re.findall(r"\S+\.(?:obj|glb|stl)", listing) == ["red_mug.obj", "blue_mug.glb", "clamp.stl"]
    mesh_files.obj(tmp_path / "meshes/mug/red_mug.obj", (0.1, 0.1, 0.12), "red_mug.mtl", "red_mug.png")
    mesh_files.glb(tmp_path / "meshes/mug/blue_mug.glb")
    mesh_files.bare(tmp_path / "meshes/clamp/clamp.stl", trimesh.creation.annulus(0.2, 0.5, 0.4))
    (tmp_path / "mine.yaml").write_text(_blocks(section, "yaml")[0])
    lines = [line for block in commands for line in block.splitlines()]
    assert [shlex.split(line)[:2] for line in lines] == [
        ["lightning-tl", "render"],
        ["lightning-tl", "dataset"],
        ["lightning-tl", "render"],
    ]
    for line in lines:
        assert main(shlex.split(line)[1:]) in (0, None)
    assert (tmp_path / "renders/mine/preview.png").stat().st_size > 10_000
    manifest = json.loads((tmp_path / "renders/mine/train/manifest.json").read_text())
    assert manifest["images"] == 16
    assert manifest["categories"] == {"17": "mug", "1001": "clamp"}
    command = "python -m data_gen.reproduce renders/mine --split train --scene 10"
    assert command in page
    again = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout[: again.stdout.rindex("}") + 1])["scene"] == 10
    assert len(list((tmp_path / "renders/mine/reproduced").glob("train-0000010-*.rgb.png"))) == 4
    assert "note:" not in capfd.readouterr().err


def test_the_configurations_on_the_page_are_valid(page):
    blocks = _blocks(page, "yaml")
    assert len(blocks) >= 3
    for block in blocks:
        config_from_dict(yaml.safe_load(block))


def _keys(kind, value, prefix):
    for item in dataclasses.fields(kind):
        default = getattr(value, item.name)
        if dataclasses.is_dataclass(default):
            yield from _keys(type(default), default, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", default


def test_every_key_is_on_the_page_with_its_default(page):
    table = page.split("## All keys")[1]
    for key, default in [*_keys(RenderConfig, RenderConfig(), ""), *_keys(SourceConfig, SourceConfig(), "")]:
        shown = re.findall(rf"^\| `{re.escape(key)}` \| (.*?) \|", table, flags=re.MULTILINE)
        plain = list(default) if isinstance(default, tuple) else default
        text = "empty" if plain in ("", [], None) else f"`{plain if isinstance(plain, str) else json.dumps(plain)}`"
        assert text in shown, key


def test_the_eight_settings_differ_in_four_keys_and_are_those_on_the_page(page):
    four = ("texture", "appearance", "light", "background")
    settings = {path.stem: load_config(path) for path in sorted(COMPLEXITY.glob("*.yaml"))}
    assert len(settings) == 8
    rest = set()
    for name, config in settings.items():
        assert name == "-".join(getattr(config, key) for key in four)
        assert f"`{name}`" in page
        rest.add(json.dumps({k: v for k, v in dataclasses.asdict(config).items() if k not in four}))
        spec = sample_scene(config, 0, "train", 3)
        assert len(spec.cameras) == 10
        assert sorted(lamp.kind for lamp in spec.lights) == ["AREA", "POINT"]
        assert spec.walls is not None
        assert len(spec.objects) == (1 if config.appearance == "single" else 10)
    assert len(rest) == 1


BOP = {
    "hb": 33,
    "icbin": 2,
    "icmi": 6,
    "itodd": 28,
    "lm": 15,
    "ruapc": 14,
    "tless": 30,
    "tudl": 3,
    "tyol": 21,
    "ycbv": 21,
}


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The ten data sets of BOP and three of ambientCG's materials in their layouts, where the study expects them."""
    root = tmp_path_factory.mktemp("paper")
    for name, objects in BOP.items():
        mesh_files.bop(root / "bop" / name, range(1, objects + 1), textured=False)
    mesh_files.materials(root / "ambientcg", ("Fabric001", "Tiles074", "Wood051"))
    return root


@pytest.mark.parametrize("setting", sorted(path.stem for path in COMPLEXITY.glob("*.yaml")))
def test_the_papers_objects_and_materials_lie_over_each_setting(setting, paper, monkeypatch):
    """Through the command's own parser: 173 objects, 58 without texture; ten per scene; all equally frequent."""
    monkeypatch.chdir(paper)
    parser = command_parser("render", "")
    parser.add_class_arguments(RenderConfig)
    arguments = [f"--config=render/complexity/{setting}", "--config=render/bop"]
    settings = parser.instantiate_classes(parse(parser, arguments))
    config = RenderConfig(**{name: settings[name] for name in RenderConfig.__dataclass_fields__})
    catalogue = open_catalogue(config)
    texture, appearance, _, background = setting.split("-")
    assert len(catalogue.categories) == (173 if texture == "with" else 58)
    specs = [sample_scene(config, 0, "train", scene, catalogue) for scene in range(30)]
    assert {len(spec.objects) for spec in specs} == {1 if appearance == "single" else 10}
    assert all(0.05 < thing.size < 0.2 for spec in specs for thing in spec.objects)  # the files' own sizes
    materials = {spec.floor.maps.split("_")[0] for spec in specs}
    assert materials == ({"Fabric001"} if background == "fix" else {"Fabric001", "Tiles074", "Wood051"})
    sources = np.bincount([thing.mesh.source for spec in specs for thing in spec.objects], minlength=10)
    share = np.array(list(BOP.values())) * [name in ("tless", "itodd") or texture == "with" for name in BOP]
    expected = sources.sum() * share / share.sum()
    assert (np.abs(sources - expected) <= 4 * np.sqrt(expected + 0.25)).all()


def test_missing_objects_of_the_paper_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_from_dict(yaml.safe_load((ROOT / "configs/render/bop.yaml").read_text()))
    with pytest.raises(UserError, match=r"'sources\[0\].path': bop/hb does not exist; relative paths are from"):
        open_catalogue(config)
