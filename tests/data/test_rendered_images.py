from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image
from rendered_set import CATEGORIES, change_manifest, rendered_view, rewrite_shard

from lightning_tl.data.rendered_images import RenderedImages, read_manifest
from lightning_tl.errors import UserError


def test_every_image_comes_back(renders):
    images = RenderedImages(renders / "train")
    assert len(images) == 60
    assert images.manifest.categories == CATEGORIES
    assert images.manifest.image_size == (32, 32)
    assert images.manifest.split == "train"
    for index in (0, 1, 15, 16, 31, 47, 48, 59):  # both ends of shards of 16, the last of 12
        scene, view = divmod(index, 2)
        rng = np.random.default_rng([1, scene])
        expected = [rendered_view(rng, scene, v) for v in range(view + 1)][-1]
        assert images.member(index, "json") == (f"{scene:07d}-{view:02d}", expected["json"])
        assert images.member(index, "rgb.png")[1] == expected["rgb.png"]
        assert images.labels(index)["scene"] == scene
    assert images.rgb(3).shape == images.normal(3).shape == (32, 32, 3)
    assert images.rgb(3).dtype == np.uint8
    assert images.category(3).dtype == images.instance(3).dtype == np.uint16


def test_a_smaller_n_is_a_prefix(renders):
    all_images, few = RenderedImages(renders / "train"), RenderedImages(renders / "train", 21)
    assert len(few) == 21
    for index in range(21):
        assert few.member(index, "rgb.png") == all_images.member(index, "rgb.png")
    for index in (21, -1):
        with pytest.raises(IndexError, match=f"image {index} of 21"):
            few.member(index, "rgb.png")


def test_a_smaller_n_reads_only_its_shards(own_renders):
    (own_renders / "train/shards/000003.tar").unlink()
    few = RenderedImages(own_renders / "train", 48)
    assert [few.labels(i)["scene"] for i in (0, 47)] == [0, 23]


@pytest.mark.parametrize("n", [0, -3, 61])
def test_n_larger_than_the_data_set(renders, n):
    with pytest.raises(UserError, match=rf"{n} images asked for, but .*train has 60: ask for at most 60"):
        RenderedImages(renders / "train", n)


def test_no_manifest(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json: no such file.*lightning-tl render makes one"):
        read_manifest(tmp_path)


def test_the_folder_above_the_splits(renders):
    with pytest.raises(UserError, match=r"no rendered split; its splits are .*/train and .*/val"):
        read_manifest(renders)


@pytest.mark.parametrize(
    "content",
    ["{", "\ud8ff", "[]", "{}", '{"format_version": 1}', None],
    ids=["no JSON", "no UTF-8", "a list", "no version", "no keys", "bad shards"],
)
def test_damaged_manifest(own_renders, content):
    path = own_renders / "train/manifest.json"
    if content is None:
        change_manifest(own_renders / "train", shards=[{"name": "000000"}])
    else:
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"train/manifest\.json: damaged \(.*\): delete it and render again"):
        read_manifest(own_renders / "train")


def test_another_format_version(own_renders):
    change_manifest(own_renders / "train", format_version=7)
    with pytest.raises(UserError, match=r"manifest\.json: format version 7; this release reads 1"):
        read_manifest(own_renders / "train")


def test_missing_shard(own_renders):
    (own_renders / "train/shards/000001.tar").unlink()
    images = RenderedImages(own_renders / "train")
    assert images.labels(15)["scene"] == 7
    with pytest.raises(UserError, match=r"000001\.tar: this shard is in the manifest but not on disk"):
        images.labels(16)


def test_one_flipped_bit_is_found(own_renders):
    path = own_renders / "train/shards/000001.tar"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"000001\.tar: corrupted: its sha256 .* delete it and run .* render again"):
        RenderedImages(own_renders / "train").rgb(16)
    assert RenderedImages(own_renders / "train", verify=False).labels(17)["view"] == 1


def test_not_a_tar_file(own_renders):
    path = own_renders / "train/shards/000000.tar"
    path.write_bytes(b"no tar at all")
    with pytest.raises(UserError, match=r"000000\.tar: not a readable tar file"):
        RenderedImages(own_renders / "train", verify=False).rgb(0)


def test_wrong_number_of_images(own_renders):
    rewrite_shard(own_renders / "train", 0, lambda name, c: None if name.startswith("0000003-01") else c)
    with pytest.raises(UserError, match=r"000000\.tar: holds 15 images where the manifest says 16"):
        RenderedImages(own_renders / "train").rgb(0)


def test_missing_member(own_renders):
    rewrite_shard(own_renders / "train", 0, lambda name, c: None if name == "0000001-00.rgb.png" else c)
    images = RenderedImages(own_renders / "train")
    with pytest.raises(UserError, match=r"000000\.tar: image 0000001-00 has no rgb\.png or rgb\.jpg"):
        images.rgb(2)


def break_crc(png: bytes) -> bytes:
    at = png.index(b"IDAT") + 6
    return png[:at] + bytes([png[at] ^ 255]) + png[at + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda png: b"no image", lambda png: png[:60], break_crc], ids=["no image", "truncated", "checksum"]
)
def test_undecodable_image(own_renders, damage):
    rewrite_shard(own_renders / "train", 0, lambda name, c: damage(c) if name == "0000000-01.rgb.png" else c)
    images = RenderedImages(own_renders / "train")
    images.rgb(0)
    with pytest.raises(UserError, match=r"000000\.tar: 0000000-01\.rgb\.png cannot be decoded .*render it again"):
        images.rgb(1)


def test_undecodable_labels(own_renders):
    rewrite_shard(own_renders / "train", 0, lambda name, c: c[:20] if name == "0000000-01.json" else c)
    with pytest.raises(UserError, match=r"0000000-01\.json cannot be decoded"):
        RenderedImages(own_renders / "train").labels(1)


def test_jpeg_colours(own_renders):
    def to_jpeg(name, content):
        if not name.endswith("rgb.png"):
            return content
        file = io.BytesIO()
        Image.open(io.BytesIO(content)).save(file, "JPEG", quality=95)
        return file.getvalue()

    before = RenderedImages(own_renders / "train").rgb(0)
    rewrite_shard(own_renders / "train", 0, to_jpeg, rename=lambda name: name.replace("rgb.png", "rgb.jpg"))
    after = RenderedImages(own_renders / "train").rgb(0)
    assert after.shape == before.shape
    assert 0 < np.abs(after.astype(int) - before).mean() < 15


def test_few_files_are_kept_open(renders, monkeypatch):
    monkeypatch.setattr("lightning_tl.data.rendered_images._KEPT_OPEN", 2)
    images = RenderedImages(renders / "train")
    order = [0, 59, 20, 40, 1, 58, 21, 0]
    read = [images.member(index, "rgb.png") for index in order]
    assert len(images._files) == 2
    assert read == [RenderedImages(renders / "train").member(index, "rgb.png") for index in order]
    copy = pickle.loads(pickle.dumps(images))  # as a loader's process gets it
    assert copy.member(59, "rgb.png") == images.member(59, "rgb.png")


def test_opening_all_shards_finds_the_broken_one(own_renders):
    (own_renders / "train/shards/000002.tar").unlink()
    RenderedImages(own_renders / "train", 32).open_shards()  # needs only the first two
    with pytest.raises(UserError, match=r"000002\.tar: this shard is in the manifest but not on disk"):
        RenderedImages(own_renders / "train", 33).open_shards()
