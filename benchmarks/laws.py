"""Simulations of the scaling laws: do intervals cover, which treatment of D predicts best, how fast is it?

    python benchmarks/laws.py coverage --simulations 1000
    python benchmarks/laws.py appendix-d
    python benchmarks/laws.py extrapolate
    python benchmarks/laws.py paired
    python benchmarks/laws.py full
    python benchmarks/laws.py speed

Nothing is read: each curve is drawn from a law with known parameters, and what is printed is measured against them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.special import chdtri

from lightning_tl.laws import FittedLaw, FullLaw, PowerLaw, TransferLaw, fit
from lightning_tl.laws.bootstrap import bootstrap
from lightning_tl.laws.clusters import cells
from lightning_tl.laws.region import regions_of
from lightning_tl.laws.shared_coefficient import fit_together

SIZES = 1000 * 2.0 ** np.arange(7)
LEVEL = 0.3  # error at 1000 images


def share(values: list[bool]) -> str:
    """A share with its standard error, in percent."""
    if not values:
        return "-"
    mean = float(np.mean(values))
    return f"{100 * mean:.1f} ± {100 * np.sqrt(mean * (1 - mean) / len(values)):.1f}"


def spread_of(values: list[float]) -> str:
    """The median of some values, with the range of 90 % of them."""
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def show(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    width = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * w for w in width], *rows]:
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) + " |")


def bounded(law: FittedLaw, name: str, limit: float) -> bool:
    """Whether a likelihood-ratio analysis with this limit on the RSS bounds a parameter on both sides."""
    region = regions_of([law.search], [limit])[0]
    low, high = region.extent(law.search.problem.form.quantity(name, law.search.problem.sizes))
    return bool(np.isfinite(low)) if name == "C" else low > 1.001e-3 and high < 9.99


def coverage(simulations: int, resamples: int, seed: int) -> None:
    """Seven sizes 1000·2^i, noise of 0.5 to 2 % in log error, alpha in 0.1 to 1, C in 0.1 to 0.95 of error(1000)."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[dict[str, float]]] = {"alpha": [], "C": [], "D": []}
    for _ in range(simulations):
        alpha, gap, noise = rng.uniform(0.1, 1), rng.uniform(0.1, 0.95), rng.uniform(0.005, 0.02)
        truth = {"alpha": alpha, "C": LEVEL * gap, "D": LEVEL * (1 - gap) * 1000**alpha}
        error = (truth["D"] * SIZES**-alpha + truth["C"]) * np.exp(noise * rng.standard_normal(len(SIZES)))
        law = fit(n=SIZES, error=error)
        boot = bootstrap(law, resamples, seed) if resamples else None
        best = law.search.rss
        limits = {"known": best + float(chdtri(1, 0.05)) * noise**2, "chi2": best * np.exp(float(chdtri(1, 0.05)) / 7)}
        for name, rows in found.items():
            low, high = law.interval(name)
            unbounded = not np.isfinite(high) or low <= 0
            row = {"noise": noise, "bias": law.params[name] / truth[name] - 1, "width": (high - low) / truth[name]}
            row |= {"covers": low <= truth[name] <= high, "unbounded": unbounded}
            row["identified"] = law.unidentified(name) is None
            row |= {key: bounded(law, name, limit) for key, limit in limits.items() if name != "D"}
            half = 1.959964 * law.stderr[name]
            row["jacobian"] = abs(law.params[name] - truth[name]) <= half
            if boot is not None:
                row["boot"] = boot.interval(name)[0] <= truth[name] <= boot.interval(name)[1]
            rows.append(row)
    head = ["noise", "", "bias, median", "width, median", "covers", "covers, unbounded counts", "identified"]
    head += [
        "covers where identified",
        "bounded, noise known",
        "bounded, F",
        "bounded, chi2",
        "covers: Jacobian",
        "bootstrap",
    ]
    table = []
    for label, least, most in (("0.5 to 1 %", 0.0, 0.01), ("1 to 2 %", 0.01, 1.0), ("all", 0.0, 1.0)):
        for name, rows in found.items():
            mine = [row for row in rows if least <= row["noise"] < most]
            identified = [row for row in mine if row["identified"]]
            table.append(
                [
                    label,
                    name,
                    f"{100 * np.median([row['bias'] for row in mine]):+.1f} %",
                    f"{100 * np.median([row['width'] for row in mine]):.0f} %",
                    share([bool(row["covers"]) for row in mine]),
                    share([bool(row["covers"] or row["unbounded"]) for row in mine]),
                    share([bool(row["identified"]) for row in mine]),
                    share([bool(row["covers"]) for row in identified]),
                    share([bool(row["known"]) for row in mine if "known" in row]),
                    share([not row["unbounded"] for row in mine]),
                    share([bool(row["chi2"]) for row in mine if "chi2" in row]),
                    share([bool(row["jacobian"]) for row in mine]),
                    share([bool(row["boot"]) for row in mine if "boot" in row]),
                ]
            )
    straight = []
    for _ in range(simulations // 4):
        alpha, noise = rng.uniform(0.1, 1), rng.uniform(0.005, 0.02)
        error = LEVEL * (SIZES / 1000) ** -alpha * np.exp(noise * rng.standard_normal(len(SIZES)))
        law = fit(n=SIZES, error=error)
        straight.append((law.unidentified("C") is None, law.interval("C")[0] > 0))
    identified, bound = (share([bool(pair[i]) for pair in straight]) for i in (0, 1))
    print(f"{len(straight)} straight curves (C = 0): C identified {identified}, its interval above 0 {bound}")
    print(f"{simulations} simulated curves; shares in percent ± standard error; width and bias relative to the truth")
    show(head, table)


def appendix_d(simulations: int, seed: int) -> None:
    """D = 0.5, alpha = 0.4, C = 0.5 against D = 1, alpha = 0.5, C = 0.5, log-noise 0.5 %: can a fit tell which?"""
    rng = np.random.default_rng(seed)
    pairs = [{"D": 0.5, "alpha": 0.4, "C": 0.5}, {"D": 1.0, "alpha": 0.5, "C": 0.5}]
    rows = []
    for truth, other in (pairs, pairs[::-1]):
        law = TransferLaw().predict(truth, SIZES, SIZES)
        excluded: dict[str, list[bool]] = {"D": [], "alpha": []}
        widths = []
        for _ in range(simulations):
            fitted = fit(n=SIZES, error=law * np.exp(0.005 * rng.standard_normal(len(SIZES))))
            for name, values in excluded.items():
                low, high = fitted.interval(name)
                values.append(not low <= other[name] <= high)
            low, high = fitted.interval("D")
            widths.append(high / max(low, 1e-300))
        rows.append([str(truth), share(excluded["D"]), share(excluded["alpha"]), f"{np.median(widths):.3g}"])
    show(["truth", "other D outside the interval", "other alpha outside", "interval of D, high / low, median"], rows)


def extrapolate(simulations: int, seed: int) -> None:
    """Fit on n < 64,000, predict 64,000 to 1,280,000: which treatment of D predicts best, and which D does it find?"""
    sizes = np.append(1000 * 2.0 ** np.arange(11), 1.28e6)
    small = sizes < 64_000
    modes: list[str | float] = ["free", "auto", "median", "shared", "pooled", 0.48, "power law"]
    rows = []
    for groups, spread, noise in (
        (3, 0.0, 0.005),
        (3, 0.5, 0.005),
        (12, 0.0, 0.005),
        (12, 0.5, 0.005),
        (3, 0.0, 0.003),
    ):
        rng = np.random.default_rng(seed)
        errors: dict[str | float, list[float]] = {mode: [] for mode in modes}
        inside: dict[str | float, list[bool]] = {mode: [] for mode in modes}
        said: dict[str | float, dict[str, list[float]]] = {mode: {"D": [], "alpha": []} for mode in modes}
        for _ in range(max(simulations // groups, 1)):
            curves, alphas = [], []
            for _ in range(groups):
                truth = {"D": 0.48 * np.exp(spread * rng.standard_normal())}
                truth |= {"alpha": rng.uniform(0.3, 0.55), "C": rng.uniform(0.15, 0.35)}
                alphas.append(truth["alpha"])
                law = TransferLaw().predict(truth, sizes, sizes)
                curves.append(law * np.exp(noise * rng.standard_normal(len(sizes))))
            points = [cells(sizes[small], np.log(curve[small])) for curve in curves]
            for mode in modes:
                power = mode == "power law"
                laws = fit_together(PowerLaw() if power else TransferLaw(), points, "free" if power else mode)
                said[mode]["D"].append(float(np.median([law.params["D"] for law in laws])))
                said[mode]["alpha"].append(float(np.median([law.params["alpha"] for law in laws]) - np.median(alphas)))
                for law, curve in zip(laws, curves, strict=True):
                    out = curve[~small]
                    low, high = law.predict_interval(sizes[~small])
                    errors[mode].append(float(np.sqrt(np.mean((law.predict(sizes[~small]) - out) ** 2))))
                    inside[mode] += list((low <= out) & (out <= high))
        for mode in modes:
            better = share([a < b for a, b in zip(errors[mode], errors["power law"], strict=True)])
            cells_ = [f"{np.mean(errors[mode]):.4f}", f"{np.median(errors[mode]):.4f}", better, share(inside[mode])]
            cells_ += [spread_of(said[mode]["D"]), spread_of(said[mode]["alpha"])]
            rows.append([f"{groups}", f"{spread:g}", f"{100 * noise:g} %", str(mode), *cells_])
    print("RMSE in error at 64,000 to 1,280,000 images; D = 0.48 with a spread of log D between groups")
    print("D and alpha: median over the groups; in brackets 5 to 95 % of the tables; alpha less the true median")
    head = ["groups", "spread", "noise", "D is", "RMSE, mean", "median", "better than the power law"]
    show([*head, "outcomes inside 95 %", "D", "alpha - true"], rows)


def paired(simulations: int, seed: int) -> None:
    """Six sizes, one pre-training each, two or three draws at every size: do intervals know what is shared?"""
    sizes, rows = 64 * 2.0 ** np.arange(6), []
    for draws in (2, 3):
        rng = np.random.default_rng(seed)
        hits: dict[str, list[bool]] = {}
        for _ in range(simulations):
            alpha, gap = rng.uniform(0.1, 0.8), rng.uniform(0.05, 0.9)
            truth = {"D": 0.12 * (1 - gap) * 64**alpha, "alpha": alpha, "C": 0.12 * gap}
            n, draw = np.repeat(sizes, draws), np.tile(np.arange(draws), len(sizes))
            luck = rng.uniform(0.005, 0.03) * rng.standard_normal(len(sizes))
            log = np.log(TransferLaw().predict(truth, n, n)) + np.repeat(luck, draws)
            log += (0.06 * rng.standard_normal(draws))[draw] + 0.02 * rng.standard_normal(len(n))
            far = float(TransferLaw().predict(truth, np.array([20480.0]), sizes)[0])
            for kind, law in (
                ("", fit(n=n, error=np.exp(log), draw=draw)),
                (", runs as independent", fit(n=n, error=np.exp(log))),
            ):
                for name in ("alpha", "C"):
                    low, high = law.interval(name)
                    hits.setdefault(name + kind, []).append(low <= truth[name] <= high)
                ends = law.band([20480])
                hits.setdefault(f"error(20,480){kind}", []).append(bool(ends[0][0] <= far <= ends[1][0]))
        rows += [[str(draws), name, share(values)] for name, values in hits.items()]
    show(["draws", "interval of", "covers"], rows)


def full(simulations: int, seed: int) -> None:
    """The full law: pre-training luck shared over fine-tuning sizes; and the published law, at the published sizes."""
    near = np.meshgrid(SIZES, [200.0, 800.0, 3200.0, 12800.0], indexing="ij")
    published = np.meshgrid(
        np.append(1000 * 2.0 ** np.arange(11), 1.28e6),
        1.281e6 * np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]),
        indexing="ij",
    )
    paper = {"delta": 41.8, "gamma": 0.478, "alpha": 0.544, "beta": 0.322}
    rows = []
    for name, grids, luck in (
        ("7 x 4 sizes", near, 0.0),
        ("7 x 4 sizes", near, 0.005),
        ("7 x 4 sizes", near, 0.02),
        ("published", published, 0.0),
        ("published", published, 0.005),
    ):
        rng = np.random.default_rng(seed)
        n, s = (grid.ravel() for grid in grids)
        hits: dict[str, list[bool]] = {}
        off = []
        for _ in range(simulations):
            truth = {"delta": 4.0, "gamma": rng.uniform(0.02, 0.3), "alpha": rng.uniform(0.3, 0.7), "beta": 0.32}
            truth = paper if name == "published" else truth
            noise = np.repeat(luck * rng.standard_normal(len(grids[0])), grids[0].shape[1])
            noise = noise + 0.01 * rng.standard_normal(len(n))
            law = fit(FullLaw(), n=n, s=s, error=np.minimum(FullLaw().predict(truth, n, s) * np.exp(noise), 1))
            off.append(abs(law.params["beta"] - truth["beta"]) <= 0.02)
            for parameter, value in truth.items():
                low, high = law.interval(parameter)
                hits.setdefault(parameter, []).append(low <= value <= high)
        rows.append([name, f"{100 * luck:g} %", *(share(values) for values in hits.values()), share(off)])
    head = ["sizes", "shared luck of a pre-training run", "delta", "gamma", "alpha", "beta", "beta within 0.02"]
    show(head, rows)


def speed(groups: int, resamples: int, seed: int) -> None:
    """Fit groups with profile intervals and a bootstrap each."""
    rng = np.random.default_rng(seed)
    curves = [LEVEL * (0.4 + 0.6 * (SIZES / 1000) ** -rng.uniform(0.2, 0.8)) for _ in range(groups)]
    curves = [curve * np.exp(0.01 * rng.standard_normal(len(SIZES))) for curve in curves]
    start = time.perf_counter()
    for curve in curves:
        law = fit(n=SIZES, error=curve)
        boot = bootstrap(law, resamples, seed)
        for name in law.form.parameters:
            law.interval(name)
            boot.interval(name)
    print(f"{groups} groups with profile intervals and {resamples} resamples each: {time.perf_counter() - start:.1f} s")


def main() -> None:
    """Run one of the simulations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["coverage", "appendix-d", "extrapolate", "paired", "full", "speed"])
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples; 0: none")
    parser.add_argument("--groups", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "coverage":
        coverage(given.simulations, given.resamples, given.seed)
    elif given.what == "speed":
        speed(given.groups, given.resamples, given.seed)
    else:
        run = {"appendix-d": appendix_d, "extrapolate": extrapolate, "paired": paired, "full": full}[given.what]
        run(given.simulations, given.seed)


if __name__ == "__main__":
    main()
