"""Renders one scene in this process: ``python -m data_gen.reproduce OUT --split train --scene 10``.

Prints the scene's specification as JSON and renders its views into ``OUT/reproduced/``, to show why a scene cannot be
rendered. With ``--spec`` it only prints. Where ``BLENDER`` names a Blender, it renders there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from data_gen.check import check_environment
from data_gen.interpreter import named_blender, worker_command, worker_environment
from data_gen.manifest import MANIFEST
from data_gen.scene_sampler import SPLITS, config_from_dict, sample_scene
from data_gen.shard_writer import view_members
from data_gen.sources import open_catalogue
from lightning_tl._io.folders import open_folder
from lightning_tl.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Draw the scene, print it, render it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data_gen.reproduce", description=__doc__)
    parser.add_argument("out", help="folder of the data set, or its URL")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--scene", type=int, required=True, help="index, from 0")
    parser.add_argument("--spec", action="store_true", help="print only the specification")
    options = parser.parse_args(argv)
    try:
        blender = "" if options.spec else named_blender()
        _reproduce(options.out, options.split, options.scene, options.spec or bool(blender))
        if blender:
            return _in_blender(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _in_blender(argv: list[str]) -> int:
    check_environment()
    with tempfile.TemporaryDirectory() as folder:
        command = worker_command(["-m", "data_gen.reproduce", *argv], Path(folder))
        # what Blender prints is not part of the specification, which is printed already
        return subprocess.run(command, env=worker_environment(), stdout=subprocess.DEVNULL).returncode


def _reproduce(out: str, split: str, scene: int, spec_alone: bool) -> None:
    source = open_folder(f"{out}/{split}")
    try:
        config = config_from_dict(json.loads(source.read(MANIFEST) or b"")["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{source.at(MANIFEST)} cannot be read ({error}): give the folder that was rendered into"
        ) from None
    if scene < 0:
        raise UserError(f"--scene is {scene}, but must be 0 or more")
    # for a data set on a store, the views are written to the current folder
    place = Path() if source.remote else Path(out)
    catalogue = open_catalogue(config, None if source.remote else place / "sources.json")
    spec = sample_scene(config, config.seed, split, scene, catalogue)
    print(json.dumps(spec.to_dict(), indent=1), flush=True)
    if spec_alone:
        return
    check_environment(here=True)
    from data_gen.blender.renderer import Renderer

    folder = place / "reproduced"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for view in Renderer(config, Path(temporary), catalogue).render(spec):
            for name, content in view_members(view, config.image):
                (folder / f"{split}-{name}").write_bytes(content)
    print(f"rendered into {folder}", file=sys.stderr)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Blender 4.2 crashes in an ordinary exit
