"""A worker with a renderer that needs only the seed and takes milliseconds: for tests of the farm without Blender.

Environment variables make it fail or wait: ``FAKE_GATE`` is the folder of a :class:`scene_gate.SceneGate`;
``FAKE_KILL`` names a scene (``train7``) at which the process dies each time, or only once, if ``FAKE_ONCE`` names a
file that does not exist yet; ``FAKE_RAISE`` names a scene that raises an error, or is ``every``.
"""

from __future__ import annotations

import os
import signal
import sys
import types
from pathlib import Path

import numpy as np
from scene_gate import pass_gate

from data_gen import worker
from data_gen.labels import View


class Renderer:
    device = "CPU"

    def __init__(self, config, temporary, catalogue):
        self.config = config

    def render(self, spec):
        pass_gate()
        name = f"{spec.split}{spec.scene}"
        if os.environ.get("FAKE_RAISE") in (name, "every"):
            raise RuntimeError("a planted fault")
        if os.environ.get("FAKE_KILL") == name:
            once = os.environ.get("FAKE_ONCE")
            if once is None or not Path(once).exists():
                if once is not None:
                    Path(once).touch()
                print("last words", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(spec.seed)
        size = self.config.image.size
        for view in range(len(spec.cameras)):
            mask = rng.integers(0, 3, (size, size)).astype(np.uint16)
            pixels = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
            yield View(pixels, mask, mask, pixels, None, {"scene": spec.scene, "view": view})


if __name__ == "__main__":
    if os.environ.get("FAKE_IMPORT"):
        sys.modules["data_gen.blender.renderer"] = None  # importing it fails
    else:
        fake = types.ModuleType("data_gen.blender.renderer")
        fake.Renderer = Renderer
        fake.versions = lambda: {"blender": os.environ.get("FAKE_VERSION", "fake"), "blenderproc": "fake"}
        sys.modules["data_gen.blender.renderer"] = fake
    worker.main()
