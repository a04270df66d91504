"""Interpolations between the pre-trained and the fine-tuned weights."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.batchnorm import running_layers
from lightning_tl.transfer.evaluation import errors_on, reestimate_statistics
from lightning_tl.transfer.final_weights import FinalWeights
from lightning_tl.transfer.selection import backbone_parameters


class WiSEFT(FinalWeights):
    """After fine-tuning, networks between the pre-trained and the fine-tuned one are evaluated.

    Wortsman et al. 2021 (arXiv 2109.01903), "weight-space ensembles": the backbone's weights are
    (1 − α)·θ_pre + α·θ_ft, under the fine-tuned head. For each α BatchNorm's statistics are estimated again, on the
    same training images; so the row of α = 1 may differ slightly from the run's own error, which uses the statistics
    that training left.

    ``interpolations.csv`` in the run's folder has a row for each α with ``val_error``, 1 − score on the validation
    images. A study adds ``error`` on test images and, with ``forgetting``, ``pretrain_loss``.

    Args:
        alphas: The α, each from 0 (pre-trained) to 1 (fine-tuned).
        take: The α whose network is validated, saved and tested. Default: the fine-tuned network, as its last step left
            it.

    Raises:
        UserError: An α out of range, none or one twice, no pre-trained weights, no validation images.
    """

    name = "wiseft"
    excludes: ClassVar[Mapping[str, str]] = {
        "LinearProbe": "the backbone does not move, so all interpolations are the same"
    }

    def __init__(self, alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0), take: float | None = None) -> None:
        super().__init__()
        self.alphas, self.take = [float(alpha) for alpha in alphas], take
        if not self.alphas:
            raise UserError("WiSEFT: alphas is empty; give at least one from 0 to 1")
        for name, values in (("alphas", self.alphas), ("take", [] if take is None else [take])):
            if wrong := [alpha for alpha in values if not 0 <= alpha <= 1]:
                raise UserError(f"WiSEFT: {name} has {wrong[0]:g}; each must be from 0 to 1")
        if len(set(self.alphas)) < len(self.alphas):
            raise UserError(f"WiSEFT: alphas has a value twice: {self.alphas}")
        #: One row for each α: ``alpha`` and ``val_error``; empty before the end of the training.
        self.rows: list[dict[str, float]] = []
        self._start: dict[str, Tensor] = {}
        self._statistics: dict[float, dict[str, Tensor]] = {}

    def start(self, task: Any) -> None:
        """Forget the weights of another task."""
        self._start = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the weights that the first training of the task begins from, for later trainings too."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not self._start:
            self._start = {name: _kept(each) for name, each in backbone_parameters(pl_module).items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the pre-trained weights, and what was evaluated."""
        return super().state_dict() | {"start": self._start, "rows": self.rows, "statistics": self._statistics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of an interrupted training."""
        super().load_state_dict(state_dict)
        self._start, self._statistics = dict(state_dict["start"]), dict(state_dict["statistics"])
        self.rows = list(state_dict["rows"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a training without pre-trained weights, or without validation images."""
        self.need_start(pl_module, "interpolates with the pre-trained weights")
        if not trainer.fit_loop.epoch_loop.val_loop._data_source.is_defined() or trainer.limit_val_batches == 0:
            raise UserError(
                "transfer WiSEFT evaluates networks on validation images, and there are none: check the data and "
                "trainer.limit_val_batches"
            )

    def finish(self, trainer: Trainer, task: Any) -> None:
        """Evaluate all interpolations; leave the network that was asked for."""
        loaders: Any = trainer.val_dataloaders
        loader = loaders[0] if isinstance(loaders, list) else loaders
        self._statistics = {}
        chosen = [] if self.take is None or self.take in self.alphas else [self.take]
        for alpha in [*self.alphas, *chosen]:
            self._put(task, alpha)
            reestimate_statistics(trainer, task)
            self._statistics[alpha] = _statistics(task)
        errors = self.errors(trainer, task, loader, trainer.num_val_batches[0])
        self.rows = [{"alpha": alpha, "val_error": error} for alpha, error in zip(self.alphas, errors, strict=True)]
        if self.take is None:
            task.load_state_dict(self._last)
        else:
            self._put(task, self.take)
        if trainer.is_global_zero:
            write_interpolations(trainer.default_root_dir, self.rows)
        listed = ", ".join(f"{row['alpha']:g}: {row['val_error']:.4f}" for row in self.rows)
        rank_zero_info(f"transfer WiSEFT: validation error by alpha: {listed}")

    def errors(self, trainer: Trainer, task: Any, loader: Iterable[Any], batches: float = float("inf")) -> list[float]:
        """Return the error of the network of each α, on batches that are read once; the task's own network stays.

        Args:
            trainer: The trainer of the training.
            task: The task, after its training.
            loader: Batches of validation or test.
            batches: The most batches that are read.
        """
        with _restored(task):
            networks = [functools.partial(self._put, task, alpha) for alpha in self.alphas]
            return errors_on(trainer, task, loader, networks, batches)

    @contextmanager
    def network(self, task: Any, alpha: float) -> Iterator[None]:
        """Within, the task has the weights and statistics that were evaluated for an α.

        Args:
            task: The task, after its training.
            alpha: One of ``alphas``.
        """
        with _restored(task):
            self._put(task, alpha)
            yield

    @torch.no_grad()
    def _put(self, task: Any, alpha: float) -> None:
        """Put the network of an α into the task, with its statistics where they have been estimated."""
        # lerp is exact at both ends
        mixed = {name: torch.lerp(start, self._last[name], alpha) for name, start in self._start.items()}
        task.load_state_dict(self._last | mixed | self._statistics.get(alpha, {}))


def write_interpolations(folder: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``interpolations.csv`` into a run's folder."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    system = get_filesystem(folder)
    system.makedirs(folder, exist_ok=True)
    with system.open(f"{folder}/interpolations.csv", "w") as file:
        file.write(table.getvalue())


@contextmanager
def _restored(task: Any) -> Iterator[None]:
    """Put back the task's network on leaving."""
    before = {name: value.detach().clone() for name, value in task.state_dict().items()}
    try:
        yield
    finally:
        task.load_state_dict(before)


def _kept(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()


def _statistics(task: Any) -> dict[str, Tensor]:
    """Return BatchNorm's running statistics by their names in the task."""
    known = {id(layer) for layer in running_layers(task)}
    return {
        f"{name}.{key}": _kept(value)
        for name, module in task.named_modules()
        if id(module) in known
        for key, value in module.named_buffers()
        if key != "num_batches_tracked"
    }
