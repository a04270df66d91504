"""BatchNorm's statistics for weights that no step of the training has had, and the error of such a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from lightning_tl.data.batched_module import BatchedDataModule
from lightning_tl.measure.batchnorm import reestimate, running_layers

#: Training images on which BatchNorm's statistics are estimated again (whole batches, at least one).
IMAGES = 1024


def reestimate_statistics(trainer: Trainer, task: Any) -> None:
    """Estimate BatchNorm's running statistics again for the task's present weights, on the same images each time.

    They are the images of the training's first steps, with their augmentation. Layers that are in eval mode now, as
    frozen ones are, keep their statistics. With several processes the statistics are the average of theirs.

    Args:
        trainer: The trainer of the training.
        task: The task, in train mode.
    """
    layers = [layer for layer in running_layers(task) if layer.training]
    if layers:
        with _evaluated(trainer, task), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # for loaders that draw their order
            batches = (to_device(trainer, batch) for batch in _first_batches(trainer))
            reestimate(
                task,
                lambda batch: task.outputs_and_loss(*batch, "val"),
                batches,
                lambda statistics: trainer.strategy.reduce(statistics, reduce_op="mean"),
                layers,
            )


def errors_on(
    trainer: Trainer,
    task: Any,
    loader: Iterable[Any],
    networks: Sequence[Callable[[], object]],
    batches: float = float("inf"),
) -> list[float]:
    """Return the errors of several networks on batches that are read once.

    Args:
        trainer: The trainer of the training.
        task: The task.
        loader: Batches of validation or test.
        networks: Each puts the weights and statistics of one network into the task.
        batches: The most batches that are read.
    """
    metrics = [task.build_metric().to(task.device) for _ in networks]
    with _evaluated(trainer, task), torch.no_grad():
        for number, batch in enumerate(loader):
            if number >= batches:
                break
            images, targets = to_device(trainer, batch)
            for put, metric in zip(networks, metrics, strict=True):
                put()
                metric.update(task.outputs_and_loss(images, targets, "val")[0], targets)
    values = [metric.compute() for metric in metrics]  # over all processes
    return [1 - float(value["score"] if isinstance(value, dict) else value) for value in values]


def to_device(trainer: Trainer, batch: Any) -> Any:
    """Return a batch as the training gives it to the task."""
    return trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))


def _first_batches(trainer: Trainer) -> Iterator[Any]:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, BatchedDataModule):
        size, batches = data.batch_size, data.training_batches()
    else:
        batches = iter(trainer.train_dataloader)  # type: ignore[arg-type]
        first = next(batches)
        size = len(first[0])
        yield first
    count = max(1, round(IMAGES / (size * trainer.world_size)))
    yield from islice(batches, count if isinstance(data, BatchedDataModule) else count - 1)


@contextmanager
def _evaluated(trainer: Trainer, task: nn.Module) -> Iterator[None]:
    """Within, the task is in eval mode, at the training's precision; afterwards each module in the mode it was in."""
    modes = [(module, module.training) for module in task.modules()]
    task.eval()
    try:
        with trainer.precision_plugin.val_step_context():
            yield
    finally:
        for module, training in modes:
            module.training = training
