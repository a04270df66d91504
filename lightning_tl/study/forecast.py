"""`study plan`: what a study will take, in words; the trials, the fixed grid, and the study in steps."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.study.config import Study
from lightning_tl.study.cost import STAGES, Cost, Estimator
from lightning_tl.study.curves import curves_of
from lightning_tl.study.expansion import Expansion, expand
from lightning_tl.study.plan import data_sets, plan
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.preflight import check_study, draw_up, prepare_renders
from lightning_tl.study.rates import Rates, read_rates, stage_of, write_rates
from lightning_tl.study.run_counts import work_of
from lightning_tl.study.run_study import workers
from lightning_tl.study.simulation import Planner, simulate
from lightning_tl.study.trials import measure


@dataclass(frozen=True)
class Forecast:
    """What a study will take.

    Attributes:
        rates: Of the machine.
        grid: All its runs.
        steps: With ``until``, what simulated studies took.
    """

    rates: Rates
    grid: Cost
    steps: list[Cost]


def forecast(study: Study, out: Path, assume: Path | None, write: Path | None, simulations: int) -> Forecast:
    """Check a study, measure rates in a short trial, and add up what it will take.

    Args:
        study: The study.
        out: Its folder; what is rendered there counts as still to be rendered.
        assume: File with rates, instead of a trial.
        write: File to write the rates to.
        simulations: Studies in steps that are played through.

    Raises:
        UserError: The study is wrong, or the rates are.
    """
    if simulations < 1:
        raise UserError(f"--simulations is {simulations}; it must be at least 1")
    study.check()
    rates = None if assume is None else read_rates(assume)
    for name in ("pretrain", "finetune"):
        if rates is not None and getattr(study, name) is not None and name not in map(stage_of, rates.stages):
            raise UserError(f"{assume}: the rates have no stage {name}; measure them again, without --assume")
    expansion = expand(study)
    curves = None if study.until is None else curves_of(expansion)
    sets = data_sets(expansion)
    check_study(expansion, sets, out.resolve())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepare_renders(sets, place / "none", place)
        draft = draw_up(expansion, place)
        if rates is None:
            rates = measure(draft, sets, workers(study), study.threads, place / "trial")
        if write is not None:
            write_rates(rates, write)
        val_images = study.render.val_images if study.render else 0
        work = work_of(draft.distinct(), place, val_images)

        def estimator() -> Estimator:
            return Estimator(study, rates, work, {data.name: _per_shard(data) for data in sets})

        stages = [_trial_stage(draft.trials, draft.runs), draft.runs]
        grid = estimator().add(sets, stages, set())
        played = []
        if curves is not None:
            planner = _planner(place)
            played = [simulate(curves, planner, estimator(), seed)[0] for seed in range(simulations)]
    return Forecast(rates, grid, played)


def _trial_stage(trials: Sequence[Run], runs: Sequence[Run]) -> list[Run]:
    """Return what is done before a value is chosen: all pre-trainings and the trial runs."""
    return [*(run for run in runs if run.stage == "pretrain"), *trials] if trials else []


def _per_shard(data: DataSet) -> int:
    from data_gen.config_check import load_config

    config = load_config(data.config)
    return config.scenes_per_shard * config.camera.views


def _planner(place: Path) -> Planner:
    """Return the planner of simulated studies: the first value to choose from is always chosen."""
    kept: dict[tuple[str, bool], list[Run]] = {}

    def planned(part: Expansion, trials: bool) -> list[Run]:
        key = repr(part.pretrain), trials
        if key not in kept:
            choice = part.study.choose
            if trials or choice is None:
                kept[key] = plan(part, place)
            else:
                value = {"chosen": choice.values[0]}
                kept[key] = plan(part, place, defaultdict(lambda: value, {"": value}))
        return kept[key]

    return planned


def text(found: Forecast, study: Study) -> str:
    """Return a forecast for the terminal."""
    grid, size = found.grid, found.rates
    lines = ["The whole grid:" if found.steps else "The study:", *_table(grid), ""]
    lines.append(f"{size.workers} runs at a time: {duration(grid.clock)}; {_disk(grid.size)} on disk.")
    if grid.images:
        lines[-1] = f"{grid.images:,} images to render. " + lines[-1]
    if found.steps:
        until = study.until
        asked = until.question if until else ""
        lines += ["", f"In steps, until {asked} is decided, by {len(found.steps)} simulated studies:"]
        lines += _spread(found.steps)
        lines.append(
            "Their curves are drawn from what is taken for likely before any run: alpha uniform in 0.02 to 1.2, C any "
            "share of the error at the smallest size, noise of a pre-training 0.25 to 10 %"
            + (f" (here {100 * until.noise:g} %)" if until and until.noise else "")
            + ", of a fine-tuning 2 %."
        )
    return "\n".join(lines)


def _table(cost: Cost) -> list[str]:
    rows = [["", "runs", "one by one", "CPU time"]]
    for name in STAGES:
        if cost.runs[name]:
            own = cost.seconds[name]
            rows.append([name, f"{cost.runs[name]:,}", duration(own.clock), duration(own.cpu)])
    whole = [duration(sum(getattr(own, of) for own in cost.seconds.values())) for of in ("clock", "cpu")]
    trainings = sum(cost.runs[name] for name in STAGES if name not in ("start", "render"))
    rows.append(["in all", f"{trainings:,}", *whole])
    return _aligned(rows)


def _spread(costs: Sequence[Cost]) -> list[str]:
    """Return median and 90th percentile of simulated studies."""
    rows = [["", "median", "in 9 of 10 at most"]]
    for name, values, words in (
        ("pre-trainings", [item.runs["pre-train"] for item in costs], _count),
        ("images to render", [item.images for item in costs], _count),
        ("time", [item.clock for item in costs], duration),
        ("CPU time", [sum(part.cpu for part in item.seconds.values()) for item in costs], duration),
    ):
        rows.append([name, *(words(float(value)) for value in np.quantile(values, [0.5, 0.9]))])
    return _aligned(rows)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = [[text.rjust(w) for text, w in zip(row, width, strict=True)] for row in rows]
    return ["  " + "  ".join([row[0].strip().ljust(width[0]), *row[1:]]) for row in cells]


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it, with two or three digits."""
    if seconds < 99:
        return f"{seconds:.2g} s"
    if seconds < 6000:
        return f"{seconds / 60:.3g} min"
    hours = seconds / 3600
    return f"{hours:.3g} h" if hours < 100 else f"{hours:,.0f} h"


def _disk(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
