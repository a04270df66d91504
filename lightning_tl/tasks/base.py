"""The base class of the tasks: a backbone, a head, and test error = 1 - score."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_tl.data.preprocessing import class_names, preprocessing
from lightning_tl.errors import UserError
from lightning_tl.models import KeyReport, build_backbone, feature_width, load_backbone, pooled_features
from lightning_tl.models.low_rank import own_size
from lightning_tl.models.pretrained import load_pretrained
from lightning_tl.tasks.image_results import ImageResults
from lightning_tl.tasks.lr_schedules import Schedule
from lightning_tl.tasks.step_values import EACH_STEP, replace_logged
from lightning_tl.tasks.training import TrainingControl, batch_and_images
from lightning_tl.transfer import TransferChain, TransferMethod

_LARGE = 22_000_000  # parameters; a ResNet-50 has 23.5 million
_NOT_PLAIN = ("init_from", "optimizer", "scheduler", "schedule", "transfer")


class TransferTask(pl.LightningModule):
    """A backbone under a new head, for pre-training or for fine-tuning.

    For a new task, subclass it and define ``build_head``, ``loss`` and ``build_metric``; a batch is
    ``(images, targets)``. A task with another kind of network also overrides ``configure_models`` and
    ``forward``, and keeps its backbone at ``self.backbone``.

    Logged: ``train/loss``, of the data (terms that ``transfer`` adds are logged beside it); for each stage in ``val``
    and ``test`` ``<stage>/loss``, ``<stage>/score`` and ``<stage>/error`` = 1 - score, and further values of the
    metric; ``test/error_stderr``, the standard error over test images by bootstrap, where the task defines
    ``build_image_results``.

    The callback :class:`~lightning_tl.tasks.training.TrainingControl`, which every run gets, seeds each batch and sets
    the length of the training.

    A checkpoint holds the plain arguments, so that ``load_from_checkpoint(path)`` rebuilds the task; the optimiser and
    its schedule are not among them.

    Args:
        num_classes: Number of outputs of the head. On the command line it comes from the data module.
        backbone: One of ``lightning_tl.models.BACKBONES``, or any network of timm by its name, as ``convnext_tiny``.
        in_chans: Channels of the images.
        init_from: A checkpoint of any task; the backbone starts from its weights. (To resume an interrupted run, use
            Lightning's ``ckpt_path`` instead.)
        pretrained: Whether the backbone starts from timm's pre-trained weights, downloaded when they are first used:
            true for timm's own choice, or the tag of others (``fb_in22k``).
        backbone_options: For a network of timm that is not in ``BACKBONES``: further arguments of
            ``timm.create_model``, as ``{img_size: 64}`` or ``{drop_path_rate: 0.1}``.
        transfer: How the backbone is adapted: one or several methods of :mod:`lightning_tl.transfer`. Default: all
            parameters are trained.
        optimizer: From the parameters to an optimiser.
        scheduler: From the optimiser to a learning-rate schedule, stepped after every training step.
        schedule: Length and rates of the training in images, instead of ``scheduler``. Where the trainer's
            ``max_steps`` is not given, it follows from this.
        channels_last: Whether images and filters are kept in the channels-last memory format, the fastest for
            convolutions.

    Raises:
        UserError: The backbone is unknown, the checkpoint is damaged or of another backbone, ``init_from`` and
            ``pretrained`` or ``scheduler`` and ``schedule`` are both given, methods of ``transfer`` cannot be combined,
            or the data are of another task.
    """

    #: name of the task; a data module with another ``task`` is refused; empty accepts any
    task = ""
    #: whether the head, too, starts from that of ``init_from``
    keeps_head = False
    #: name of the score in tables of results, such as ``accuracy``
    metric_name = "score"
    #: which backbones to take on a CPU, for a message
    smaller_backbones = (
        "--model.backbone resnet18 is several times as fast, and for images of 32 to 64 px there is resnet10_w16"
    )

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        in_chans: int = 3,
        init_from: str | Path | None = None,
        transfer: TransferMethod | list[TransferMethod] | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        schedule: Schedule | None = None,
        channels_last: bool = True,
        pretrained: bool | str = False,
        backbone_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"model.num_classes is {num_classes}; it must be at least 1")
        if scheduler is not None and schedule is not None:
            raise UserError("model.scheduler and model.schedule are both given; give one of them (null removes one)")
        if init_from is not None and pretrained:
            raise UserError("model.init_from and model.pretrained are both given; give one of them")
        self.transfer = TransferChain(transfer)
        self._save_plain_arguments()
        if pretrained:  # a checkpoint has the weights
            self.hparams["pretrained"] = self.hparams_initial["pretrained"] = False
        #: whether the backbone starts from timm's pre-trained weights
        self.starts_pretrained = bool(pretrained)
        self.backbone_options = backbone_options
        self.num_classes, self.backbone_name, self.in_chans = num_classes, backbone, in_chans
        self.init_from, self.optimizer = init_from, optimizer
        self.scheduler, self.schedule = scheduler, schedule
        self.key_report: KeyReport | None = None
        self.image_results: ImageResults | None = None
        self._checked: set[str] = set()
        self.configure_models()
        self.transfer.adapt(self)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        self.val_score = self.build_metric()
        self.test_score = self.build_metric()
        if pretrained:
            self.key_report = load_pretrained(self.backbone, backbone, pretrained, in_chans, backbone_options)
        elif init_from is not None:
            self.key_report = self.load_start(init_from)
        if self.key_report is not None:
            rank_zero_info(str(self.key_report))
        self.transfer.start(self)

    def load_start(self, checkpoint: str | Path) -> KeyReport:
        """Copy the weights that a fine-tuning starts from: the backbone's."""
        return load_backbone(checkpoint, self.backbone)

    def _save_plain_arguments(self) -> None:
        """Save the arguments of plain types, also those of subclasses, as hyper-parameters."""
        self.save_hyperparameters(ignore=_NOT_PLAIN, logger=False)
        # LightningCLI adds its parsed configuration
        for name in [name for name, value in self.hparams.items() if name.startswith("_") or not _plain(value)]:
            self.hparams.pop(name)
            self.hparams_initial.pop(name, None)
        methods = self.transfer.specification()
        if methods:
            self.hparams["transfer"] = self.hparams_initial["transfer"] = methods

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; that of Lightning's current hook, set 50 times per step, without a module's checks."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; in training, what ``transfer`` has frozen stays in eval mode."""
        super().train(mode)
        if mode:
            self.transfer.set_mode(self)
        return self

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks of every training; a subclass that adds callbacks must also return these."""
        return [TrainingControl(), *self.transfer.callbacks()]

    def configure_models(self) -> None:
        """Create ``self.backbone`` and ``self.head``."""
        self.backbone = self.build_backbone()
        self.head = self.build_head(feature_width(self.backbone))

    def build_backbone(self, output_stride: int = 32, maps: bool = False) -> nn.Module:
        """Return the backbone that the arguments name, with random weights.

        Args:
            output_stride: Side of the image over that of the last map.
            maps: Whether only its maps are used, not its pooled features.
        """
        return build_backbone(self.backbone_name, self.in_chans, output_stride, maps, self.backbone_options)

    def freshly_initialised(self) -> nn.Module:
        """Return a module with newly drawn weights under the same names, by ``configure_models``.

        No checkpoint is read, and this task does not change. It gives measurements the initialisation's spread.
        """
        fresh = copy.copy(self)
        nn.Module.__init__(fresh)  # removes parameters, buffers and modules; keeps the arguments
        fresh.configure_models()
        fresh.transfer.adapt(fresh)
        return fresh

    def build_head(self, num_features: int) -> nn.Module:
        """Return the head: pooled features ``[B, num_features]`` → outputs."""
        return nn.Linear(num_features, self.num_classes)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the scalar loss of a batch."""
        raise TypeError(f"{type(self).__name__} must define loss(outputs, targets)")

    def build_metric(self) -> Metric:
        """Return a torchmetrics metric of (outputs, targets) whose value is a score in [0, 1].

        A metric of several values returns a dict with the score under ``score``; the others are logged by their names.
        """
        raise TypeError(f"{type(self).__name__} must define build_metric()")

    def build_image_results(self) -> ImageResults | None:
        """Return what collects the score's parts of each test image, or None: then the score has no standard error."""
        return None

    def check_batch(self, images: Any, targets: Any, stage: str) -> None:
        """Raise a ``UserError`` if the first batch of a stage does not fit the task."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups; one with ``lr_factor`` gets the optimiser's learning rate times that."""
        return [{"params": list(self.parameters())}]

    def forward(self, images: Any) -> Any:
        """Return the head's outputs for images ``[B, in_chans, H, W]``."""
        images = images.contiguous(memory_format=self.memory_format)
        return self.head(pooled_features(self.backbone, images, self.backbone_name))

    def outputs_and_loss(self, images: Any, targets: Any, stage: str) -> tuple[Any, Tensor]:
        """Return the outputs for the metric, and the loss. In the stage ``train`` the outputs may be anything."""
        outputs = self(images)
        return outputs, self.loss(outputs, targets)

    def batch_weight(self, images: Any, targets: Any) -> int:
        """Return the weight of a batch's loss in the mean over batches: the number of images."""
        return len(images)

    def shared_step(self, batch: Any, stage: str) -> Tensor:
        """Return and log the loss of a batch; outside training, also update the score."""
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise wrong_batch(self, "(images, targets)", [batch])
        images, targets = batch
        if stage not in self._checked:
            self.check_batch(images, targets, stage)
            self._checked.add(stage)
        outputs, loss = self.outputs_and_loss(images, targets, stage)
        if stage == "train":
            self.log("train/loss", loss, on_step=True, on_epoch=False)
            return loss
        self.log(f"{stage}/loss", loss, batch_size=self.batch_weight(images, targets), sync_dist=True)
        self._score(stage).update(outputs, targets)
        if stage == "test" and self.image_results is not None:
            self.image_results.update(outputs, targets)
        return loss

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """Log a value as Lightning does; one of each training step at a fraction of the time."""
        if args or options != EACH_STEP or not replace_logged(self, name, value):
            super().log(name, value, *args, **options)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the training loss, with what ``transfer`` adds; in eval mode, as in measurements, without."""
        loss = self.shared_step(batch, "train")
        return self.transfer.training_loss(self, loss) if self.training else loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update and log validation loss and score."""
        self.shared_step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update and log test loss and score."""
        self.shared_step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the outputs for a batch's images."""
        return self(batch[0] if isinstance(batch, list | tuple) else batch)

    def setup(self, stage: str) -> None:
        """Refuse the data of another task; warn of a large network on a CPU."""
        size = own_size(self.backbone) if stage == "fit" else 0
        if size > _LARGE and self.trainer.strategy.root_device.type == "cpu":
            rank_zero_warn(
                f"model.backbone is {self.backbone_name}, which takes long on a CPU ({size / 1e6:.0f} million "
                f"parameters): {self.smaller_backbones}"
            )
        data = getattr(self.trainer, "datamodule", None)
        theirs = getattr(data, "task", "")
        if self.task and theirs and theirs != self.task:
            raise UserError(
                f"model {type(self).__name__} is for {self.task}, but data {type(data).__name__} gives {theirs}; "
                "choose a --model and a --data (or --data.target) that fit"
            )

    def _score(self, stage: str) -> Metric:
        return {"val": self.val_score, "test": self.test_score}[stage]

    def _log_scores(self, stage: str) -> None:
        metric = self._score(stage)
        value = metric.compute()  # over all processes
        values = value if isinstance(value, dict) else {"score": value}
        if values["score"].isnan() and not (self.trainer.sanity_checking or self.trainer.fast_dev_run):  # type: ignore[attr-defined]
            raise UserError(
                f"{stage}/score is not a number: the {stage} split contains nothing to score ({type(self).__name__} "
                "found no labels in it), or the training diverged; look at the labels and at model.optimizer.lr"
            )
        for name, number in (values | {"error": 1 - values["score"]}).items():
            self.log(f"{stage}/{name}", number.to(self.device), prog_bar=name == "error", sync_dist=True)
        metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Log ``val/score`` and ``val/error``."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Collect anew what the score needs of each image; not where several processes share the images."""
        self.image_results = self.build_image_results() if self.trainer.world_size == 1 else None

    def on_test_epoch_end(self) -> None:
        """Log ``test/score`` and ``test/error``, and the error's standard error over test images."""
        self._log_scores("test")
        if self.image_results is not None and self.image_results.count > 1:
            stderr = float(np.nanstd(self.image_results.replicates, ddof=1))
            if np.isfinite(stderr):
                self.log("test/error_stderr", stderr)

    def configure_optimizers(self) -> Any:
        """Return the optimiser and, where there is one, the schedule, stepped after every training step.

        Raises:
            UserError: The optimiser refuses a value.
        """
        optimizer = self._build_optimizer(self.transfer.parameter_groups(self, self.parameter_groups()))
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_factor", 1.0)
        optimizer = self.transfer.attach(self, optimizer)
        phases = self.transfer.phases
        scheduler: Any
        if self.schedule is not None:
            sizes = batch_and_images(self.trainer, self.schedule)
            scheduler, _ = self.schedule.build(optimizer, *sizes, parts=phases.parts(self))
        elif self.scheduler is not None:
            scheduler = self.scheduler(optimizer)
        else:
            scheduler = phases.schedule(self, optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def check_optimizer(self) -> None:
        """Build the optimiser and its ``scheduler`` once, before a training, as they check their values only then.

        Raises:
            UserError: One of them refuses a value.
        """
        try:
            groups = self.parameter_groups()
        except RuntimeError:  # those of a subclass may ask the trainer, which is not there yet
            return
        if self.scheduler is None:
            self._build_optimizer(groups)
        else:  # it may have a value for each group
            self.scheduler(self._build_optimizer(self.transfer.parameter_groups(self, groups) or groups))

    def _build_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        try:
            return self.optimizer(parameters)
        except ValueError as error:
            raise UserError(f"model.optimizer: {error}") from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the task, the backbone's description, the names of classes and the preprocessing to the checkpoint."""
        checkpoint["lightning_tl"] = {
            "task": type(self).__name__,
            "backbone": self.backbone_name,
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
            "transfer": self.transfer.label(),
        }
        data = getattr(self._trainer, "datamodule", None)
        facts = {"classes": class_names(data), "preprocessing": preprocessing(getattr(data, "transform", None))}
        checkpoint["lightning_tl"] |= {name: value for name, value in facts.items() if value is not None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume a training that had other methods as ``transfer``.

        Raises:
            UserError: It had.
        """
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.transfer.check_resumed(checkpoint)

    def on_fit_start(self) -> None:
        """Say how many parameters are trained, where ``transfer`` is given."""
        self.transfer.announce(self)


def _plain(value: Any) -> bool:
    """Whether a value is made of numbers, texts, lists and mappings only."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def shape_of(value: Any) -> str:
    """Return a description of a part of a batch for messages: ``int64 [8, 10]``, or its type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"


def wrong_batch(task: TransferTask, expected: str, parts: Iterable[Any]) -> UserError:
    """Return the error for a batch that does not fit a task."""
    actual = ", ".join(map(shape_of, parts))
    return UserError(f"{type(task).__name__} takes batches of {expected}; the data gives {actual}")
