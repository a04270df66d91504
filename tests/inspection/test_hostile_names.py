"""Names in manifests and shards: none becomes a path outside the output folder, and nothing outside is deleted."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendered_set import change_manifest, edit_manifest, labels, png, rewrite, write_split

from lightning_tl.cli.main import main
from lightning_tl.data.rendered_images import RenderedImages, read_manifest
from lightning_tl.errors import UserError
from lightning_tl.inspection.export import FORMATS

HOSTILE = [
    "../x",
    "/tmp/x",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "-x",
    ".hidden",
    "a\0b",
    "a\nb",
    "x" * 300,
    3,
    None,
    ["train"],
]


def files(folder: Path) -> dict[str, bytes]:
    """Everything beside the data set and the output, with content."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(("renders", "out")):
            found[name] = path.read_bytes() if path.is_file() else b""
    return found


def single(rng: np.random.Generator, scene: int, view: int) -> dict[str, bytes]:
    """A view of one object, of category 1."""
    mask = np.zeros((32, 32), np.uint16)
    mask[4:9, 4:9] = 1
    thing = {"instance": 1, "category": 1, "name": "a", "bbox": [4, 4, 5, 5], "area": 25, "visible_fraction": 1.0}
    content = {"scene": scene, "view": view, "size": [32, 32], "labels": [1], "objects": [thing]}
    content["camera"] = {"K": np.eye(3).tolist(), "world_to_camera": np.eye(4).tolist()}
    pictures = {"rgb.png": np.zeros((32, 32, 3), np.uint8), "category.png": mask, "instance.png": mask}
    pictures["normal.png"] = np.full((32, 32, 3), 128, np.uint8)
    return {name: png(each) for name, each in pictures.items()} | {"json": json.dumps(content).encode()}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the data set with a file and an empty folder, neither of which may be changed."""
    (tmp_path / "x" / "empty").mkdir(parents=True)
    (tmp_path / "x" / "mine.txt").write_text("mine")
    return tmp_path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["../x", "{folder}/x", "../../x", ".."])
def test_a_split_is_no_path(own_renders: Path, outside: Path, capsys: Any, form: str, name: str) -> None:
    before = files(outside)
    edit_manifest(own_renders, lambda content: content.update(split=name.format(folder=outside)))
    assert main(["dataset", "export", str(own_renders), f"--format={form}", f"--out={outside}/out"]) == 2
    assert "train/manifest.json: damaged (split is '" in capsys.readouterr().err
    assert files(outside) == before


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_every_reader_refuses_such_a_split(own_renders: Path, name: object) -> None:
    edit_manifest(own_renders, lambda content: content.update(split=name))
    with pytest.raises(UserError, match=r"split is .*, no plain name"):
        read_manifest(own_renders / "train")


MEMBERS = ["{folder}/x/0000008-00", "../../x/0000008-00", "0000008-00/../../x", "./0000008-00", "0000008-0a", "8-0"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("key", MEMBERS)
def test_a_member_is_no_path(outside: Path, capsys: Any, form: str, key: str) -> None:
    write_split(outside / "renders/train", "train", 16, seed=0, draw=single)
    before = files(outside)
    key = key.format(folder=outside)

    def rename(members: dict[str, bytes]) -> None:
        for name in [name for name in members if name.startswith("0000008-00.")]:
            members[name.replace("0000008-00", key)] = members.pop(name)

    rewrite(outside / "renders", rename)
    assert main(["dataset", "export", f"{outside}/renders", f"--format={form}", f"--out={outside}/out"]) == 2
    assert "is no file named <scene>-<view>.<kind>" in capsys.readouterr().err
    assert files(outside) == before


def plant(root: Path, add: Callable[[tarfile.TarFile], Any]) -> None:
    """Append members to a shard, and bring the manifest's hash up to date."""
    path = root / "train/shards/000001.tar"
    with tarfile.open(path, "a") as archive:
        add(archive)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_manifest(root, lambda content: content["shards"][1].update(sha256=digest))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_refused(own_renders: Path, kind: bytes) -> None:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("0000008-00.depth.png")
        info.type, info.linkname = kind, "/etc/hostname"
        archive.addfile(info)

    plant(own_renders, add)
    with pytest.raises(UserError, match=r"'0000008-00\.depth\.png' is no file named"):
        RenderedImages(own_renders / "train").open_shards()


def test_a_member_longer_than_its_file(own_renders: Path) -> None:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("0000008-00.depth.png")
        info.size = 10**12
        archive.fileobj.seek(archive.offset)
        archive.fileobj.write(info.tobuf())

    plant(own_renders, add)
    with pytest.raises(UserError, match=r"longer than the file|not a readable tar file"):
        RenderedImages(own_renders / "train").open_shards()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"categories": {}}, "categories is {}, not names by id"),
        ({"categories": {"1": None}}, "category 1 is called None; a name is a text"),
        ({"categories": {"1": ["a"]}}, r"category 1 is called \['a'\]"),
        ({"categories": {"x": "a"}}, "a category has the id 'x'"),
        ({"categories": {"0": "a"}}, "the id 0, which is the background's"),
        ({"categories": {"01": "a"}}, "a category has the id '01'"),
        ({"categories": ["a"]}, r"categories is \['a'\], not names by id"),
        ({"image_size": [32]}, r"image_size is \[32\], not \[height, width\]"),
        ({"image_size": [10**9, 10**9]}, "image_size is"),
        ({"shards": {}}, "shards is {}, not a list"),
        ({"shards": [3]}, r"shards\[0\] is 3"),
        ({"shards": [{"name": "../x", "images": 1, "sha256": ""}]}, r"shards\[0\]\.name is '\.\./x'"),
        ({"shards": [{"name": "", "images": 1, "sha256": ""}]}, r"shards\[0\]\.name is ''"),
        ({"shards": [{"name": "000000", "images": -1, "sha256": ""}]}, r"shards\[0\]\.images is -1"),
        ({"shards": [{"name": "000000", "images": 10**18, "sha256": ""}]}, r"shards\[0\]\.images is 1000"),
        ({"shards": [{"name": "000000", "images": 1, "sha256": 5}]}, r"shards\[0\]\.sha256 is 5"),
    ],
    ids=str,
)
def test_manifests_of_wrong_types(own_renders: Path, change: dict[str, Any], message: str) -> None:
    change_manifest(own_renders / "train", **change)
    with pytest.raises(UserError, match=rf"manifest\.json: damaged \(.*{message}"):
        read_manifest(own_renders / "train")


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 3, "[1]", "9" * 6000, '"x"', "null", "\xff"])
def test_manifests_that_are_none(own_renders: Path, text: str) -> None:
    (own_renders / "train/manifest.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        read_manifest(own_renders / "train")


def test_only_own_folders_are_removed(tmp_path: Path, capsys: Any) -> None:
    """An export removes the folders of classes without images, and no other."""
    write_split(tmp_path / "renders/train", "train", 8, seed=0, draw=single)
    command = ["dataset", "export", f"{tmp_path}/renders", "--format=imagefolder", f"--out={tmp_path}/out"]
    assert main(command) == 0
    assert [path.name for path in (tmp_path / "out/train").iterdir()] == ["disc"]
    (tmp_path / "out/train/mine").mkdir()
    assert main(command) == 0
    assert {path.name for path in (tmp_path / "out/train").iterdir()} == {"disc", "mine"}


@pytest.mark.parametrize("names", [{"1": "a/b", "2": "a_b"}, {"1": ".", "2": ".."}], ids=str)
def test_two_classes_never_share_a_folder(tmp_path: Path, capsys: Any, names: dict[str, str]) -> None:
    write_split(tmp_path / "renders/train", "train", 8, seed=0, draw=single)
    change_manifest(tmp_path / "renders/train", categories=names)
    command = ["dataset", "export", f"{tmp_path}/renders", "--format=imagefolder", f"--out={tmp_path}/out"]
    assert main(command) == 2
    assert "category 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("labels"),
        lambda content: content["objects"][0].pop("category"),
        lambda content: content["objects"][0].pop("bbox"),
        lambda content: content["objects"][0].update(category=None),
        lambda content: content["objects"][0].update(bbox=[1, 2, 3]),
        lambda content: content["objects"][0].update(area=10**40),
        lambda content: content["objects"][0].update(visible_fraction=float("nan")),
        lambda content: content.update(size=[0, 32]),
        lambda content: content.update(objects=[None]),
        lambda content: content.update(scene="../x"),
    ],
)
def test_labels_of_wrong_types_are_named(own_renders: Path, tmp_path: Path, capsys: Any, change: Any) -> None:
    rewrite(own_renders, labels("0000008-00", change))
    for command in (
        ["dataset", "preview", str(own_renders), f"--out={tmp_path}/sheet.png", "--count=60"],
        ["dataset", "stats", str(own_renders), f"--out={tmp_path}/stats"],
        ["dataset", "export", str(own_renders), "--format=bop", f"--out={tmp_path}/out"],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "000001.tar: 0000008-00.json: " in error.splitlines()[-1]


def test_a_png_that_grows_is_refused(own_renders: Path) -> None:
    """Larger than the manifest says: not decoded."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 20_000
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb += chunk(b"IDAT", zlib.compress(bytes(10**6), 9)) + chunk(b"IEND", b"")

    rewrite(own_renders, lambda members: members.update({"0000008-00.rgb.png": bomb}))
    images = RenderedImages(own_renders / "train")
    with pytest.raises(UserError, match=r"0000008-00\.rgb\.png"):
        images.rgb(16)
    assert io.BytesIO(bomb).getbuffer().nbytes < 10_000
