"""The real worker with a gate before each scene (``scene_gate.py``); it dies at scene ``CRASH`` (``train150``)."""

from __future__ import annotations

import os
import signal

from scene_gate import pass_gate

from data_gen import worker
from data_gen.blender import renderer


class Renderer(renderer.Renderer):
    def render(self, spec):
        pass_gate()
        if os.environ.get("CRASH") == f"{spec.split}{spec.scene}":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().render(spec)


if __name__ == "__main__":
    renderer.Renderer = Renderer
    worker.main()
