"""Runs on warm worker processes of this machine."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from lightning_tl._io.processes import die_with_parent, worker_context
from lightning_tl.study.runs import Call, Outcome, do_run


class LocalEngine:
    """Warm processes for training runs; they import the libraries while the parent does something else.

    Args:
        workers: Number of processes.
        threads: CPU threads of each process.
    """

    def __init__(self, workers: int, threads: int = 1) -> None:
        self.workers, self.threads = workers, threads
        self._context = worker_context(["lightning_tl.study.fork_server", "lightning_tl.run"])
        self._running: dict[Future[Outcome], Call] = {}
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(self.workers, self._context, _start_worker, (self.threads,))
        pool.submit(os.getpid)  # starts the fork server, and with it the imports
        return pool

    @property
    def free(self) -> int:
        """Number of further calls that it can accept now."""
        return self.workers - len(self._running)

    def submit(self, call: Call) -> None:
        """Begin a run."""
        try:
            future = self._pool.submit(do_run, call)
        except BrokenProcessPool:  # an idle worker has died
            self._pool = self._start()
            future = self._pool.submit(do_run, call)
        self._running[future] = call

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the outcomes of ended calls, after waiting at most ``seconds`` for the first."""
        done, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        outcomes, broken = [], False
        for future in done:
            call = self._running.pop(future)
            try:
                outcomes.append(future.result())
            except BrokenProcessPool:
                # the pool does not say which process died: all runs that were in progress are tried again
                broken = True
                message = "its worker process ended unexpectedly (out of memory, or killed)"
                outcomes.append(Outcome(call.name, error=message))
        if broken:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = self._start()
        return outcomes

    def close(self) -> None:
        """End the processes at once; finished runs have their records."""
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.kill()  # a run in progress would catch a gentler signal, and go on for a while
        self._pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    # A worker must end when the study's process is killed. For the kernel its parent is the fork server, which ends
    # with that process on Linux; elsewhere this thread notices.
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    die_with_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)  # with more, the workers would compete for the cores
    warnings.filterwarnings("ignore")
