"""One side of the benchmark in a Blender of its own: ``rendering_side.py ours|stock CONFIG.json SPECS.pickle OUT.npz``.

Both sides render the same scenes with the same meshes, materials, lamps and cameras, and both make colours, instance
and category masks and normals. ``stock`` does it with BlenderProc's calls as its examples have them.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def ours(config: Any, specs: list[Any], folder: Path) -> tuple[np.ndarray, dict[str, float]]:
    from data_gen.blender import renderer as module

    renderer = module.Renderer(config, folder)
    inside = 0.0
    render = module._renderer.render

    def timed(*args: Any, **options: Any) -> Any:
        nonlocal inside
        start = time.process_time()
        result = render(*args, **options)
        inside += time.process_time() - start
        return result

    module._renderer.render = timed
    list(renderer.render(specs[0]))  # what is done once
    inside, start = 0.0, time.process_time()
    images = [view.rgb for spec in specs for view in renderer.render(spec)]
    return np.array(images), {"seconds": time.process_time() - start, "inside": inside}


def stock(config: Any, specs: list[Any], folder: Path) -> tuple[np.ndarray, dict[str, float]]:
    import importlib

    from data_gen.blender import renderer as module

    renderer = module.Renderer(config, folder)  # for its scene; what it set of Cycles is set back here
    bpy, bproc = module.bpy, module._renderer
    module._initializer._Initializer.set_default_parameters()
    scene, layer = bpy.context.scene, bpy.context.view_layer
    scene.render.use_compositing = True
    scene.render.image_settings.file_format = "PNG"
    scene.cycles.use_denoising = layer.cycles.use_denoising = False
    bproc.toggle_light_tree(True)
    bproc.set_cpu_threads(1)
    bproc.set_max_amount_of_samples(config.image.samples)
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BLACKMAN_HARRIS", 1.5
    bproc.set_denoiser("INTEL" if config.image.denoise else None)
    entity = importlib.import_module("blenderproc.api.types").MeshObject

    def render(spec: Any, first: bool) -> list[np.ndarray]:
        module._initializer.clean_up()
        scene.render.use_persistent_data = True
        scene.cycles.seed = spec.seed
        renderer._add_sky(spec)
        for lamp in spec.lights:
            module._add_light(lamp)
        renderer._add_room(spec)
        for item in spec.objects:
            renderer._add_object(item)
        for held in bpy.context.scene.objects:
            if held.type == "MESH":
                entity(held).set_cp("category_id", held.pass_index)
        height, width = config.image.shape
        module._camera.set_intrinsics_from_K_matrix(spec.intrinsics(width, height), width, height)
        for pose in spec.cameras:
            module._camera.add_camera_pose(pose)
        if first:  # each further call would add its nodes again
            bproc.enable_normals_output()
            bproc.enable_segmentation_output(map_by=["category_id", "instance", "name"])
        return list(bproc.render(verbose=True)["colors"])

    render(specs[0], True)
    start = time.process_time()
    images = [image for spec in specs for image in render(spec, False)]
    return np.array(images)[..., :3], {"seconds": time.process_time() - start}


if __name__ == "__main__":
    side, config_path, specs_path, out = sys.argv[1], *map(Path, sys.argv[2:])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from data_gen.scene_sampler import config_from_dict

    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        run = {"ours": ours, "stock": stock}[side]
        pictures, seconds = run(
            config_from_dict(json.loads(config_path.read_text())),
            pickle.loads(specs_path.read_bytes()),
            Path(temporary),
        )
        np.savez(out, images=pictures, **seconds)
    sys.stderr.flush()
    os._exit(0)  # Blender 4.2 crashes in an ordinary exit
