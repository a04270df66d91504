"""The pre-training behind a fine-tuning: its network under its own head, and its images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_tl.data.batched_module import BatchedDataModule
from lightning_tl.errors import UserError
from lightning_tl.transfer.method import TransferMethod


class UsesPretraining(TransferMethod, ABC):
    """A method that needs the pre-training's network and images.

    The command line and studies give them, from the pre-training's ``config.yaml``; elsewhere call
    :meth:`use_pretraining` before the training.

    Args:
        config: The pre-training's configuration. Default: ``config.yaml`` in the run's folder of the checkpoint that
            the fine-tuning starts from.
    """

    #: Whether also a resumed training needs them.
    needed_to_resume: ClassVar[bool] = True

    def __init__(self, config: str | Path | None = None) -> None:
        self.config = None if config is None else str(config)
        self._network: Any = None
        self._images: BatchedDataModule | None = None

    def use_pretraining(self, task: LightningModule, data: Any) -> None:
        """Take the pre-trained task, with the weights of its head, and its data module.

        Args:
            task: The task of the pre-training; it must not be used elsewhere, as it is changed.
            data: Its data module, not used by another trainer.

        Raises:
            UserError: They are not classes of this library.
        """
        name = type(self).__name__
        if not hasattr(task, "outputs_and_loss") or not hasattr(task, "backbone"):
            raise UserError(f"transfer {name}: the pre-training's {type(task).__name__} is not a TransferTask")
        if not isinstance(data, BatchedDataModule):
            raise UserError(
                f"transfer {name}: the pre-training's {type(data).__name__} is not a BatchedDataModule, so the order "
                "of its images does not follow from the step"
            )
        self._network, self._images = task, data

    @abstractmethod
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call :meth:`prepare`."""

    def prepare(self, trainer: Trainer, task: Any) -> tuple[Any, BatchedDataModule]:
        """Return the pre-trained task, on the training's device, and its data module, set up; for ``on_fit_start``.

        Raises:
            UserError: They were not given.
        """
        name = type(self).__name__
        if self._network is None or self._images is None:
            raise UserError(
                f"transfer {name} needs the pre-training: train by lightning-tl fit, or call its "
                "use_pretraining(task, data) before"
            )
        first = next(task.parameters())
        network, images = self._network.to(device=first.device, dtype=first.dtype), self._images
        images.trainer = trainer  # which says how many processes there are
        if trainer.local_rank == 0:
            images.prepare_data()
        trainer.strategy.barrier()
        images.setup("fit")
        return network, images

    def _on_device(self, trainer: Trainer, batch: Any) -> Any:
        assert self._images is not None
        batch = trainer.precision_plugin.convert_input(batch)
        return self._images.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)


def same_parameters(ours: nn.Module, theirs: nn.Module, name: str) -> None:
    """Refuse a pre-trained backbone with other parameters than the fine-tuned one.

    Args:
        ours: The fine-tuned backbone.
        theirs: The pre-trained one.
        name: Name of the method.

    Raises:
        UserError: Names or shapes differ.
    """
    here, there = (dict(module.named_parameters()) for module in (ours, theirs))
    problem = f"{different[0]} is only in one of them" if (different := sorted(here.keys() ^ there.keys())) else ""
    for key in () if different else here:
        if here[key].shape != there[key].shape:
            problem = problem or f"{key} is {list(there[key].shape)} there and {list(here[key].shape)} here"
    if problem:
        raise UserError(f"transfer {name}: the pre-training's backbone is not the fine-tuned one: {problem}")
