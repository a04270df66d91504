"""Images a second and CPU time an image of the renderer, start of the workers apart.

    python benchmarks/rendering.py [--workers 2] [--images 256]

Each setting is rendered twice into a temporary folder: once a single shard (the cost of starting), once in full. The
rates are of the difference.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from data_gen.farm import render
from data_gen.spec import RenderConfig, config_from_dict, config_to_dict, load_config

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=256)
    arguments = parser.parse_args()
    print(f"{'setting':62} images/s  CPU ms/image  start s")
    for name, config in settings().items():
        config.scenes_per_shard = 4
        few = measure(config, arguments.workers, arguments.workers)
        many = measure(config, arguments.images, arguments.workers)
        images, seconds, cpu = (b - a for a, b in zip(few, many, strict=True))
        print(f"{name:62} {images / seconds:8.1f}  {1000 * cpu / images:12.1f}  {few[1]:7.1f}", flush=True)


if __name__ == "__main__":
    main()
