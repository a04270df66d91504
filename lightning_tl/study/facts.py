"""`study.json`: the study, the chosen settings, the steps, and the duration of each stage over all interruptions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_tl._io.locks import waiting_lock
from lightning_tl.study.config import Study
from lightning_tl.study.records import load_json, write_json
from lightning_tl.study.shapes import StudyFacts


class Facts:
    """`study.json`, to be written. Of several commands on one folder each writes it; steps are written by one only.

    Args:
        path: The file.
        study: What is run.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.path = path
        self._lock = path.parent / "locks" / path.name
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        kept = read_facts(path)
        self.content: dict[str, Any] = {"seconds": kept.get("seconds", {}), "chosen": kept.get("chosen", {})}
        self.write(study=asdict(study), cores=os.cpu_count())

    def write(self, **facts: Any) -> None:
        """Add facts and write the file; its steps stay as they are."""
        self.content |= facts
        with waiting_lock(self._lock):
            self._write(read_facts(self.path).get("steps"))

    def _write(self, steps: Any) -> None:
        write_json(self.path, self.content | ({} if steps is None else {"steps": steps}))

    def add_step(self, head: Mapping[str, Any], step: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        """Add a step, unless another command has added that one; return all steps.

        Args:
            head: What is said once for all steps. A file with another ``content`` begins anew.
            step: The step.
            number: How many there are before it.
        """
        with waiting_lock(self._lock):
            kept = read_facts(self.path).get("steps", {})
            steps = list(kept.get("taken", [])) if kept.get("content") == head["content"] else []
            if len(steps) <= number:
                steps.append(dict(step))
                self._write({**head, "taken": steps})
        return steps

    @property
    def hours(self) -> float:
        """Duration of all stages so far."""
        return float(sum(self.content["seconds"].values())) / 3600

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


def read_facts(path: Path) -> dict[str, Any]:
    """Return the content of a ``study.json``; empty where it is missing or damaged."""
    return load_json(path, missing={}, shape=StudyFacts)
