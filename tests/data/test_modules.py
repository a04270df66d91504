from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits as other_digits
from sklearn.neighbors import KNeighborsClassifier

from lightning_tl.data import Digits, Rendered, RenderedImages
from lightning_tl.data.batch_transform import BatchTransform
from lightning_tl.data.batched_module import Batches
from lightning_tl.data.digits import load_digits
from lightning_tl.data.preview import category_color, contact_sheet, image_grid
from lightning_tl.data.rendered_module import largest_category, visible_categories
from lightning_tl.data.subsets import balanced_subset, fraction_subset, split_off
from lightning_tl.errors import UserError

LABELS = np.repeat(np.arange(5), [20, 30, 25, 20, 40])


def test_subsets_are_balanced_and_nested():
    ten = balanced_subset(LABELS, 10, seed=1)
    assert np.bincount(LABELS[ten]).tolist() == [10] * 5
    assert len(set(ten.tolist())) == 50
    np.testing.assert_array_equal(balanced_subset(LABELS, 4, seed=1), ten[:20])


def test_subsets_of_other_starts_do_not_overlap():
    first, rest = balanced_subset(LABELS, 12, seed=0), balanced_subset(LABELS, 8, seed=0, start=12)
    assert not set(first.tolist()) & set(rest.tolist())
    assert np.bincount(LABELS[rest]).tolist() == [8] * 5


def test_draws_differ_and_repeat():
    draws = [tuple(balanced_subset(LABELS, 5, seed=s)) for s in range(6)]
    assert len(set(draws)) == 6
    assert draws[2] == tuple(balanced_subset(LABELS, 5, seed=2))


def test_too_few_of_a_class():
    with pytest.raises(UserError, match=r"21 samples of each class asked for, but class 0 has 20 in all"):
        balanced_subset(LABELS, 21, seed=0)
    with pytest.raises(UserError, match=r"15 samples .* asked for after the first 10, but class 0 has 20"):
        balanced_subset(LABELS, 15, seed=0, start=10)


@pytest.mark.parametrize("labels", [LABELS, None])
def test_parts_are_disjoint_stratified_and_always_the_same(labels):
    parts = split_off(135, labels, {"test": 0.2, "val": 0.1})
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(135))
    counts = {name: np.bincount(LABELS[part], minlength=5).tolist() for name, part in parts.items()}
    if labels is None:
        assert {name: len(part) for name, part in parts.items()} == {"test": 27, "val": 14, "train": 94}
    else:
        assert counts["test"] == [4, 6, 5, 4, 8]
        assert counts["val"] == [2, 3, 2, 2, 4]
    assert all((np.diff(part) > 0).all() for part in parts.values())
    again = split_off(135, labels, {"test": 0.2, "val": 0.3})
    np.testing.assert_array_equal(again["test"], parts["test"])
    assert set(parts["val"]) < set(again["val"])


def test_small_classes_keep_a_sample_to_train_on():
    labels = np.array([0, 1, 1, 2, 2, 2])
    parts = split_off(6, labels, {"test": 0.1, "val": 0.1})
    counts = {name: np.bincount(labels[part], minlength=3).tolist() for name, part in parts.items()}
    assert counts == {"test": [0, 1, 1], "val": [0, 0, 1], "train": [1, 1, 1]}


def test_equal_classes_by_brute_force():
    """The number from every class is the one whose total is nearest to the fraction; classes give what they have."""
    sizes = np.bincount(LABELS)
    before: set[int] = set()
    for fraction in np.linspace(0.01, 1, 34):
        subset = fraction_subset(len(LABELS), LABELS, float(fraction), seed=3, equal_classes=True)
        totals = {number: np.minimum(sizes, number).sum() for number in range(1, 41)}
        best = min(totals, key=lambda number: abs(totals[number] - fraction * len(LABELS)))
        np.testing.assert_array_equal(np.bincount(LABELS[subset]), np.minimum(sizes, best))
        assert before <= set(subset.tolist())
        before = set(subset.tolist())
    assert before == set(range(len(LABELS)))


def test_digits_are_digits():
    """What reads other people's digits reads ours."""
    images, labels = load_digits()
    assert images.shape == (5000, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10

    def tight(image):  # both to 8 x 8 px, the digit filling them
        ys, xs = np.nonzero(image > image.max() / 4)
        digit = Image.fromarray(np.float32(image)[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] / image.max())
        return np.asarray(digit.resize((8, 8), Image.Resampling.BILINEAR)).ravel()

    reference = other_digits()
    reader = KNeighborsClassifier(5).fit([tight(image) for image in reference.images], reference.target)
    assert reader.score([tight(image) for image in images[::25]], labels[::25]) > 0.5  # by chance: 0.1


def split_images(data: Digits, split: str) -> set[bytes]:
    batches = data.splits[split]
    return {batches._image(i).tobytes() for i in range(len(batches))}


@pytest.fixture(scope="module")
def digits():
    data = Digits(shots=10, draw=0)
    data.setup("fit")
    return data


def test_digit_splits_are_disjoint_and_balanced(digits):
    assert {name: len(split) for name, split in digits.splits.items()} == {"train": 100, "val": 500, "test": 3500}
    for split in digits.splits.values():
        assert len(set(torch.bincount(split.targets).tolist())) == 1
    train, val, test = (split_images(digits, name) for name in ("train", "val", "test"))
    assert not train & val
    assert not train & test
    assert not val & test


def test_digit_draws(digits):
    fewer, other = Digits(shots=5, draw=0), Digits(shots=10, draw=1)
    for data in (fewer, other):
        data.setup("fit")
    assert split_images(fewer, "train") < split_images(digits, "train")
    assert split_images(other, "train") != split_images(digits, "train")
    assert split_images(other, "test") == split_images(digits, "test")


@pytest.mark.parametrize("shots", [0, 101])
def test_too_many_shots(shots):
    with pytest.raises(UserError, match=rf"data.shots is {shots}; it must be between 1 and 100"):
        Digits(shots=shots)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"steps_per_epoch": 0}])
def test_wrong_batches(settings):
    (name,) = settings
    with pytest.raises(UserError, match=rf"data.{name} is 0; it must be at least 1"):
        Digits(**settings)


def test_wrong_eval_batches():
    from lightning_tl.data.batched_module import BatchedDataModule

    with pytest.raises(UserError, match=r"data.eval_batch_size is 0; it must be at least 1"):
        BatchedDataModule(eval_batch_size=0)


def test_batches_read_each_image_once_where_they_fit():
    calls: list[int] = []

    def image(index):
        calls.append(index)
        return np.full((8, 8), index, np.uint8)

    transform = BatchTransform(size=8, standardize=False)
    kept = Batches(image, torch.arange(5), transform)
    for _ in range(3):
        images, targets = kept[[4, 0, 4]]
        torch.testing.assert_close(images[:, 0, 0, 0] * 255, torch.tensor([4.0, 0.0, 4.0]))
        assert targets.tolist() == [4, 0, 4]
    assert sorted(calls) == [0, 4]
    calls.clear()
    unkept = Batches(image, torch.arange(5), transform, cache_bytes=5 * 64 - 1)
    unkept[1]
    unkept[1]
    assert calls == [1, 1]


def test_targets_agree_with_the_masks(renders):
    images = RenderedImages(renders / "train")
    columns = {1: 0, 2: 1, 4: 2}
    several, single = visible_categories(images), largest_category(images)
    assert several.shape == (60, 3)
    assert several.dtype == torch.float32
    sums = set()
    for index in range(60):
        mask, instances = images.category(index), images.instance(index)
        visible = {columns[int(c)] for c in np.unique(mask) if c}
        assert {i for i, value in enumerate(several[index]) if value == 1} == visible
        assert set(several[index].tolist()) <= {0.0, 1.0}
        areas = np.bincount(instances.ravel())[1:]
        biggest = int(mask[instances == 1 + int(areas.argmax())][0])
        assert int(single[index]) == columns[biggest] or np.sort(areas)[-1] == np.sort(areas)[-2]
        sums.add(int(several[index].sum()))
    assert sums == {1, 2}


def test_an_image_without_objects_has_no_single_class(own_renders):
    import json

    from rendered_set import rewrite_shard

    def empty(name, content):
        if name != "0000002-01.json":
            return content
        return json.dumps(json.loads(content) | {"objects": [], "labels": []}).encode()

    rewrite_shard(own_renders / "train", 0, empty)
    images = RenderedImages(own_renders / "train")
    with pytest.raises(UserError, match=r"train: scene 2, view 1 shows no object.*data.target=mulclass"):
        largest_category(images)
    assert visible_categories(images)[5].tolist() == [0, 0, 0]


def test_rendered_splits(renders):
    data = Rendered(renders, n=20, target="sinclass", transform=BatchTransform(size=16), batch_size=8)
    assert data.num_classes == 3
    data.setup("fit")
    assert len(data.splits["train"]) == 20
    assert len(data.splits["val"]) == 24
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 16, 16)
    assert targets.dtype == torch.int64
    assert len(data.train_dataloader()) == 3
    assert sum(len(t) for _, t in data.val_dataloader()) == 24


def test_rendered_for_a_test_reads_no_training_shard(own_renders):
    for shard in (own_renders / "train/shards").iterdir():
        shard.unlink()
    data = Rendered(own_renders)
    data.setup("test")
    assert sum(len(t) for _, t in data.test_dataloader()) == 24
    assert sum(len(t) for _, t in data.predict_dataloader()) == 24
    with pytest.raises(UserError, match="not on disk"):
        data.setup("fit")


def test_workers_give_the_same_batches(renders):
    def batches(workers):
        transform = BatchTransform(size=16, crop_scale=(0.6, 0.9))
        data = Rendered(renders, n=20, batch_size=8, transform=transform, num_workers=workers)
        data.setup("fit")
        return list(data.train_dataloader())

    for (a, s), (b, t) in zip(batches(0), batches(2), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(s, t)


def test_contact_sheet(renders):
    images = RenderedImages(renders / "train")
    sheet = np.asarray(contact_sheet(images, count=6, side=64))
    above = sheet.shape[0] // 2 - 64 - 4  # lines of 12 px with the key and the names
    assert above % 12 == 0
    assert above > 0
    assert sheet.shape[1:] == (4 * (3 * 65 + 4), 3)
    # the first image's first tile: enlarged twice, its boxes drawn in their category's colour
    tile = sheet[above : above + 64, :64]
    drawn = {tuple(color) for color in tile.reshape(-1, 3).tolist()}
    colors = {category_color(thing["category"]) for thing in images.labels(0)["objects"]}
    assert colors <= drawn
    # nothing but its boxes hides it: away from them it is the image
    plain = images.rgb(0).repeat(2, 0).repeat(2, 1)
    changed = (tile != plain).any(-1)
    assert {tuple(color) for color in tile[changed].tolist()} <= colors
    # the names stand above it, in the same colours
    assert colors <= {tuple(color) for color in sheet[:above, :199].reshape(-1, 3).tolist()}
    mask = sheet[above : above + 64, 65 : 65 + 64]
    background = (mask == (40, 40, 40)).all(-1)[::2, ::2]
    np.testing.assert_array_equal(background, images.instance(0) == 0)
    normals = sheet[above : above + 64, 130 : 130 + 64]
    np.testing.assert_array_equal(normals[::2, ::2], images.normal(0))
    assert contact_sheet(images, count=1, side=64).width == 199
    assert contact_sheet(RenderedImages(renders / "train", 2), count=50, side=64).width == 2 * 199
    narrow = contact_sheet(images, count=6, side=64, columns=1)
    assert narrow.size == (199, 6 * (above + 64 + 4))


class Cut(RenderedImages):
    """Renders of which a part is to be seen."""

    def __init__(self, folder, rows, columns):
        super().__init__(folder)
        self.all = RenderedImages(folder)
        self.manifest = replace(self.manifest, image_size=(rows, columns))

    def labels(self, index):
        return {"size": self.manifest.image_size, "objects": []}


for _name in ("rgb", "instance", "normal"):
    _whole = getattr(RenderedImages, _name)
    setattr(Cut, _name, lambda self, i, of=_whole: of(self.all, i)[tuple(map(slice, self.manifest.image_size))])


@pytest.mark.parametrize("rows,columns", [(16, 32), (32, 16)])
def test_contact_sheets_of_wide_and_high_images_have_no_gaps(renders, rows, columns):
    sheet = np.asarray(contact_sheet(Cut(renders / "train", rows, columns), count=4, side=64))
    assert sheet.shape == (2 * rows + 16, 4 * (3 * (2 * columns + 1) + 4), 3)
    tiles = sheet[12 : 12 + 2 * rows, : 3 * (2 * columns + 1)]
    assert (tiles == 255).all(-1).sum() == 3 * 2 * rows  # the lines between tiles alone
    grid = image_grid([np.zeros((rows, columns), np.uint8)] * 4, columns=2, side=64)
    assert grid.size == (2 * (2 * columns + 1), 2 * (2 * rows + 1))


def test_neighbouring_ids_have_other_colours():
    colors = np.array([category_color(i) for i in range(1, 11)], int)
    apart = np.abs(colors[:, None] - colors[None]).sum(-1)
    assert apart[~np.eye(10, dtype=bool)].min() > 40


def test_a_label_that_the_manifest_lacks_is_named(renders, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(renders, root)
    path = root / "train" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["categories"].popitem()
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"labelled with category \d+, which its manifest.json does not list"):
        Rendered(root).setup("fit")
