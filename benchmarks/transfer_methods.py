"""Simulations of the comparison of transfer methods: how often are its claims wrong, and what does it find?

    python benchmarks/transfer_methods.py negative  # negative transfer: false alarms among all methods, power
    python benchmarks/transfer_methods.py front     # off the front of error against forgetting: false claims, power
    python benchmarks/transfer_methods.py choice    # how much higher the error of the method to take is than the lowest
    python benchmarks/transfer_methods.py delay     # a turn over budgets that comes later: coverage, false claims
    python benchmarks/transfer_methods.py samples   # samples needed and their exponent: coverage of the intervals

Worlds have a known truth: nine methods on the same pre-trainings and draws. A draw moves the log error of all methods
alike (standard deviation 10 %), a run has a noise of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "study" / "transfer_methods"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "study" / "overtraining"))

from method_worlds import TARGET, sample_world, study
from turning_curves import BUDGETS, curves

from lightning_tl.laws.samples_needed import exponent, samples_needed
from lightning_tl.study.overtraining.delay import delay
from lightning_tl.study.transfer_methods.comparison import SettingResult, compare_methods
from lightning_tl.study.transfer_methods.methods_table import settings

METHODS = (
    "full",
    "linear_probe",
    "bitfit",
    "bn_only",
    "l2sp(strength=0.01)",
    "l2sp(strength=0.1)",
    "lora(rank=4)",
    "partial(share=0.5)",
    "partial(share=0.2)",
)
LEVEL = 0.95


def compared(table: pd.DataFrame) -> list[SettingResult]:
    return compare_methods(settings(table), LEVEL)


def share(hits: int, of: int) -> str:
    """Return a share with its 95 % binomial interval."""
    if not of:
        return "none"
    low, high = stats.binomtest(hits, of).proportion_ci(method="exact")
    return f"{100 * hits / of:5.1f} % ({100 * low:.1f} to {100 * high:.1f}) of {of}"


def negative(worlds: int) -> None:
    """Name negative transfer where there is none, and where two methods have a higher error than scratch."""
    for draws, seeds in ((3, 1), (5, 1), (5, 2), (10, 1)):
        for noise in (0.02, 0.05):
            alarms = found = harmful = wrong = 0
            for world in range(worlds):
                kind = {"sizes": (100,), "draws": draws, "seeds": seeds, "noise": noise, "rng": world}
                kind |= {"scratch": 0.2, "between": noise if seeds > 1 else 0.0}
                (result,) = compared(study(dict.fromkeys(METHODS, 0.2), **kind))  # all on the boundary
                alarms += any(item.p_negative <= 1 - LEVEL for item in result.methods)
                truth = dict.fromkeys(METHODS, 0.18) | {"partial(share=0.2)": 0.24, "linear_probe": 0.22}
                (result,) = compared(study(truth, **kind | {"rng": worlds + world}))
                named = {item.label for item in result.methods if item.p_negative <= 1 - LEVEL}
                found += "partial(share=0.2)" in named
                harmful += "linear_probe" in named
                wrong += bool(named - {"partial(share=0.2)", "linear_probe"})
            print(
                f"{draws} draws, {seeds} pre-trainings, noise {100 * noise:g} %: false alarms {share(alarms, worlds)}; "
                f"found at +20 % {share(found, worlds)}, at +10 % {share(harmful, worlds)}, wrong beside them "
                f"{share(wrong, worlds)}",
                flush=True,
            )


def front(worlds: int) -> None:
    """Call methods off the front: one that is equal in error, one that is worse in both."""
    for draws, seeds in ((3, 1), (5, 1), (5, 2), (10, 1)):
        for noise in (0.02, 0.05):
            wrong = wrong_pairs = found = 0
            for world in range(worlds):
                errors = {label: 0.2 + 0.01 * place for place, label in enumerate(METHODS[:8])}
                forgetting = {label: 0.4 - 0.05 * place for place, label in enumerate(METHODS[:8])}
                errors |= {METHODS[8]: 0.2}  # as low as the lowest, and forgets more: another is not better in both
                forgetting |= {METHODS[8]: 0.6}
                kind = {"sizes": (100,), "draws": draws, "seeds": seeds, "noise": noise}
                (result,) = compared(study(errors, forgetting, rng=world, **kind))
                off = {item.label for item in result.methods if item.place.standing == "off"}
                wrong += bool(off)
                errors[METHODS[8]] = 0.25
                (result,) = compared(study(errors, forgetting, rng=worlds + world, **kind))
                off = {item.label for item in result.methods if item.place.standing == "off"}
                found += METHODS[8] in off
                wrong_pairs += bool(off - {METHODS[8]})
            print(
                f"{draws} draws, {seeds} pre-trainings, noise {100 * noise:g} %: wrongly off {share(wrong, worlds)} "
                f"and {share(wrong_pairs, worlds)}; found (+25 % error, 0.2 more forgetting) {share(found, worlds)}",
                flush=True,
            )


def choice(worlds: int) -> None:
    """Choose a method; the truth has methods whose errors are equal, 5 % and 20 % higher."""
    for draws in (3, 5, 10):
        for noise in (0.02, 0.05):
            excess, right, covered = [], 0, 0
            for world in range(worlds):
                errors = dict.fromkeys(METHODS, 0.24) | {"full": 0.2, "lora(rank=4)": 0.2, "l2sp(strength=0.1)": 0.21}
                forgetting = dict.fromkeys(METHODS, 0.01) | {"full": 0.3, "lora(rank=4)": 0.02}
                forgetting |= {"l2sp(strength=0.1)": 0.1}
                table = study(errors, forgetting, sizes=(100,), draws=draws, noise=noise, rng=world)
                (result,) = compared(table)
                excess.append(errors[result.take] / 0.2 - 1)
                right += result.take == "lora(rank=4)"
                # the truth of a difference is that of mean errors, which luck of draws raises by a factor
                low, high = result.method("lora(rank=4)").error_to_full.interval(LEVEL)
                covered += low <= 0 <= high
            print(
                f"{draws} draws, noise {100 * noise:g} %: taken is the one that forgets least at the lowest error in "
                f"{share(right, worlds)}; error above the lowest: mean {100 * np.mean(excess):.1f} %, over 10 % in "
                f"{share(int(np.sum(np.array(excess) > 0.1)), worlds)}; interval of a difference covers "
                f"{share(covered, worlds)}",
                flush=True,
            )


def samples(worlds: int) -> None:
    """Ask for the fine-tuning images needed by three models, and the exponent with which they fall."""
    cases: dict[str, dict[str, Any]] = {
        "as it is": {},
        "a floor of 8 %": {"floor": 0.08},
        "three sizes, a power law": {"sizes": (50, 150, 400)},
        "five draws": {"draws": 5},
        "little luck of draws": {"luck": 0.02},
        "three pre-trainings": {"seeds": 3, "between": 0.05},
        "a steep fall": {"power": 0.8},
    }
    for name, case in cases.items():
        covered = asked = exponents = bounded = 0
        for world in range(worlds):
            curves, truth, power = sample_world(np.random.default_rng(world), **case)
            found = [samples_needed(curve, TARGET) for curve in curves]
            covered += sum(one.interval[0] <= true <= one.interval[1] for one, true in zip(found, truth, strict=True))
            asked += len(truth)
            fall = exponent(found, "parameters")
            exponents += fall is not None and fall.interval[0] <= power <= fall.interval[1]
            bounded += fall is not None and fall.bounded > 0
        print(
            f"{name}: s {share(covered, asked)}; exponent {share(exponents, worlds)}, of which only bounded on a side "
            f"{bounded}",
            flush=True,
        )


def delayed(worlds: int) -> None:
    """Compare pairs of curves that turn at known budgets."""
    for turns in ((256, 256), (181, 256), (181, 512), (256, 300)):
        for seeds, draws in ((2, 2), (2, 4), (3, 3)):
            covered = claimed = 0
            for world in range(worlds):
                pair = curves(turns, np.random.default_rng(world), seeds, draws)
                _, (low, high), p, _ = delay(BUDGETS, *pair, seed=world)
                covered += low <= turns[1] / turns[0] <= high
                claimed += p <= 1 - LEVEL
            print(
                f"turns at {turns[0]} and {turns[1]} steps, {seeds} pre-trainings, {draws} draws: interval covers "
                f"{share(covered, worlds)}; delay claimed {share(claimed, worlds)}",
                flush=True,
            )


def main() -> None:
    """Run one of the simulations."""
    kinds: dict[str, Callable[[int], None]] = {
        "negative": negative,
        "front": front,
        "choice": choice,
        "delay": delayed,
        "samples": samples,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--worlds", type=int, default=400)
    options = parser.parse_args()
    begun = time.perf_counter()
    kinds[options.kind](options.worlds)
    print(f"{options.worlds} worlds each, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
