"""Small, cheap configurations for the renderer's tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from data_gen.scene_sampler import RenderConfig, config_from_dict


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the render extra the tests that start Blender cannot run."""
    if importlib.util.find_spec("bpy") is None:
        for item in items:
            if item.get_closest_marker("render"):
                item.add_marker(pytest.mark.skip(reason="needs the render extra"))


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
