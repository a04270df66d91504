"""Runs a study: renders, chooses settings by trials, trains, writes the tables. Finished work is not repeated."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import replacing
from lightning_tl.progress import progress_bar
from lightning_tl.study.choice import choose
from lightning_tl.study.collect import collect
from lightning_tl.study.complexity import measure_complexity, named_checkpoint
from lightning_tl.study.config import Study
from lightning_tl.study.execution import Engine, Records, load_records, run_all
from lightning_tl.study.expansion import Expansion, expand
from lightning_tl.study.plan import data_sets, plan
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.preflight import check_study, describe
from lightning_tl.study.records import load_json, write_json
from lightning_tl.study.shapes import StudyFacts
from lightning_tl.study.still_falling import still_falling
from lightning_tl.study.store import fetch_renders, fetch_runs, fetch_targets

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
    expansion = expand(study)
    sets = data_sets(expansion)
    check_study(expansion, sets, out)
    facts = Facts(out / "study.json", study)
    with facts.stage("render"):
        for number, data in enumerate(sets, start=1):
            _render(data, out, study, f"render {number}/{len(sets)} {data.name}")
        if study.store is not None:
            fetch_renders(study.store, out, sets)
    engine = _engine(study)
    try:
        with facts.stage("train"):
            failures = _train(expansion, sets, out, engine, facts)
    finally:
        engine.close()
    facts.write(failures=failures)
    return failures


def _train(expansion: Expansion, sets: list[DataSet], out: Path, engine: Engine, facts: Facts) -> dict[str, str]:
    study = expansion.study
    chosen: dict[str, Any] = {}
    failures: dict[str, str] = {}
    if study.choose is not None:
        runs = _plan(expansion, out)
        with progress_bar("pre-train, and choose", "runs") as advance:
            records, failures = run_all(runs, out, engine, study.retries, study.threads, advance, store=study.store)
        if failures:
            return failures
        chosen = choose(study.choose, runs, records)
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
    if study.complexity is not None and not failures:
        collect(runs, sets, records, out, measure_complexity(study.complexity, sets, runs, records, out, study.store))
    return failures


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
    expansion = expand(study)
    sets = data_sets(expansion)
    draft = check_study(expansion, sets, out)
    return describe(draft, sets, set(load_records(draft.distinct(), out)), out)


def planned(study: Study, out: Path) -> tuple[list[DataSet], list[Run], Records]:
    """Return the data sets, runs and records that are known so far, without running anything."""
    study.check()
    out = out.resolve()
    expansion = expand(study)
    sets = data_sets(expansion)
    if study.store is not None:
        fetch_renders(study.store, out, sets)
    if any(not (out / "renders" / data.name / "val" / "manifest.json").is_file() for data in sets):
        return sets, [], {}
    if study.choose is None:
        runs = _plan(expansion, out)
        return sets, runs, load_records(runs, out)
    runs = _plan(expansion, out)
    records = load_records(runs, out)
    if len(records) == len(runs):
        runs = _plan(expansion, out, choose(study.choose, runs, records))
        records = load_records(runs, out)
    return sets, runs, records


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

    return LocalEngine(study.workers or max(1, (os.cpu_count() or 1) // study.threads), study.threads)


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


class Facts:
    """`study.json`: the study, the chosen settings, and the duration of each stage over all interruptions."""

    def __init__(self, path: Path, study: Study) -> None:
        self.path = path
        kept = load_json(path, missing={}, shape=StudyFacts)
        self.content: dict[str, Any] = {"seconds": kept.get("seconds", {}), "chosen": kept.get("chosen", {})}
        self.write(study=asdict(study), cores=os.cpu_count())

    def write(self, **facts: Any) -> None:
        """Add facts and write the file."""
        self.content |= facts
        write_json(self.path, self.content)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a stage's time."""
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = self.content["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - begun, 1)
            self.write()
