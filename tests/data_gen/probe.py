"""Render scenes in a process of their own and pickle the views: ``probe.py CONFIG.json SPECS.pickle VIEWS.pickle``."""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    config_path, specs_path, views_path = map(Path, sys.argv[1:])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from data_gen.blender.renderer import Renderer
    from data_gen.scene_sampler import config_from_dict

    with tempfile.TemporaryDirectory() as folder:
        renderer = Renderer(config_from_dict(json.loads(config_path.read_text())), Path(folder))
        views = [list(renderer.render(spec)) for spec in pickle.loads(specs_path.read_bytes())]
        views_path.write_bytes(pickle.dumps(views))
    os._exit(0)
