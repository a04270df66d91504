"""Whether a worker stays as small and as fast as it began: memory and scenes a second over many scenes in one process.

    python benchmarks/rendering_steady.py [--scenes 1000] [--views 2] [--size 64]

The closed room with up to ten objects, one worker that is never replaced. Every hundred scenes: its resident memory and
its scenes a second; at the end both as ratios of the last hundred to the second (the first has the start in it). Scenes
differ in cost by their objects, so a rate of a hundred has a spread of its own, which is printed too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from data_gen.farm import render
from data_gen.scene_sampler import config_from_dict


def worker_cost() -> tuple[float, float]:
    """Return the largest child's memory in MiB, and the CPU seconds that it has spent."""
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    found = [(0.0, 0.0)]
    for process in listing.stdout.split():
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # ps itself, which has ended
            continue
        ticks = int(fields[11]) + int(fields[12])
        found.append((pages * os.sysconf("SC_PAGE_SIZE") / 2**20, ticks / os.sysconf("SC_CLK_TCK")))
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    config = config_from_dict(
        {
            "categories": ["all"],
            "camera": {"views": arguments.views},
            "image": {"size": arguments.size, "samples": 4},
            "scenes_per_shard": 20,
        }
    )
    marks: dict[int, tuple[float, float, float]] = {}

    def progress(images: int, total: int) -> None:
        scenes = images // arguments.views
        if scenes % 100 == 0 and scenes not in marks:
            memory, cpu = worker_cost()
            marks[scenes] = (memory, cpu, time.perf_counter())
            if scenes:
                _, before, then = marks[scenes - 100]
                rate = 100 / (marks[scenes][2] - then)
                each = (cpu - before) * 10  # milliseconds a scene
                print(
                    f"{scenes:6} scenes {memory:7.0f} MiB {rate:6.2f} scenes/s {each:6.1f} CPU ms a scene", flush=True
                )

    with tempfile.TemporaryDirectory() as folder:
        render(config, Path(folder), arguments.scenes * arguments.views, progress=progress, recycle_scenes=10**9)
    memory = [marks[i][0] for i in sorted(marks)[1:]]
    cpu = np.diff([marks[i][1] for i in sorted(marks)])[1:]
    print(
        f"memory of the last hundred to the second: {memory[-1] / memory[1]:.3f}; largest to second: "
        f"{max(memory) / memory[1]:.3f}"
    )
    print(
        f"CPU time of the last hundred to the second: {cpu[-1] / cpu[0]:.3f}; spread between hundreds: "
        f"{cpu.std(ddof=1) / cpu.mean():.3f}"
    )


if __name__ == "__main__":
    main()
