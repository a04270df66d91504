"""The real worker, but that its process dies of the scene that ``CRASH`` names, such as ``train150``."""

from __future__ import annotations

import os
import signal

from data_gen import worker
from data_gen.blender import renderer


class Renderer(renderer.Renderer):
    def render(self, spec):
        if os.environ.get("CRASH") == f"{spec.split}{spec.scene}":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().render(spec)


if __name__ == "__main__":
    renderer.Renderer = Renderer
    worker.main()
