"""Runs a study: renders, chooses settings by trials, trains, writes the tables. Finished work is not repeated."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import replacing
from lightning_tl.progress import progress_bar
from lightning_tl.study.choice import choose
from lightning_tl.study.collect import collect
from lightning_tl.study.complexity import measure_complexity, named_checkpoint
from lightning_tl.study.config import Study
from lightning_tl.study.curves import Curves, curves_of
from lightning_tl.study.execution import Engine, Records, load_records, run_all
from lightning_tl.study.expansion import Expansion, expand
from lightning_tl.study.facts import Facts, read_facts
from lightning_tl.study.pinned_texts import with_pinned_texts
from lightning_tl.study.plan import data_sets, plan
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.preflight import check_study, describe
from lightning_tl.study.records import load_json
from lightning_tl.study.run_steps import run_in_steps, trial_part
from lightning_tl.study.shapes import Shards
from lightning_tl.study.step_words import candidate_lines
from lightning_tl.study.steps import Step, begun, is_final, taken
from lightning_tl.study.still_falling import still_falling
from lightning_tl.study.store import fetch_renders, fetch_runs, fetch_targets
from lightning_tl.study.trained import Trained

_COLLECT_SECONDS = 10.0  # between two writings of the tables while runs are in progress


def run_study(study: Study, out: Path) -> dict[str, str]:
    """Render and train what is missing, and write ``results.csv`` and ``measurements.csv``.

    Args:
        study: The study.
        out: Folder for all files of the study. Several processes on one folder share its training runs; while one
            renders, the others wait.

    Returns:
        Run name → error of the failed runs; all others are finished.

    Raises:
        UserError: The study is wrong, what rendering needs is missing, or a scene cannot be rendered.
    """
    study.check()
    if study.complexity is not None:
        named_checkpoint(study.complexity)  # it is needed at the end: check it now
    out = out.resolve()
    study = with_pinned_texts(study, out, record=True)
    expansion = expand(study)
    curves = None if study.until is None else curves_of(expansion)
    sets = data_sets(expansion)
    check_study(expansion, sets, out)
    facts = Facts(out / "study.json", study)
    ready: dict[str, int] = {}
    if curves is None:
        _render_all(sets, out, study, facts, ready)
    engine = _engine(study)
    try:
        if curves is None:
            with facts.stage("train"):
                done = _train(expansion, expansion, sets, out, engine, facts)
        else:

            def train(part: Expansion, trials: Expansion) -> Trained:
                needed = data_sets(part)
                _render_all(needed, out, study, facts, ready)
                with facts.stage("train"):
                    return _train(part, trials, needed, out, engine, facts)

            done = run_in_steps(curves, facts, max(1, engine.free), train)
    finally:
        engine.close()
    if study.complexity is not None and not done.failures:
        traits = measure_complexity(study.complexity, done.sets, done.runs, done.records, out, study.store)
        collect(done.runs, done.sets, done.records, out, traits)
    facts.write(failures=done.failures)
    return done.failures


def _render_all(sets: list[DataSet], out: Path, study: Study, facts: Facts, ready: dict[str, int]) -> None:
    """Render what is missing of data sets; ``ready`` has the images of those that were looked at before."""
    lacking = [data for data in sets if ready.get(data.name, 0) < data.images]
    with facts.stage("render"):
        for number, data in enumerate(lacking, start=1):
            _render(data, out, study, f"render {number}/{len(lacking)} {data.name}")
            ready[data.name] = data.images
        if study.store is not None and lacking:
            fetch_renders(study.store, out, sets)


def _train(
    expansion: Expansion, trials: Expansion, sets: list[DataSet], out: Path, engine: Engine, facts: Facts
) -> Trained:
    """Do the runs of an expansion; its value to choose is chosen by the trial runs of ``trials``."""
    study = expansion.study
    chosen: dict[str, Any] = {}
    failures: dict[str, str] = {}
    if study.choose is not None:
        tried = _plan(trials, out)
        with progress_bar("pre-train, and choose", "runs") as advance:
            records, failures = run_all(tried, out, engine, study.retries, study.threads, advance, store=study.store)
        if failures:
            return Trained(sets, tried, records, failures, stuck=True)
        chosen = choose(study.choose, tried, records)
        facts.write(chosen=chosen)
    runs = _plan(expansion, out, chosen)
    last = [time.monotonic()]

    def finished(records: Records) -> None:
        if time.monotonic() - last[0] > _COLLECT_SECONDS:
            last[0] = time.monotonic()
            collect(runs, sets, records, out)

    with progress_bar("train", "runs") as advance:
        records, failures = run_all(runs, out, engine, study.retries, study.threads, advance, finished, study.store)
    if study.store is not None:
        fetch_targets(study.store, out)
    facts.write(tested_on_validation=_tested_on_validation(runs, records))
    collect(runs, sets, records, out)
    facts.write(checkpoints=_checkpoint_names(runs, records), still_falling=still_falling(runs, records, out))
    return Trained(sets, runs, records, failures)


def _checkpoint_names(runs: list[Run], records: Records) -> dict[str, list[str]]:
    """Return, by stage, the names of the checkpoint files that runs start from or that were tested."""
    names: dict[str, set[str]] = {}
    for run in runs:
        if run.name in records and records[run.name]["checkpoint"]:
            names.setdefault(run.stage, set()).add(Path(records[run.name]["checkpoint"]).name)
    return {stage: sorted(files) for stage, files in names.items()}


def _tested_on_validation(runs: list[Run], records: Records) -> list[str]:
    """Return the data modules of fine-tunings that were tested on validation images, such as rendered data sets."""
    tuned = [records[run.name]["facts"] for run in runs if run.stage == "finetune" and run.name in records]
    return sorted({facts["data"] for facts in tuned if facts.get("tested_on_validation")})


def dry_run(study: Study, out: Path) -> str:
    """Check a study, and return what :func:`run_study` would do, as text; nothing is rendered or trained.

    Raises:
        UserError: The study is wrong.
    """
    study.check()
    if study.complexity is not None:
        named_checkpoint(study.complexity)
    out = out.resolve()
    expansion = expand(with_pinned_texts(study, out))
    curves = None if study.until is None else curves_of(expansion)
    sets = data_sets(expansion)
    draft = check_study(expansion, sets, out)
    text = describe(draft, sets, set(load_records(draft.distinct(), out)), out)
    if curves is None:
        return text
    lines = candidate_lines(curves, steps_so_far(curves, out), workers(study))
    return "\n".join([*lines, "if none of them can be left out:", text])


def steps_so_far(curves: Curves, out: Path) -> list[Step]:
    """Return the steps that a study's folder records."""
    return taken(read_facts(out.resolve() / "study.json"), curves)


@dataclass(frozen=True)
class Planned:
    """What is known of a study before or while it runs.

    Attributes:
        sets: The data sets.
        runs: The runs, as far as they can be planned.
        records: Run name → record of the finished runs.
        steps: With ``until``, the steps so far.
        ended: Whether no further run will be planned once these have ended.
    """

    sets: list[DataSet]
    runs: list[Run]
    records: Records
    steps: list[Step]
    ended: bool = True


def planned(study: Study, out: Path) -> Planned:
    """Return the data sets, runs and records that are known so far, without running anything."""
    study.check()
    out = out.resolve()
    study = with_pinned_texts(study, out)
    expansion = trials = expand(study)
    steps: list[Step] = []
    ended = True
    if study.until is not None:
        curves = curves_of(expansion)
        steps = steps_so_far(curves, out)
        ended = is_final(steps, curves)
        expansion, trials = curves.part(begun(steps, curves)), trial_part(steps, curves)
    sets = data_sets(expansion)
    if study.store is not None:
        fetch_renders(study.store, out, sets)
    if any(_rendered(data, out) < data.images for data in sets):
        return Planned(sets, [], {}, steps, ended=False)
    if study.choose is None:
        runs = _plan(expansion, out)
        return Planned(sets, runs, load_records(runs, out), steps, ended)
    runs = _plan(trials, out)
    records = load_records(runs, out)
    if len(records) < len(runs):  # where one of these has failed, no other runs will be planned
        return Planned(sets, runs, records, steps)
    runs = _plan(expansion, out, choose(study.choose, runs, records))
    return Planned(sets, runs, load_records(runs, out), steps, ended)


def _rendered(data: DataSet, out: Path) -> int:
    """Return how many training images of a data set are there, once its validation images are."""
    folder = out / "renders" / data.name
    if not (folder / "val" / "manifest.json").is_file():
        return 0
    shards = load_json(folder / "train" / "manifest.json", missing={"shards": []}, shape=Shards)["shards"]
    return sum(shard["images"] for shard in shards)


def _plan(expansion: Expansion, out: Path, chosen: dict[str, Any] | None = None) -> list[Run]:
    """Return the runs, after downloading their records from the store, where there is one."""
    study = expansion.study
    runs = plan(expansion, out, chosen)
    if study.store is not None:
        fetch_runs(study.store, out, [run.name for run in runs])
    return runs


def _engine(study: Study) -> Engine:
    if study.engine == "ray":
        from lightning_tl.study.ray_engine import RayEngine

        return RayEngine(study.address, study.threads, study.gpus, study.workers)
    from lightning_tl.study.local_engine import LocalEngine

    return LocalEngine(workers(study), study.threads)


def workers(study: Study) -> int:
    """Return how many runs this machine does at a time."""
    return study.workers or max(1, (os.cpu_count() or 1) // study.threads)


def _render(data: DataSet, out: Path, study: Study, title: str) -> None:
    from data_gen.config_check import load_config
    from data_gen.farm import render
    from lightning_tl._io.urls import to_place
    from lightning_tl.data.preview import contact_sheet
    from lightning_tl.data.rendered_images import RenderedImages

    folder = out / "renders" / data.name
    root = to_place(f"{study.store or out}/renders/{data.name}")
    with progress_bar(title, "images") as progress:
        render(
            load_config(data.config),
            root,
            data.images,
            data.val_images,
            study.workers,
            progress,
            engine=study.engine,
            address=study.address,
            wait=True,
            say=lambda note: print(f"note: {note}", file=sys.stderr),
        )
    for name, count, columns in (("sheet.png", 16, 4), ("sheet_narrow.png", 6, 1)):
        if not (folder / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            images = RenderedImages(root / "train", data.images)
            with replacing(folder / name) as beside:  # others may share this folder
                contact_sheet(images, count, side=96 if columns > 1 else 128, columns=columns).save(beside, "PNG")
