"""How often intervals contain the truth when the test images are a sample: `python benchmarks/image_sampling.py`.

Simulated studies of two renderings, seven sizes and one seed each; the truth is the error on all images that exist.
Intervals of nominal 95 %, with what the test images add, and without it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from laws.tested_worlds import SIZES, World, law

from lightning_tl.laws.compare import log_ratio
from lightning_tl.laws.group_fits import analyse
from lightning_tl.laws.results_table import groups

AT = 256_000


def world(seed: int, images: int, noise: float, known: bool) -> dict[str, tuple[bool, float]]:
    """Return for each interval whether it holds the truth, and its width."""
    rng = np.random.default_rng([seed, images])
    true = [(rng.uniform(0.1, 0.3), rng.uniform(0.3, 0.8), rng.uniform(0.05, 0.3)) for _ in range(2)]
    simulated = World(rng, images, seed_noise=noise)
    for name, parameters in zip("ab", true, strict=True):
        for n in SIZES:
            simulated.run(name, n, law(n, *parameters))
    table = simulated.table()
    if not known:
        table = table.drop(columns=["error_stderr", "test_set"])
    first, second = analyse(groups(table, replicates=simulated.replicates if known else None))
    found = {}
    for name, n in (("law at the largest size", SIZES[-1]), ("law at 4 times that", AT)):
        low, high = (float(end[0]) for end in first.law.band(n))
        found[name] = (low <= law(n, *true[0]) <= high, np.log(high / low))
    low, high = (float(end[0]) for end in first.law.predict_interval(AT))
    new = law(AT, *true[0]) * np.exp(noise * rng.standard_normal())
    found["a new run there"] = (low <= new <= high, np.log(high / low))
    difference = log_ratio(first, SIZES[-1], second, SIZES[-1])
    ratio = np.log(law(SIZES[-1], *true[0]) / law(SIZES[-1], *true[1]))
    low, high = difference.interval
    found["difference, largest size"] = (low <= ratio <= high, high - low)
    if known:
        apart = sum(item.group.images.variance for item in (first, second))
        low, high = log_ratio(first, SIZES[-1], second, SIZES[-1], apart).interval
        found["the same, unpaired"] = (low <= ratio <= high, high - low)
    return found


def main() -> None:
    """Print coverage and median width of each interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000, 5000])
    parser.add_argument("--noise", type=float, default=0.02, help="relative scatter of pre-training runs")
    options = parser.parse_args()
    print(f"{'test images':>11}  {'interval':26} {'covers':>8} {'median width':>13}   without: covers   width")
    for images in options.images:
        tables = [[world(i, images, options.noise, known) for i in range(options.worlds)] for known in (True, False)]
        for name in tables[0][0]:
            cells = []
            for table in tables:
                values = [found[name] for found in table if name in found]
                if values:
                    inside, widths = zip(*values, strict=True)
                    cells.append(f"{100 * np.mean(inside):7.1f} % {100 * np.median(widths):11.1f} %")
            print(f"{images:11,}  {name:26} " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
