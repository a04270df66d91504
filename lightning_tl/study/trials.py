"""Trials that measure the rates of a study: a few scenes of its data sets, a few training steps of each stage."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from lightning_tl._io.processes import die_with_parent, worker_context
from lightning_tl.errors import UserError
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.preflight import Draft
from lightning_tl.study.rates import (
    Rates,
    RenderRates,
    Seconds,
    StageRates,
    Watch,
    mean_rendering,
    mean_training,
    total,
)
from lightning_tl.study.records import load_json
from lightning_tl.study.run_counts import kinds_of
from lightning_tl.study.runs import Call, compare, output_to, train_and_test
from lightning_tl.study.shapes import Shards

T = TypeVar("T")
#: Configurations whose kind of run this process has done before.
_WARMED: set[str] = set()

#: Steps of a trial, and those before, which are slower.
_STEPS, _WARM = 60, 10
#: Batches of a validation and of the test that are timed.
_BATCHES = 8
#: Scenes of a rendering trial, besides the first.
_SCENES = 4
#: Data sets that are rendered for a trial, and kinds of runs of a stage that are tried; others take their mean.
_MOST_SETS, _MOST_KINDS = 4, 6


def render_trial(data: DataSet, folder: Path) -> RenderRates:
    """Render one scene, then more; the difference is the rate of an image."""
    from data_gen.config_check import load_config
    from data_gen.farm import render

    config = deepcopy(data.config)
    config["scenes_per_shard"] = 1
    loaded = load_config(config)
    views = loaded.camera.views
    laps: list[Seconds] = []
    ends: list[float] = []  # of scenes, by the clock
    before = [0]

    def progress(done: int, _total: int) -> None:
        if done > before[0]:  # the first report is of what was there before
            ends.append(time.perf_counter())
            before[0] = done

    for images, val in ((views, 0), ((1 + _SCENES) * views, views)):
        ends.clear()
        before[0] = views if laps else 0
        watch = Watch()
        render(loaded, folder, images, val, 1, progress)
        laps.append(watch.lap())
    first, second = laps
    # a worker's CPU time is known when it has ended; the clock tells its scenes apart
    cpu = max(second.cpu - first.cpu, 0.0) / (_SCENES * views)
    own = (ends[-1] - ends[0]) / ((len(ends) - 1) * views) if len(ends) > 1 else cpu
    image = Seconds(max(own, cpu), cpu)
    start = Seconds(max(first.clock - views * image.clock, 0.0), max(first.cpu - views * cpu, 0.0))
    size = sum(path.stat().st_size for path in folder.rglob("*.tar"))
    return RenderRates(start, image, size / (views * (_SCENES + 2)))


def train_trial(call: Call, threads: int) -> StageRates:
    """Do the beginning of a run as a study does it, with a few batches of its validation and test; return its rates.

    In a new process it is done twice, as the first is slower: it imports and fills caches.
    """
    import torch

    torch.set_num_threads(threads)
    with output_to(Path(f"{call.folder}.txt")):
        if call.args[0] not in _WARMED:
            _train_beginning(replace(call, folder=f"{call.folder}-first"))
            _WARMED.add(call.args[0])
        return _train_beginning(call)


def _train_beginning(call: Call) -> StageRates:
    from lightning.pytorch.callbacks import Callback

    watch = Watch()
    steps: list[Seconds] = []
    seen: dict[str, list[Seconds]] = {"val": [], "test": []}
    images = {"val": 0, "test": 0}
    batch_size = [0]
    whole = Watch()

    class Timer(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if not steps:
                batch_size[0] = getattr(trainer.datamodule, "batch_size", None) or 1
                watch.lap()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            steps.append(watch.lap())
            if len(steps) >= _STEPS:
                trainer.should_stop = True

        def on_validation_epoch_start(self, *_: Any) -> None:
            watch.lap()

        def on_validation_batch_end(self, _trainer: Any, _module: Any, _outputs: Any, batch: Any, *_: Any) -> None:
            images["val"] += len(batch[0])
            seen["val"].append(watch.lap())

        def on_validation_end(self, *_: Any) -> None:
            watch.lap()

        def on_test_epoch_start(self, *_: Any) -> None:
            watch.lap()

        def on_test_batch_end(self, _trainer: Any, _module: Any, _outputs: Any, batch: Any, *_: Any) -> None:
            images["test"] += len(batch[0])
            seen["test"].append(watch.lap())

    folder = Path(call.folder)
    folder.mkdir()
    cli, done = train_and_test(call, folder, None, [Timer()])
    compare(cli, call, done)
    timed = steps[_WARM:] or steps
    step = total(timed) * (1 / max(len(timed), 1))
    each = {part: total(seen[part]) * (1 / max(images[part], 1)) for part in seen}
    # a validation of a few images is mostly overhead: one image costs at most half of what it does in training
    most = step * (0.5 / max(batch_size[0], 1))
    val = min(each["val"], most, key=lambda item: item.clock)
    spent, own = total([*steps, *seen["val"], *seen["test"]]), whole.lap()
    start = Seconds(max(own.clock - spent.clock, 0.0), max(own.cpu - spent.cpu, 0.0))
    size = float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    return StageRates(start, step, val, each["test"], size)


def measure(draft: Draft, sets: Sequence[DataSet], workers: int, threads: int, folder: Path) -> Rates:
    """Measure the rates of a study: of renderings, then of each kind of run, as many at once as the study does.

    Args:
        draft: Runs of the study; of each kind the middle one is tried.
        sets: Its data sets; of many only some are tried.
        workers: Runs at a time.
        threads: Of each run.
        folder: For what the trials write.
    """
    folder.mkdir(parents=True, exist_ok=True)  # nothing may be rendered into it
    context = worker_context(["lightning_tl.study.fork_server", "lightning_tl.run"])
    with ProcessPoolExecutor(max(workers, 1), context, initializer=die_with_parent) as pool:
        tried = filling(spread(sets, _MOST_SETS), workers)
        places = [
            folder / "renders" / (data.name if data not in tried[:i] else f"{data.name} {i}")
            for i, data in enumerate(tried)
        ]
        names = [data.name for data in tried]
        rendered = [pool.submit(render_trial, *item) for item in zip(tried, places, strict=True)]
        found = _results("the trial of rendering", names, rendered)
        rendering = {name: mean_rendering(_of(name, names, found)) for name in dict.fromkeys(names)}
        calls = _calls(draft, folder, next(iter(rendering), ""))
        if not calls:
            raise UserError("the study has no run to try")
        kinds = filling(list(calls), workers)
        begun = [
            pool.submit(train_trial, replace(calls[kind], folder=str(folder / f"trial{i}")), threads)
            for i, kind in enumerate(kinds)
        ]
        measured = _results("the trial of", kinds, begun)
    stages = {kind: mean_training(_of(kind, kinds, measured)) for kind in calls}
    return Rates(workers, start_up(), stages, rendering)


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return items, or where there are more than so many, some at equal distances."""
    if len(items) <= most:
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * most)] for i in range(most)]


def filling(items: Sequence[T], workers: int) -> list[T]:
    """Return items, repeated in turn where they are fewer than the workers, so that none of these is idle."""
    return [items[i % len(items)] for i in range(max(workers, len(items)))] if items else []


def _of(name: str, names: Sequence[str], values: Sequence[T]) -> list[T]:
    return [value for other, value in zip(names, values, strict=True) if other == name]


def _results(what: str, names: Sequence[str], begun: Sequence[Future[T]]) -> list[T]:
    """Return what trials found.

    Raises:
        UserError: One failed.
    """
    from data_gen.dispatch import LostScenes

    found = []
    for name, item in zip(names, begun, strict=True):
        try:
            found.append(item.result())
        except Exception as error:  # of the user's classes, too
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            # of scenes that cannot be rendered, only the reason: their folder is gone by now
            reason = " ".join((error.reason if isinstance(error, LostScenes) else str(error)).split())
            raise UserError(f"{what} {name} failed: {kind}{reason}") from error
    return found


def _calls(draft: Draft, folder: Path, render: str) -> dict[str, Call]:
    """Return one run of each kind; of a stage with many kinds, of some."""
    kinds = kinds_of(draft.distinct())
    runs: dict[str, dict[str, list[Run]]] = {}
    for run in draft.runs:
        runs.setdefault(run.stage, {}).setdefault(kinds[run.name], []).append(run)
    calls = {}
    for own in runs.values():
        for kind in spread(list(own), _MOST_KINDS):
            run = own[kind][len(own[kind]) // 2]
            test = run.stage == "finetune"
            args = tuple(_arguments(run, render, folder))
            calls[kind] = Call(kind, "", "", args, test, None, "", str(folder / "targets"), test_at=run.test_at)
    return calls


def start_up() -> Seconds:
    """Return what the imports of a study's processes take."""
    watch = Watch()
    subprocess.run([sys.executable, "-c", "import lightning_tl.run"], check=True)
    return watch.lap()


def _arguments(run: Run, render: str, folder: Path) -> list[str]:
    """Return the arguments of a trial; where its data are rendered, it reads those of the rendering trial."""
    args = list(run.args)
    if run.render is not None:
        root = folder / "renders" / (run.render if (folder / "renders" / run.render).is_dir() else render)
        shards = load_json(root / "train" / "manifest.json", shape=Shards)["shards"]
        args += [f"--data.root={root}", f"--data.n={sum(shard['images'] for shard in shards)}"]
    return [*args, *(f"--trainer.limit_{part}_batches={_BATCHES}" for part in ("val", "test"))]
