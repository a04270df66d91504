"""Small, cheap configurations for the renderer's tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3 as s3_servers

from data_gen.spec import RenderConfig, config_from_dict


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the render extra the tests that start Blender cannot run."""
    if importlib.util.find_spec("bpy") is None:
        for item in items:
            if item.get_closest_marker("render"):
                item.add_marker(pytest.mark.skip(reason="needs the render extra"))


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
    """The URL of an empty data set; ``local`` is fsspec's driver of the file system, as a store like any other."""
    return request.getfixturevalue("s3") if request.param == "s3" else f"local://{tmp_path}/store"


TINY: dict[str, Any] = {
    "categories": ["digits", "mug", "gear"],
    "appearance": "multiple",
    "objects": {"count": [1, 3]},
    "camera": {"views": 2},
    "room": {"walls": 0},
    "image": {"size": 24, "samples": 1, "bounces": 0},
    "scenes_per_shard": 3,
}


@pytest.fixture
def tiny() -> Callable[..., RenderConfig]:
    """Make the small configuration with some top-level keys replaced."""
    return lambda **changes: config_from_dict({**TINY, **changes})
