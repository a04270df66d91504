"""Good sets pass; each planted fault is named, with its file and key."""

from __future__ import annotations

import json
import math
import shutil
import tarfile

import numpy as np
import pytest
from rendered_set import edit_manifest, labels, pixels, png, read, rewrite

from lightning_tl.cli.main import main
from lightning_tl.inspection.faults import FAULTS, REMARKS
from lightning_tl.inspection.validate import validate

KEY = "0000010-01"
SHARD = "train/shards/000001.tar"


def first(change):
    """Edit the first object of an image's labels."""
    return labels(KEY, lambda content: change(content["objects"][0]))


def on_members(change):
    return lambda root: rewrite(root, change)


def drop(name):
    return on_members(lambda members: members.pop(f"{KEY}.{name}"))


def put(**values):
    return on_members(first(lambda thing: thing.update(values)))


def replace(**values):
    return on_members(labels(KEY, lambda content: content.update(values)))


def camera(**values):
    return on_members(labels(KEY, lambda content: content["camera"].update(values)))


def paint(name, change):
    return on_members(pixels(f"{KEY}.{name}", change))


def rename(members):
    for name in [name for name in members if name.startswith(KEY)]:
        members[name.replace(KEY, "0000099-01")] = members.pop(name)


def dim(array):
    """The same image, a few pixels a grey level lighter."""
    array[::3] += array[::3] < 255


def copied(to, of):
    def edit(members):
        members[f"{to}.rgb.png"] = members[f"{of}.rgb.png"]
        pixels(f"{to}.rgb.png", dim)(members)

    return on_members(edit)


def across(root):
    source = read(root / "train/shards/000001.tar")[f"{KEY}.rgb.png"]
    rewrite(root, lambda members: members.update({"0000003-00.rgb.png": source}), "000000", "val")


def one_object_without_a_pixel(members):
    content = json.loads(members[f"{KEY}.json"])
    content["objects"].append(content["objects"][0] | {"instance": 9, "area": 0})
    members[f"{KEY}.json"] = json.dumps(content).encode()


def unlisted(members):
    content = json.loads(members[f"{KEY}.json"])
    content["objects"].pop()
    content["labels"] = sorted({thing["category"] for thing in content["objects"]})
    members[f"{KEY}.json"] = json.dumps(content).encode()


def broken_bytes(members):
    name = f"{KEY}.normal.png"
    members[name] = members[name][: len(members[name]) // 2]


def backwards(members):
    """Normals away from a camera of a usual field of view."""
    pixels(f"{KEY}.normal.png", lambda array: np.zeros_like(array) + np.uint8([128, 128, 0]))(members)
    k = [[40, 0, 15.5], [0, 40, 15.5], [0, 0, 1]]
    labels(KEY, lambda content: content["camera"].update(K=k))(members)


def truncate(root):
    path = root / SHARD
    path.write_bytes(b"x" * 2048)


def flip_a_byte(root):
    path = root / SHARD
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the padding: nothing else notices
    path.write_bytes(content)


def add_a_category(root):
    for split in ("train", "val"):
        edit_manifest(root, lambda manifest: manifest["categories"].update({"7": "ring"}), split)


def without_objects(members):
    content = json.loads(members[f"{KEY}.json"])
    content.update(objects=[], labels=[])
    members[f"{KEY}.json"] = json.dumps(content).encode()
    for name in ("category.png", "instance.png"):
        pixels(f"{KEY}.{name}", np.zeros_like)(members)


def at_the_edge(members):
    """The first object's mask moved to the left edge, labels with it."""
    content = json.loads(members[f"{KEY}.json"])
    x = content["objects"][0]["bbox"][0]
    for thing in content["objects"]:
        thing["bbox"][0] -= x
    content["objects"][0].update(visible_fraction=0.1)
    members[f"{KEY}.json"] = json.dumps(content).encode()
    for name in ("category.png", "instance.png", "normal.png"):
        pixels(f"{KEY}.{name}", lambda array: np.roll(array, -x, 1))(members)


def floating(height):
    """A square in front of a camera at height 1 m that looks along world y; its middle is at that height."""

    def edit(members):
        side, focal = 32, 20.0
        instance = np.zeros((side, side), np.uint16)
        depth = np.full((side, side), 4000, np.uint16)
        y = round((1 - height) * focal / 2 + 15.5)
        instance[y - 1 : y + 2, 14:18] = 1
        depth[instance == 1] = 2000
        normal = np.full((side, side, 3), 128, np.uint8)
        normal[..., 2] = 255
        thing = {"instance": 1, "category": 1, "name": "disc", "bbox": [14, y - 1, 4, 3], "area": 12}
        content = json.loads(members[f"{KEY}.json"])
        content.update(objects=[thing | {"visible_fraction": 1.0}], labels=[1])
        k = [[focal, 0, 15.5], [0, focal, 15.5], [0, 0, 1]]
        pose = [[1, 0, 0, 0], [0, 0, -1, 1], [0, 1, 0, 0], [0, 0, 0, 1]]
        content["camera"] = {"K": k, "world_to_camera": pose}
        members[f"{KEY}.json"] = json.dumps(content).encode()
        for name, array in (("category", instance), ("instance", instance), ("normal", normal), ("depth", depth)):
            members[f"{KEY}.{name}.png"] = png(array)

    return on_members(edit)


PLANTED = {
    "shard-missing": (lambda root: (root / SHARD).unlink(), "000001.tar"),
    "shard-hash": (flip_a_byte, "000001.tar"),
    "shard-unreadable": (truncate, "000001.tar"),
    "shard-count": (
        lambda root: edit_manifest(root, lambda manifest: manifest["shards"][1].update(images=15)),
        "000001.tar",
    ),
    "ids": (on_members(rename), "0000099-01"),
    "member-missing": (drop("category.png"), KEY),
    "undecodable": (on_members(broken_bytes), KEY),
    "size": (paint("instance.png", lambda array: array[:20]), KEY),
    "label-format": (on_members(first(lambda thing: thing.pop("bbox"))), KEY),
    "unknown-category": (put(category=3), KEY),
    "labels": (replace(labels=[]), KEY),
    "no-pixels": (on_members(one_object_without_a_pixel), KEY),
    "unlisted-instance": (on_members(unlisted), KEY),
    "box": (on_members(first(lambda thing: thing["bbox"].__setitem__(0, thing["bbox"][0] + 1))), KEY),
    "area": (on_members(first(lambda thing: thing.update(area=thing["area"] - 1))), KEY),
    "category-mask": (paint("category.png", np.zeros_like), KEY),
    "visible-fraction": (put(visible_fraction=1.2), KEY),
    "camera": (camera(world_to_camera=(2 * np.eye(4)).tolist()), KEY),
    "empty": (paint("rgb.png", lambda array: np.full_like(array, 70)), KEY),
    "normal-length": (paint("normal.png", lambda array: np.full_like(array, 250)), KEY),
    "normal-facing": (on_members(backwards), KEY),
    "normal-missing": (paint("normal.png", lambda array: np.full_like(array, 128)), KEY),
    "near-duplicate": (copied(KEY, "0000012-00"), "0000012-00"),
    "leak": (across, "0000003-00"),
    "rare": (add_a_category, "category 7 (ring)"),
    "extra-file": (lambda root: (root / "train/shards/000009.tar").write_bytes(b""), "000009.tar"),
    "no-object": (on_members(without_objects), KEY),
    "clipped": (on_members(at_the_edge), KEY),
    "hidden": (put(visible_fraction=0.01), KEY),
    "hovering": (floating(0.6), KEY),
}


#: what else a fault brings with it
FOLLOW = {
    "shard-missing": {"never-seen"},
    "shard-unreadable": {"shard-hash", "shard-count", "never-seen"},
    "unlisted-instance": {"no-object", "category-mask", "never-seen", "rare"},
    "no-pixels": {"hidden"},
    "unknown-category": {"category-mask", "labels"},
    "size": {"category-mask"},
    "hovering": {"normal-missing"},
}


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_fault_is_named_and_nothing_else(own_renders, tmp_path, capsys, code):
    plant, where = PLANTED[code]
    plant(own_renders)
    file = tmp_path / "faults.json"
    status = main(["dataset", "validate", str(own_renders), "--workers=1", f"--out={file}"])
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.split()[:2] in (["fault", code], ["remark", code])]
    examples = out[out.index(line) :].splitlines()[1:4]
    assert any(where in example and str(own_renders) in example for example in examples), out
    assert (FAULTS | REMARKS)[code] in line
    assert {fault["code"] for fault in json.loads(file.read_text())["faults"]} - {code} <= FOLLOW.get(code, set())
    assert status == int(code in FAULTS)
    if code in REMARKS:
        assert main(["dataset", "validate", str(own_renders), "--workers=1", "--strict"]) == 1


def test_a_good_set_passes(renders, capsys):
    assert main(["dataset", "validate", str(renders), "--strict"]) == 0
    out = capsys.readouterr().out
    assert "train: 60 images" in out
    assert "val: 24 images" in out
    assert out.splitlines()[-1] == "no faults, 0 remarks"
    assert main(["dataset", "validate", str(renders / "val"), "--strict"]) == 0
    assert "train:" not in capsys.readouterr().out


def test_an_object_on_the_floor_does_not_hover(own_renders):
    floating(0.08)(own_renders)
    assert not validate(own_renders).faults


def test_all_is_in_the_json(own_renders, tmp_path):
    rewrite(own_renders, first(lambda thing: thing.update(area=1)))
    out = tmp_path / "faults" / "faults.json"
    assert main(["dataset", "validate", str(own_renders), f"--out={out}"]) == 1
    report = json.loads(out.read_text())
    (fault,) = report["faults"]
    assert fault["code"] == "area"
    assert fault["key"] == KEY
    assert fault["file"].endswith(SHARD)
    assert fault["serious"]
    assert report["images"] == {"train": 60, "val": 24}
    assert set(report["objects"]["train"]) == {"disc", "bar", "frame"}


def test_more_processes_find_the_same(own_renders, monkeypatch):
    rewrite(own_renders, first(lambda thing: thing.update(area=1)))
    alone = validate(own_renders, workers=1)
    monkeypatch.setattr("lightning_tl.inspection.validate._ALONE", 0)
    assert validate(own_renders, workers=2) == alone


def test_an_image_twice_in_a_shard(own_renders):
    path = own_renders / SHARD
    content = read(path)[f"{KEY}.json"]
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(f"{KEY}.json")
        info.size = len(content)
        import io

        archive.addfile(info, io.BytesIO(content))
    faults = validate(own_renders).faults
    assert {fault.code for fault in faults} == {"shard-hash", "ids"}
    assert f"{KEY}.json is there twice" in " ".join(map(str, faults))


def test_imbalance():
    from collections import Counter
    from pathlib import Path

    from lightning_tl.data.rendered_images import Manifest
    from lightning_tl.inspection.validate import _balance

    manifest = Manifest(Path("x"), "train", {1: "a", 2: "b", 3: "c", 4: "d"}, (8, 8), [])
    (fault,) = _balance(manifest, Counter({1: 100, 2: 100, 3: 100, 4: 9}))
    assert fault.code == "imbalance"
    assert fault.detail == "category 4 (d) has 9 objects, the median category 100"
    assert not list(_balance(manifest, Counter({1: 100, 2: 100, 3: 100, 4: 11})))
    (fault,) = _balance(manifest, Counter({1: 100, 2: 100, 3: 100}))
    assert fault.code == "never-seen"
    assert "category 4 (d) is in none of" in fault.detail
    # of seven objects one in four categories is often missing
    assert [fault.code for fault in _balance(manifest, Counter({1: 3, 2: 2, 3: 2}))] == ["rare"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["validate", "{root}/nowhere"], "nowhere/train/manifest.json: no such file"),
        (["validate", "{root}", "--workers=0"], "--workers is 0; it must be at least 1"),
        (["validate", "{root}", "--examples=0"], "--examples is 0; it must be at least 1"),
        (["validate"], "required: root"),
    ],
)
def test_wrong_arguments(renders, capsys, arguments, message):
    assert main(["dataset", *(text.format(root=renders) for text in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_manifest_with_wrong_scenes(own_renders, capsys):
    edit_manifest(own_renders, lambda manifest: manifest["shards"][0].update(scenes=["a"]))
    assert main(["dataset", "validate", str(own_renders)]) == 2
    assert "manifest.json: shard 000000 has scenes ['a'], views_per_scene is 2" in capsys.readouterr().err


LABELS = [
    (lambda content: content.update(scene="a"), "scene is 'a'"),
    (lambda content: content.update(size=[1]), "size is [1]"),
    (lambda content: content.update(objects={}), "objects is {}, not a list"),
    (lambda content: content.update(labels=["a"]), "labels are ['a'], not category ids"),
    (lambda content: content.update(objects=[3]), "objects[0] is 3"),
    (lambda content: content.pop("camera"), "no key 'camera'"),
    (lambda content: content["objects"][0].update(area=-1), "objects[0].area is -1"),
    (lambda content: content["objects"][0].update(bbox=[1, 2]), "objects[0].bbox is [1, 2], not four whole numbers"),
    (lambda content: content["objects"][0].update(visible_fraction=None), "objects[0].visible_fraction is None"),
    (lambda content: content["camera"].pop("K"), "camera: KeyError: 'K'"),
    (lambda content: content.update(camera=3), "camera: TypeError"),
]


@pytest.mark.parametrize("change,message", LABELS)
def test_malformed_labels(own_renders, change, message):
    rewrite(own_renders, labels(KEY, change))
    (fault,) = [fault for fault in validate(own_renders).faults if fault.code == "label-format"]
    assert message in str(fault)


@pytest.mark.parametrize(
    "camera,message",
    [
        ({"K": [[1]]}, "K is of shape [1, 1]"),
        ({"K": (-np.eye(3)).tolist()}, "focal lengths must be above 0"),
        ({"K": [[math.nan, 0, 0], [0, 1, 0], [0, 0, 1]]}, "not finite"),
        ({"world_to_camera": np.diag([1, 1, -1, 1]).tolist()}, "not a rotation and a shift"),
    ],
)
def test_wrong_cameras(own_renders, camera, message):
    rewrite(own_renders, labels(KEY, lambda content: content["camera"].update(camera)))
    (fault,) = validate(own_renders).faults
    assert fault.code == "camera"
    assert message in fault.detail


@pytest.mark.parametrize(
    "change,code,message",
    [
        (lambda members: members.update({f"{KEY}.json": b"{"}), "undecodable", f"{KEY}.json: Expecting"),
        (lambda members: members.update({f"{KEY}.json": b"[]"}), "label-format", "a list, not an object"),
        (lambda members: members.update({f"{KEY}.rgb.png": b"no"}), "undecodable", f"{KEY}.rgb.png: cannot identify"),
        (lambda members: members.pop(f"{KEY}.rgb.png"), "member-missing", f"no {KEY}.rgb.png or {KEY}.rgb.jpg"),
        (pixels(f"{KEY}.rgb.png", lambda array: array[:9]), "size", f"{KEY}.rgb.png is 9 x 32, not 32 x 32"),
        (labels(KEY, lambda content: content.update(size=[9, 9])), "size", "says [9, 9], not [32, 32]"),
        (labels(KEY, lambda content: content.update(view=0)), "ids", "says scene 10, view 0"),
        (labels(KEY, lambda content: content["objects"].append(content["objects"][0])), "ids", "an instance twice"),
        (first(lambda thing: thing.update(name="x")), "unknown-category", "is called 'x'"),
    ],
)
def test_other_faults(own_renders, change, code, message):
    rewrite(own_renders, change)
    assert any(fault.code == code and message in fault.detail for fault in validate(own_renders).faults)


def test_keys_that_are_none(own_renders):
    def odd(members):
        for name in [name for name in members if name.startswith(KEY)]:
            members[name.replace(KEY, "x")] = members.pop(name)

    rewrite(own_renders, odd)
    assert any("the key is not <scene 7 digits>" in fault.detail for fault in validate(own_renders).faults)


def test_views_beyond_the_manifest(own_renders):
    edit_manifest(own_renders, lambda manifest: manifest.update(views_per_scene=1))
    faults = validate(own_renders).faults
    assert {fault.code for fault in faults} == {"ids"}
    assert len(faults) == 30
    assert faults[0].detail == "view 1 of 1 views a scene"


def test_near_duplicates_against_all_pairs():
    from lightning_tl.inspection.duplicates import near_duplicates

    rng = np.random.default_rng(0)
    images = rng.integers(0, 250, (300, 16, 16, 3)).astype(np.uint8)
    images[200:220] = images[50:70] + rng.integers(0, 3, (20, 16, 16, 3)).astype(np.uint8)
    images[250] = images[210]
    flat = images.reshape(300, -1).astype(float)
    distance = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(-1))
    wanted = {i for i in range(300) if (distance[i, :i] < 1.5).any()}
    pairs = near_duplicates(images, 1.5)
    assert {index for index, _, _ in pairs} == wanted
    assert len(wanted) == 21
    for index, other, rms in pairs:
        assert rms == pytest.approx(distance[index, :index].min(), abs=1e-4)
        assert other < index
    assert not near_duplicates(images[:1])


def test_two_copies_of_a_set_are_all_found(renders, tmp_path):
    shutil.copytree(renders / "train", tmp_path / "r" / "train")
    shutil.copytree(renders / "train", tmp_path / "r" / "val")
    edit_manifest(tmp_path / "r", lambda manifest: manifest.update(split="val"), "val")
    faults = validate(tmp_path / "r").faults
    assert {fault.code for fault in faults} == {"leak"}
    assert len(faults) == 60
