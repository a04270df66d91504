"""What a large data set costs, from a few images rendered here.

    python benchmarks/rendering_plan.py [--images 1280000] [--cores 64] [--scenes 12 2]

Scenes of ten views in a closed room with up to ten objects are rendered by one worker, at 64 px with 4 samples and at
224 px with 16, with PNG and with JPEG colours. A data set of one scene is rendered first, and what it costs, Blender's
start above all, is taken off. Core-hours are of CPU time, so that what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from data_gen.farm import render
from data_gen.scene_sampler import RenderConfig, config_from_dict

VIEWS = 10
SHARD_BYTES = 100e6  # a shard of about so much: minutes of a core, and a put of a second


def measure(config: RenderConfig, scenes: int) -> tuple[float, float, float]:
    """Return CPU seconds and seconds of the call, and bytes of the shards."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        render(config, Path(folder), scenes * VIEWS, workers=1)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        size = sum(path.stat().st_size for path in Path(folder).glob("train/shards/*.tar"))
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, seconds, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--cores", type=int, default=64)
    parser.add_argument("--scenes", type=int, nargs=2, default=[12, 2], help="measured at 64 px and at 224 px")
    given = parser.parse_args()
    print(
        f"{given.images} images     CPU s/image  s/image  kB/image  core-hours  on {given.cores} cores      GB  shards"
    )
    for (size, samples), scenes in zip(((64, 4), (224, 16)), given.scenes, strict=True):
        for colours in ("png", "jpg"):
            image = {"size": size, "samples": samples, "format": colours}
            shared = {"categories": ["all"], "camera": {"views": VIEWS}, "scenes_per_shard": 1, "image": image}
            config = config_from_dict(shared)
            few, many = measure(config, 1), measure(config, 1 + scenes)
            cpu, seconds, kept = ((b - a) / (scenes * VIEWS) for a, b in zip(few, many, strict=True))
            hours = cpu * given.images / 3600
            shards = -(-given.images // max(VIEWS, round(SHARD_BYTES / kept / VIEWS) * VIEWS))
            name = f"{size:4} px, {samples:2} samples, {colours}"
            print(
                f"{name}  {cpu:8.3f} {seconds:8.3f} {kept / 1e3:9.1f} {hours:11.0f} {hours / given.cores:10.1f} h "
                f"{kept * given.images / 1e9:9.0f} {shards:7}",
                flush=True,
            )


if __name__ == "__main__":
    main()
