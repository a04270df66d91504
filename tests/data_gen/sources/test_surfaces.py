"""PBR materials in ambientCG's layout and panoramas: found, hashed, and what is wrong with them."""

import mesh_files
import numpy as np
import pytest

from data_gen.scene_sampler import config_from_dict, sample_scene
from data_gen.sources.surfaces import find_hdris, find_materials
from lightning_tl.errors import UserError


def test_materials_as_they_are_downloaded(tmp_path):
    notes = []
    first, second = find_materials(mesh_files.materials(tmp_path), notes)
    assert (first.name, second.name) == ("Tiles074_1K-JPG/Tiles074_1K-JPG", "Wood051_1K-JPG/Wood051_1K-JPG")
    assert set(first.maps) == {"color", "normalgl", "roughness"}
    assert first.maps["color"].endswith("Tiles074_1K-JPG_Color.jpg")
    assert notes == []
    assert first.sha256 != second.sha256 or first.maps != second.maps


def test_materials_that_cannot_be_used_are_counted(tmp_path):
    mesh_files.materials(tmp_path, ("A", "B", "C"))
    (tmp_path / "A_1K-JPG" / "A_1K-JPG_Color.jpg").unlink()
    (tmp_path / "B_1K-JPG" / "B_1K-JPG_Roughness.jpg").write_bytes(b"\xff\xd8\xff")
    notes = []
    assert [m.name for m in find_materials(tmp_path, notes)] == ["C_1K-JPG/C_1K-JPG"]
    assert "2 of 3 materials cannot be used" in notes[0]
    assert "A_1K-JPG has no A_1K-JPG_Color.jpg" in notes[0]
    assert "B_1K-JPG_Roughness.jpg cannot be decoded" in notes[0]
    (tmp_path / "C_1K-JPG" / "C_1K-JPG_Color.jpg").unlink()
    with pytest.raises(UserError, match=r"'room\.materials': no usable PBR material in .* has no A_1K-JPG_Color"):
        find_materials(tmp_path, [])


@pytest.mark.parametrize("suffix", ["hdr", "exr"])
def test_panoramas(tmp_path, suffix):
    mesh_files.hdri(tmp_path / "sub" / f"sky.{suffix}", level=0.5)
    (panorama,) = find_hdris(tmp_path, [])
    assert panorama.name == f"sub/sky.{suffix}"
    assert panorama.mean == pytest.approx(0.5 * 2.5, rel=0.02)


def test_broken_panoramas(tmp_path):
    good = mesh_files.hdri(tmp_path / "good.hdr")
    (tmp_path / "cut.hdr").write_bytes(good.read_bytes()[:40])
    (tmp_path / "text.exr").write_text("no picture")
    mesh_files.hdri(tmp_path / "square.hdr", 16, 16)
    mesh_files.hdri(tmp_path / "black.hdr", level=0.0)
    notes = []
    assert [h.name for h in find_hdris(tmp_path, notes)] == ["good.hdr"]
    for said in ("4 of 5 panoramas", "cut.hdr cannot be decoded", "text.exr cannot be decoded", "black.hdr is black"):
        assert said in notes[0]
    assert "square.hdr is 16 × 16, but a panorama is twice as wide as high" in notes[0]
    good.unlink()
    with pytest.raises(UserError, match=r"'lights\.hdris': no usable panorama in"):
        find_hdris(tmp_path, [])


@pytest.mark.parametrize("name", ["half.exr", "empty.hdr", "png.hdr"])
def test_panoramas_that_are_cut_or_none(tmp_path, name):
    whole = mesh_files.hdri(tmp_path / "half.exr").read_bytes()
    content = {"half.exr": whole[: len(whole) // 2], "empty.hdr": b"", "png.hdr": b"\x89PNG\r\n\x1a\n" + bytes(50)}
    (tmp_path / "half.exr").unlink()
    (tmp_path / name).write_bytes(content[name])
    with pytest.raises(UserError, match=rf"no usable panorama in .*{name} cannot be decoded: is it complete\?"):
        find_hdris(tmp_path, [])


@pytest.mark.parametrize(("find", "key"), [(find_materials, "room.materials"), (find_hdris, "lights.hdris")])
def test_folders_that_are_none(tmp_path, find, key):
    with pytest.raises(UserError, match=f"'{key}': .*none does not exist"):
        find(tmp_path / "none", [])
    with pytest.raises(UserError, match=f"'{key}': no usable"):
        find(tmp_path, [])


def test_scenes_draw_them(tmp_path):
    mesh_files.materials(tmp_path / "pbr")
    mesh_files.hdri(tmp_path / "hdri" / "a.hdr")
    config = config_from_dict(
        {
            "room": {"walls": 0, "materials": str(tmp_path / "pbr"), "material_share": 0.5},
            "lights": {"hdris": str(tmp_path / "hdri"), "hdri_share": 0.5},
        }
    )
    specs = [sample_scene(config, 0, "train", i) for i in range(40)]
    floors = {s.floor.maps for s in specs}
    assert floors == {"", "Tiles074_1K-JPG/Tiles074_1K-JPG", "Wood051_1K-JPG/Wood051_1K-JPG"}
    assert {s.panorama for s in specs} == {"", "a.hdr"}
    assert all(bool(s.lights) != bool(s.panorama) for s in specs)
    assert np.ptp([s.panorama_turn for s in specs]) > 90


def test_a_fixed_background_has_the_material_that_is_named(tmp_path):
    folder = mesh_files.materials(tmp_path / "pbr", ("Fabric001", "Fabric0012", "Wood051"))

    def config(name, **more):
        room = {"materials": str(folder), "fixed_material": name, "material_scale": [0.4, 1.2]}
        return config_from_dict({"background": "fix", "room": room, **more})

    specs = [sample_scene(config("Fabric001"), 0, "train", i) for i in range(4)]
    assert {(s.floor.maps, s.floor.scale) for s in specs} == {("Fabric001_1K-JPG/Fabric001_1K-JPG", 0.8)}
    assert all(s.walls == s.floor for s in specs)
    # where the background is random, all of them are drawn from
    drawn = {sample_scene(config("Fabric001", background="random"), 0, "train", i).floor.maps for i in range(40)}
    assert len(drawn) == 3
    with pytest.raises(UserError, match=r"'room.fixed_material' is 'Fabric002', which is not in .* did you mean"):
        sample_scene(config("Fabric002"), 0, "train", 0)
