"""Images a second and CPU time an image of the renderer, and both beside stock BlenderProc.

    python benchmarks/rendering.py [--workers 2] [--images 256]
    python benchmarks/rendering.py --stock [--sizes 64 224] [--scenes 3] [--views 4] [--reference 128]

Each setting is rendered twice into a temporary folder: once a single shard (the cost of starting), once in full. The
rates are of the difference.

With --stock the same scenes are rendered by our calls and by BlenderProc's own (its denoiser, bounces, outputs), at
equal samples and with the same labels, in a process each, both at once; see rendering_side.py. The CPU time of a
process is compared, start apart. Each side's images are compared with its own at many samples without a denoiser (root
mean square error of 8-bit values, structural similarity). Those cost the most: above 64 pixels only some views of each
scene have one. "Outside Cycles" is our time beside BlenderProc's render call.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from data_gen.farm import render
from data_gen.scene_sampler import RenderConfig, config_from_dict, config_to_dict, load_config, sample_scene

RENDER = Path(__file__).parents[1] / "configs" / "render"
ROOM = {"categories": ["all"], "image": {"size": 64, "samples": 4}}


def settings() -> dict[str, RenderConfig]:
    digits, shapes = (load_config(RENDER / f"{name}.yaml") for name in ("digits", "shapes"))
    at_64 = config_to_dict(digits)
    at_64["image"]["size"] = 64
    return {
        "digits.yaml (48 px, 4 samples)": digits,
        "shapes.yaml (48 px, 4 samples)": shapes,
        "digits at 64 px, 4 samples": config_from_dict(at_64),
        "closed room, up to ten objects, 64 px, 4 samples, 2 bounces": config_from_dict(ROOM),
        "the same with 10 views and depth": config_from_dict(
            {**ROOM, "camera": {"views": 10}, "image": {"size": 64, "samples": 4, "depth": True}}
        ),
    }


def measure(config: RenderConfig, images: int, workers: int) -> tuple[int, float, float]:
    """Return the images rendered, the seconds and the CPU seconds they took."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        rendered = render(config, Path(folder), images, workers=workers).rendered
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return rendered, seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def side(config: RenderConfig, scenes: int, views: int, folder: Path, name: str) -> dict[str, np.ndarray]:
    """Render the first views of the first scenes by one side in a fresh Blender."""
    folder = folder / f"{name}-{config.image.samples}"
    folder.mkdir()
    specs = [sample_scene(config, 0, "train", i) for i in range(scenes)]
    files = [folder / f for f in ("config.json", "specs.pickle", "out.npz")]
    files[0].write_text(json.dumps(config_to_dict(config)))
    files[1].write_bytes(pickle.dumps([replace(spec, cameras=spec.cameras[:views]) for spec in specs]))
    root = Path(__file__).parents[1]
    command = [sys.executable, str(Path(__file__).with_name("rendering_side.py")), name, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})
    if done.returncode:
        sys.exit(done.stderr)
    return dict(np.load(files[2]))


def against_stock(sizes: list[int], scenes: int, views: int, reference: int) -> None:
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    print("size samples  side  images  CPU ms/image  ratio  compared  RMSE   SSIM  outside Cycles")
    for size in sizes:
        image = {"size": size, "samples": 4 if size <= 64 else 16}
        config = config_from_dict({**ROOM, "camera": {"views": views}, "image": image})
        exact = {**ROOM, "camera": {"views": views}, "image": {**image, "samples": reference, "denoise": False}}
        some = min(views, max(1, round(views * (64 / size) ** 2)))
        names = ("stock", "ours")
        with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(len(names)) as both:
            folder = Path(temporary)
            found = list(both.map(partial(side, config, scenes, views, folder), names))
            targets = list(both.map(partial(side, config_from_dict(exact), scenes, some, folder), names))
        cost = [float(one["seconds"]) / len(one["images"]) for one in found]
        for name, one, target, seconds in zip(names, found, targets, cost, strict=True):
            compared = one["images"].reshape(scenes, views, size, size, 3)[:, :some].reshape(-1, size, size, 3)
            a, b = (torch.tensor(x.astype(np.float32)).movedim(-1, 1) for x in (compared, target["images"]))
            rmse, ssim = float((a - b).square().mean().sqrt()), float(similarity(a, b, data_range=255.0))
            outside = f"{1 - one['inside'] / one['seconds']:.1%}" if "inside" in one else ""
            print(
                f"{size:4} {image['samples']:7}  {name:5} {len(one['images']):6} {1000 * seconds:13.0f} "
                f"{cost[0] / seconds:6.2f} {len(a):9}  {rmse:5.2f}  {ssim:.3f}  {outside}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--stock", action="store_true", help="compare with stock BlenderProc")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--reference", type=int, default=128, help="samples of the images compared with")
    arguments = parser.parse_args()
    if arguments.stock:
        against_stock(arguments.sizes, arguments.scenes, arguments.views, arguments.reference)
        return
    print(f"{'setting':62} images/s  CPU ms/image  start s")
    for name, config in settings().items():
        config.scenes_per_shard = 4
        few = measure(config, arguments.workers, arguments.workers)
        many = measure(config, arguments.images, arguments.workers)
        images, seconds, cpu = (b - a for a, b in zip(few, many, strict=True))
        print(f"{name:62} {images / seconds:8.1f}  {1000 * cpu / images:12.1f}  {few[1]:7.1f}", flush=True)


if __name__ == "__main__":
    main()
