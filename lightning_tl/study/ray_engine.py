"""Runs as tasks of a Ray cluster; the study's folder is one that all nodes see, or has a copy on a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_gen.ray_pool import connect
from lightning_tl.errors import UserError
from lightning_tl.study.runs import Call, Outcome, do_run
from lightning_tl.study.store import do_stored, fetch_run


class RayEngine:
    """Runs as Ray tasks. Ray places them by the CPUs and GPUs they need; a run of a lost node resumes on another node.

    Args:
        address: Of an existing cluster (``auto``, ``host:6379``, ``ray://host:10001``); None starts one here.
        threads: CPUs of a run.
        gpus: GPUs of a run; a fraction lets several share one.
        workers: Most runs at a time; None: as many as the cluster has room for.

    Raises:
        UserError: Ray is not installed, there is no cluster at the address, or it is too small for one run.
    """

    def __init__(self, address: str | None, threads: int, gpus: float, workers: int | None) -> None:
        self._ray, self._mine = connect(address)
        self.threads, self.gpus, self.workers = threads, gpus, workers
        self._task = self._ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_do_run)
        self._running: dict[Any, Call] = {}
        if self._room() < 1:
            resources = self._ray.cluster_resources()
            self.close()
            raise UserError(
                f"a run needs {threads} CPUs and {gpus:g} GPUs; the cluster has {resources.get('CPU', 0):g} and "
                f"{resources.get('GPU', 0):g} in all: lower threads or gpus"
            )

    def _room(self) -> int:
        resources = self._ray.cluster_resources()
        room = int(resources.get("CPU", 0) // self.threads)
        return min(room, int(resources.get("GPU", 0) / self.gpus + 1e-9)) if self.gpus else room

    @property
    def free(self) -> int:
        """Number of further calls that the cluster has room for now; it changes as nodes come and go."""
        room = self._room() if self.workers is None else min(self.workers, self._room())
        return max(0, room - len(self._running))

    def submit(self, call: Call) -> None:
        """Begin a run."""
        self._running[self._task.remote(call)] = call

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the outcomes of ended calls, after waiting at most ``seconds`` for the first."""
        if not self._running:
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        outcomes = []
        for reference in done:
            call = self._running.pop(reference)
            try:
                outcome = self._ray.get(reference)
                if call.store is not None and (outcome.record or outcome.error):
                    folder = Path(call.folder)
                    fetch_run(call.store, folder.parent.parent, call.name)
                outcomes.append(outcome)
            except self._ray.exceptions.NodeDiedError:
                outcomes.append(Outcome(call.name))  # neither result nor error: it is scheduled again, on another node
            except self._ray.exceptions.RayError as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                outcomes.append(Outcome(call.name, error=f"its worker process ended: {first}"))
        return outcomes

    def close(self) -> None:
        """End all tasks at once, and the cluster where it was started here."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._mine:
            self._ray.shutdown()


def _do_run(call: Call) -> Outcome:
    import torch

    torch.set_num_threads(call.threads)
    return do_run(call) if call.store is None else do_stored(call)
