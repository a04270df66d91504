"""What all tests share: seeds, one thread, no files left behind, a small data set made without the renderer."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import s3 as s3_servers
from PIL import Image
from skips import unexplained

CATEGORIES = {1: "disc", 2: "bar", 4: "frame"}  # ids need not be contiguous
SIDE, VIEWS, SCENES_PER_SHARD = 32, 2, 8
CACHES = {".pytest_cache", ".hypothesis", ".ruff_cache", ".mypy_cache", ".import_linter_cache", "__pycache__"}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Fail where a test was skipped for a reason that is not on the list."""
    silent = unexplained(terminalreporter.stats.get("skipped", []))
    if silent:
        terminalreporter.section("skipped without a reason that is in tests/skips.py")
        for line in silent:
            terminalreporter.line(line)
        terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed what draws without a generator of its own, fixtures included: a test is the same in any order."""
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries draw from it)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_files_left() -> Iterator[None]:
    """Fail a test that leaves files in the folder it was started in."""
    start = Path.cwd()
    before = set(os.listdir(start))
    yield
    left = set(os.listdir(start)) - before - CACHES
    assert not left, f"left in {start}: {sorted(left)}"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with s3_servers.served() as address:
        yield address


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A URL in a fresh bucket."""
    return s3_servers.bucket(s3_server, monkeypatch, tmp_path)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty place; ``local`` is fsspec's driver of the file system, as a store like any other."""
    return request.getfixturevalue("s3") if request.param == "s3" else f"local://{tmp_path}/store"


def _member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _shape(category: int, cx: int, cy: int, r: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    dx, dy = np.abs(x - cx), np.abs(y - cy)
    if category == 1:
        return dx**2 + dy**2 <= r * r
    if category == 2:
        return (dx <= r) & (dy <= 2)
    return (np.maximum(dx, dy) <= r) & (np.maximum(dx, dy) >= r - 1)


def _view(rng: np.random.Generator, scene: int, view: int) -> dict[str, bytes]:
    """One or two coloured shapes on a noisy ground, with every label."""
    rgb = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    category, instance = np.zeros((SIDE, SIDE), np.uint16), np.zeros((SIDE, SIDE), np.uint16)
    normal = np.full((SIDE, SIDE, 3), 128, np.uint8)
    kinds = rng.choice([1, 2, 4], size=rng.integers(1, 3), replace=False)
    for number, kind in enumerate(kinds, start=1):
        cx, cy = rng.integers(10, SIDE - 10, 2)
        mask = _shape(int(kind), int(cx), int(cy), int(rng.integers(5, 9)))
        rgb[mask] = rng.integers(140, 256, 3)
        category[mask], instance[mask], normal[mask] = kind, number, (128, 128, 255)
    objects = []
    for number, kind in enumerate(kinds, start=1):
        ys, xs = np.nonzero(instance == number)
        if not len(ys):
            continue
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        name = CATEGORIES[int(kind)]
        row = {"instance": number, "category": int(kind), "name": name, "bbox": box, "area": len(ys)}
        objects.append(row | {"visible_fraction": 1.0})
    labels = {
        "scene": scene,
        "view": view,
        "size": [SIDE, SIDE],
        "labels": sorted({row["category"] for row in objects}),
        "objects": objects,
        "camera": {"K": np.eye(3).tolist(), "world_to_camera": np.eye(4).tolist()},
    }
    members = {"rgb.png": rgb, "category.png": category, "instance.png": instance, "normal.png": normal}
    return {name: _png(pixels) for name, pixels in members.items()} | {"json": json.dumps(labels).encode()}


def write_split(folder: Path, split: str, scenes: int, seed: int) -> None:
    """Write one split of a rendered data set, in the format on disk."""
    (folder / "shards").mkdir(parents=True)
    shards: list[dict[str, Any]] = []
    for number, first in enumerate(range(0, scenes, SCENES_PER_SHARD)):
        last = min(scenes, first + SCENES_PER_SHARD)
        path = folder / "shards" / f"{number:06d}.tar"
        with tarfile.open(path, "w") as archive:
            for scene in range(first, last):
                rng = np.random.default_rng([seed, scene])
                for view in range(VIEWS):
                    for name, content in _view(rng, scene, view).items():
                        _member(archive, f"{scene:07d}-{view:02d}.{name}", content)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        row = {"name": f"{number:06d}", "scenes": [first, last], "images": (last - first) * VIEWS, "sha256": digest}
        shards.append(row)
    manifest = {
        "format_version": 1,
        "config": {},
        "seed": seed,
        "split": split,
        "categories": {str(number): name for number, name in CATEGORIES.items()},
        "image_size": [SIDE, SIDE],
        "software": {},
        "scenes_per_shard": SCENES_PER_SHARD,
        "views_per_scene": VIEWS,
        "shards": shards,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_renders(root: Path) -> Path:
    """Write 60 training and 24 validation images."""
    write_split(root / "train", "train", 30, seed=1)
    write_split(root / "val", "val", 12, seed=2)
    return root


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small rendered data set, to be read only."""
    return write_renders(tmp_path_factory.mktemp("renders"))


@pytest.fixture
def own_renders(renders: Path, tmp_path: Path) -> Path:
    """A small rendered data set that the test may damage."""
    return Path(shutil.copytree(renders, tmp_path / "renders"))
