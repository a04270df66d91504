"""How often intervals contain the truth when the test images are a sample.

    python benchmarks/image_sampling.py             # one test set: coverage with what it adds, and without
    python benchmarks/image_sampling.py --weights   # points tested to different precision: weighted, and not

Simulated studies of two renderings, seven sizes and one seed each; the truth is the error on all images that exist.
Intervals have a nominal 95 %.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from laws.tested_worlds import SIZES, World, law

from lightning_tl.laws.compare import log_ratio
from lightning_tl.laws.fitting import fit_cells, points_of
from lightning_tl.laws.forms import TransferLaw
from lightning_tl.laws.group_fits import analyse
from lightning_tl.laws.image_weights import weighted_by_images
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


def weighted(seed: int, images: list[int], noise: float) -> dict[str, tuple[float, bool, float]]:
    """Return for fits with and without weights how far log error is off at 4 times the largest size, and the band.

    Each run is tested on images of its own, so many of each size.
    """
    rng = np.random.default_rng([seed, *images])
    true = (rng.uniform(0.1, 0.3), rng.uniform(0.3, 0.8), rng.uniform(0.05, 0.3))
    real = law(SIZES, *true) * np.exp(noise * rng.standard_normal(len(SIZES)))
    error = rng.binomial(images, real) / images
    points = points_of(TransferLaw(), SIZES, error, own_image_variance=(1 - error) / error / images)
    found = {}
    for name, cells in (("weighted", weighted_by_images(TransferLaw(), [points])[0]), ("not", points)):
        fitted = fit_cells(TransferLaw(), cells)
        low, high = (float(end[0]) for end in fitted.band(AT))
        missed = float(np.log(fitted.predict([AT])[0] / law(AT, *true)))
        found[name] = (missed, low <= law(AT, *true) <= high, np.log(high / low))
    return found


def print_weights(worlds: int, noise: float) -> None:
    """Print what weights by the test images bring."""
    layouts = {
        "2,000 images each": [2000] * 7,
        "500, the two largest sizes 20,000": [500] * 5 + [20_000] * 2,
        "20,000, the two largest sizes 500": [20_000] * 5 + [500] * 2,
    }
    print(f"{'tested on':36} {'fit':10} {'RMS log error':>14} {'covers':>8} {'median width':>13}")
    for label, images in layouts.items():
        found = [weighted(i, images, noise) for i in range(worlds)]
        for name in found[0]:
            missed, inside, width = zip(*(item[name] for item in found), strict=True)
            rms, median = float(np.sqrt(np.mean(np.square(missed)))), float(np.median(width))
            print(f"{label:36} {name:10} {rms:14.4f} {100 * np.mean(inside):6.1f} % {100 * median:11.1f} %", flush=True)


def main() -> None:
    """Print coverage and median width of each interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000, 5000])
    parser.add_argument("--noise", type=float, default=0.02, help="relative scatter of pre-training runs")
    parser.add_argument("--weights", action="store_true", help="points that were tested to different precision")
    options = parser.parse_args()
    if options.weights:
        print_weights(options.worlds, options.noise)
        return
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
