"""Rendering of synthetic data sets with BlenderProc: configurations, scenes, shards, worker processes.

Of ``lightning_tl`` only ``errors`` and ``_io`` are imported, and only :mod:`data_gen.blender`, which runs in worker
processes, imports Blender.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_gen.dispatch import LostScenes
    from data_gen.farm import RenderSummary, render
    from data_gen.render_config import (
        CameraConfig,
        DigitsConfig,
        ImageConfig,
        LightsConfig,
        ObjectsConfig,
        RenderConfig,
        RoomConfig,
        SourceConfig,
    )

__all__ = [
    "CameraConfig",
    "DigitsConfig",
    "ImageConfig",
    "LightsConfig",
    "LostScenes",
    "ObjectsConfig",
    "RenderConfig",
    "RenderSummary",
    "RoomConfig",
    "SourceConfig",
    "render",
]

#: where those live that are not in render_config
_HOMES = {"LostScenes": "dispatch", "RenderSummary": "farm", "render": "farm"}


def __getattr__(name: str) -> Any:
    # on first use: worker processes need none of them
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'render_config')}"), name)
