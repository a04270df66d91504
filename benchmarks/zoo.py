"""Measures other people's projects: does it work, is training the same to the bit, what does it cost in training steps?

`python benchmarks/zoo.py [part of a name ...]` prints a table; packages that are not installed are listed. Each project
is trained for some steps with and without the callbacks, on the CPU, in one thread.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader
from zoo_projects import PROJECTS, Project

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity

STEPS = 12


@dataclass(frozen=True)
class Result:
    """What was found.

    Attributes:
        failures: Messages of measurements that failed; empty where all work.
        different: What differs between training with and without; empty where nothing does.
        costs: Training steps that one default measurement takes, by quantity; None where it failed.
    """

    failures: list[str]
    different: list[str]
    costs: dict[str, float | None]


def callbacks(project: Project, often: bool) -> list[Any]:
    """Return the three callbacks: ``often`` cheap ones at every step, else the default ones at the start only."""
    when = {"every_n_steps": 1} if often else {"every_n_steps": None, "at_end": False}
    trace = {"products": 4} if often else {}
    noise: dict[str, Any] = {"draws": 2, "gammas": [0.01]} if often else {}
    # the cost is that of the evaluations; the scales of the initialisation are drawn once
    return [
        ParameterDistance(**when),
        HessianTrace(**when, **trace, **project.options),
        PerturbationSensitivity(**when, **noise, noise="relative", **project.options),
    ]


def fit(project: Project, measuring: Sequence[Any], steps: int) -> tuple[Any, Any, list[str]]:
    """Train, and return the module, the trainer, and what the callbacks warned of."""
    lightning.seed_everything(5, verbose=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module, batches = project.make()
        loader = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_steps=steps,
            callbacks=list(measuring),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)
    return module, trainer, [str(each.message) for each in caught if "could not measure" in str(each.message)]


def differences(first: tuple[Any, Any, Any], second: tuple[Any, Any, Any]) -> list[str]:
    """Return the names of what differs between two runs: weights, buffers, optimiser states, metrics."""
    (module, trainer, number), (module2, trainer2, number2) = first, second
    state, state2 = module.state_dict(), module2.state_dict()
    found = [name for name, value in state.items() if not _equal(value, state2[name])]
    for optimizer, optimizer2 in zip(trainer.optimizers, trainer2.optimizers, strict=True):
        of, of2 = optimizer.state_dict()["state"], optimizer2.state_dict()["state"]
        found += [f"optimiser: {i}" for i in of if not all(_equal(v, of2[i][k]) for k, v in of[i].items())]
    metrics = trainer.callback_metrics.items()
    found += [f"metric: {name}" for name, v in metrics if not _equal(v, trainer2.callback_metrics[name])]
    return found + ([] if torch.equal(number, number2) else ["random numbers"])


def examine(project: Project, with_costs: bool = True) -> Result:
    """Train a project with and without the callbacks.

    Args:
        project: Of which all packages are installed.
        with_costs: Also measure once with the default arguments, and tell what that costs.
    """
    plain, run, _ = fit(project, [], 4)
    first = plain, run, torch.rand(3)
    often = callbacks(project, often=True)
    measured, run, failures = fit(project, often, 4)
    second = measured, run, torch.rand(3)
    failures += [f"{type(c).__name__} measured at {c.measured_steps}" for c in often if c.measured_steps != [*range(5)]]
    costs: dict[str, float | None] = {}
    if with_costs:
        once = callbacks(project, often=False)
        fit(project, once, STEPS)
        costs = {type(callback).__name__: callback.recorder.cost.in_steps() for callback in once}
    return Result(failures, differences(first, second), costs)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
    return bool(a == b)


def main(parts: Sequence[str]) -> int:
    torch.set_num_threads(1)
    chosen = [each for each in PROJECTS if not parts or any(part.lower() in each.name.lower() for part in parts)]
    print("| Project | Works | Identical | Distance | Trace | Sensitivity |")
    print("|---|---|---|---|---|---|")
    wrong = []
    for project in chosen:
        if project.absent:
            print(f"| {project.name} | not installed: {', '.join(project.absent)} | | | | |", flush=True)
            continue
        try:
            result = examine(project)
        except Exception as error:  # of the package, with or without the callbacks
            print(f"| {project.name} | the project itself fails: {type(error).__name__} | | | | |", flush=True)
            wrong.append(f"{project.name}: {error}")
            continue
        cells = ["-" if cost is None else f"{cost:.2g}" for cost in result.costs.values()]
        answers = ["no" if found else "yes" for found in (result.failures, result.different)]
        print("| " + " | ".join([project.name, *answers, *cells]) + " |", flush=True)
        wrong += [f"{project.name}: {text}" for text in result.failures + result.different[:5]]
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
