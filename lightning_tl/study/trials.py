"""Trials that measure the rates of a study: a few scenes of its data sets, a few training steps of each stage."""

from __future__ import annotations

import multiprocessing as mp
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning_tl.errors import UserError, one_line
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.preflight import Draft
from lightning_tl.study.rates import Rates, RenderRates, Seconds, StageRates, Watch
from lightning_tl.study.records import load_json
from lightning_tl.study.runs import output_to
from lightning_tl.study.shapes import Shards

#: Steps of a trial, and those before, which are slower.
_STEPS, _WARM = 60, 10
#: Batches of a validation and of the test that are timed.
_BATCHES = 8
#: Scenes of a rendering trial, besides the first.
_SCENES = 4
#: Data sets that are rendered for a trial; others take their mean.
_MOST_SETS = 3


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


def train_trial(args: Sequence[str], test: bool, folder: str, threads: int) -> StageRates:
    """Do the beginning of a run twice, with a few batches of its validation and test; return the second's rates.

    The first in a process is slower, as it imports and fills caches.
    """
    import torch

    torch.set_num_threads(threads)
    with output_to(Path(f"{folder}.txt")):
        _train_beginning(args, test, f"{folder}-first")
        return _train_beginning(args, test, folder)


def _train_beginning(args: Sequence[str], test: bool, folder: str) -> StageRates:
    from lightning.pytorch.callbacks import Callback

    from lightning_tl.run import run

    watch = Watch()
    steps: list[Seconds] = []
    seen: dict[str, list[Seconds]] = {"val": [], "test": []}
    images = {"val": 0, "test": 0}
    whole = Watch()

    class Timer(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            if not steps:
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

    limits = [f"--trainer.limit_{part}_batches={_BATCHES}" for part in ("val", "test")]
    quiet = ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder}"]
    cli = run(["fit", *args, *limits, *quiet], callbacks=[Timer()])
    if test:
        cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    step = _total(steps[_WARM:] or steps) * (1 / max(len(steps[_WARM:] or steps), 1))
    each = {part: _total(seen[part]) * (1 / max(images[part], 1)) for part in seen}
    # a validation of a few images is mostly overhead: one image costs at most half of what it does in training
    most = step * (0.5 / cli.datamodule.batch_size)
    val = min(each["val"], most, key=lambda item: item.clock)
    spent, own = _total([*steps, *seen["val"], *seen["test"]]), whole.lap()
    start = Seconds(max(own.clock - spent.clock, 0.0), max(own.cpu - spent.cpu, 0.0))
    size = float(sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()))
    return StageRates(start, step, val, each["test"], size)


def measure(draft: Draft, sets: Sequence[DataSet], workers: int, threads: int, folder: Path) -> Rates:
    """Measure the rates of a study: renderings one after the other, then a trial of each stage, on all workers.

    Args:
        draft: Runs of the study; of each stage the middle one is tried.
        sets: Its data sets; of more than three the first three are tried.
        workers: Runs at a time.
        threads: Of each run.
        folder: For what the trials write.
    """
    folder.mkdir(parents=True, exist_ok=True)  # nothing may be rendered into it
    rendering = {data.name: render_trial(data, folder / "renders" / data.name) for data in sets[:_MOST_SETS]}
    calls: dict[str, list[str]] = {}
    for stage in ("pretrain", "finetune"):
        runs = [run for run in draft.runs if run.stage == stage]
        if runs:
            calls[stage] = _arguments(runs[len(runs) // 2], next(iter(rendering), ""), folder)
    if not calls:
        raise UserError("the study has no run to try")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["lightning_tl.study.fork_server", "lightning_tl.run"])
    stages = list(calls)
    tried = [stages[i % len(stages)] for i in range(max(workers, len(stages)))]
    with ProcessPoolExecutor(max(workers, 1), context) as pool:
        made = [
            pool.submit(train_trial, calls[stage], stage == "finetune", str(folder / f"trial{i}"), threads)
            for i, stage in enumerate(tried)
        ]
        try:
            found = [item.result() for item in made]
        except UserError:
            raise
        except Exception as error:  # of the user's classes, too
            raise UserError(f"a trial run failed: {type(error).__name__}: {one_line(error)}") from error
    rates = {
        stage: _average([item for name, item in zip(tried, found, strict=True) if name == stage]) for stage in calls
    }
    return Rates(workers, start_up(), rates, rendering)


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
    return args


def _average(items: Sequence[StageRates]) -> StageRates:
    share = 1 / len(items)
    parts = {
        name: _total([getattr(item, name) for item in items]) * share
        for name in ("start", "step", "val_image", "test_image")
    }
    return StageRates(**parts, checkpoint_bytes=share * sum(item.checkpoint_bytes for item in items))


def _total(items: Sequence[Seconds]) -> Seconds:
    return Seconds(sum(item.clock for item in items), sum(item.cpu for item in items))
