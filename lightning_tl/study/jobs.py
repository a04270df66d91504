"""Training runs as jobs with records, on a few warm worker processes."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing as mp
import os
import shutil
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any, TextIO

from lightning_tl.errors import DISK_FULL, UserError, disk_full
from lightning_tl.study.records import fingerprint, read_record, write_whole


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        name: Also its folder under the runs' folder.
        args: Of ``lightning-tl fit``, without the folder; ``{NAME}`` stands for the best checkpoint of the job NAME,
            ``{runs}`` for the folder of all runs, so that a folder that was moved still has its results.
        steps: Training steps, for the progress bar.
        needs: Names of the jobs that come before it.
        test: Test the network after the last step.
        inputs: Whatever else its result depends on, such as the data's manifest.
    """

    name: str
    args: tuple[str, ...]
    steps: int
    needs: tuple[str, ...] = ()
    test: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)


def job_keys(jobs: Iterable[Job]) -> dict[str, str]:
    """Return each job's key: a hash of its arguments, its inputs and the keys of what it needs (given before it)."""
    keys: dict[str, str] = {}
    for job in jobs:
        keys[job.name] = fingerprint([job.args, job.inputs, job.test, [keys[name] for name in job.needs]])
    return keys


def run_job(args: list[str], folder: Path, test: bool, key: str) -> dict[str, Any]:
    """Do one run in this process, and write and return its record.

    Args:
        args: Of ``lightning-tl fit``, the folder included.
        folder: Of the run; emptied first.
        test: Test the network after the last step.
        key: Written into the record.
    """
    from lightning.pytorch.callbacks import Callback

    from lightning_tl.run import run

    class Report(Callback):
        """Tell the parent how many steps were done."""

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if _steps is not None and trainer.global_step % 10 == 0:
                _steps.put(10)

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun = time.perf_counter()
    with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log), _lightning_to(log):
        cli = run(args, callbacks=[Report()])
        metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
        checkpoint = cli.trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_path", "") or getattr(checkpoint, "last_model_path", "")
        score = getattr(checkpoint, "best_model_score", None)
        if test:
            results = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
            metrics |= {name: float(value) for name, value in results[0].items()}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UserError(f"{name} is {value}: the training diverged; lower model.optimizer.lr")
    record = {
        "key": key,
        "checkpoint": str(Path(best).relative_to(folder.resolve())) if best else "",
        "best": None if score is None else float(score),
        "metrics": metrics,
        "seconds": round(time.perf_counter() - begun, 3),
    }
    write_whole(folder / "record.json", json.dumps(record, indent=1) + "\n")
    return record


@contextmanager
def _lightning_to(log: TextIO) -> Iterator[None]:
    """Send Lightning's messages to a file: its handlers keep the standard error that was there at import."""
    loggers = map(logging.getLogger, ("lightning.pytorch", "lightning.fabric"))
    handlers = [handler for each in loggers for handler in each.handlers if isinstance(handler, logging.StreamHandler)]
    before = [handler.setStream(log) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)


_steps: Any = None  # in a worker: the queue on which it reports steps


def _end_with_parent() -> None:
    # A worker whose parent was killed must not train on alone. The kernel's parent-death signal would not do: to it
    # the parent is the fork server, which lives as long as its workers.
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start_worker(steps: Any) -> None:
    global _steps
    _steps = steps
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)  # one thread a worker: threads of several workers would fight for the cores
    warnings.filterwarnings("ignore")


def _guarded(args: list[str], folder: Path, test: bool, key: str) -> dict[str, Any] | str:
    try:
        return run_job(args, folder, test, key)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return disk_full(error)
        message = str(error) if isinstance(error, UserError) else traceback.format_exc()
        with (folder / "log.txt").open("a") as log:
            log.write(message)
        return message


@contextmanager
def _naming(jobs: Iterable[Job]) -> Iterator[None]:
    """Say which runs were going on where a worker died: the pool does not tell which one it was."""
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process ended without a word (out of memory, or killed); going on were "
            f"{', '.join(sorted(job.name for job in jobs))}; the same command goes on from what is finished"
        ) from error


class Workers:
    """Warm processes for training runs; they import the libraries while the parent does something else.

    Args:
        count: How many processes, of one thread each.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["lightning_tl.run"])
        self._steps: Any = context.Queue()
        self._pool = ProcessPoolExecutor(count, context, _start_worker, (self._steps,))
        self._pool.submit(os.getpid)  # starts the fork server, and with it the imports

    def run(self, jobs: list[Job], folder: Path, progress: Callable[[int, int], None]) -> dict[str, dict[str, Any]]:
        """Run the jobs that have no record yet, each after what it needs.

        Args:
            jobs: In an order in which needs come first.
            folder: A run's folder is ``folder / name``.
            progress: Called with (steps done, steps to do); runs that have a record count in neither.

        Returns:
            Name → record.

        Raises:
            UserError: A run failed; the others' records are kept.
        """
        keys = job_keys(jobs)
        records = {
            job.name: record
            for job in jobs
            if (record := read_record(folder / job.name / "record.json", keys[job.name])) is not None
        }
        waiting = [job for job in jobs if job.name not in records]
        done_steps, total = 0, sum(job.steps for job in waiting)
        if waiting:
            progress(0, total)
        running: dict[Future[dict[str, Any] | str], Job] = {}
        while waiting or running:
            for job in [job for job in waiting if all(name in records for name in job.needs)]:
                if len(running) == self.count:
                    break
                waiting.remove(job)
                args = ["fit", *self._resolve(job.args, records, folder)]
                args.append(f"--trainer.default_root_dir={folder / job.name}")
                with _naming([job, *running.values()]):
                    running[self._pool.submit(_guarded, args, folder / job.name, job.test, keys[job.name])] = job
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                with _naming(running.values()):
                    outcome = future.result()
                job = running.pop(future)
                if isinstance(outcome, str):
                    log = folder / job.name / "log.txt"
                    raise UserError(f"run {job.name} failed; its output is in {log}:\n{outcome.strip()}")
                records[job.name] = outcome
            done_steps = self._count(done_steps)
            progress(min(total, done_steps), total)
        if total:
            progress(total, total)
        return records

    def _count(self, steps: int) -> int:
        while True:
            try:
                steps += self._steps.get_nowait()
            except Empty:
                return steps

    @staticmethod
    def _resolve(args: tuple[str, ...], records: dict[str, dict[str, Any]], folder: Path) -> list[str]:
        places = {f"{{{name}}}": folder / name / record["checkpoint"] for name, record in records.items()}
        places["{runs}"] = folder
        resolved = []
        for argument in args:
            for placeholder, path in places.items():
                argument = argument.replace(placeholder, str(path))
            resolved.append(argument)
        return resolved

    def close(self) -> None:
        """End the processes at once; what was finished has its record."""
        for process in list(getattr(self._pool, "_processes", {}).values()):
            process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
