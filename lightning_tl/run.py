"""One training run from its arguments: what the command line and studies both call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

import lightning_tl.data.ade20k
import lightning_tl.data.coco
import lightning_tl.data.digit_scenes
import lightning_tl.data.digits
import lightning_tl.data.image_folder
import lightning_tl.data.rendered
import lightning_tl.data.torchvision_sets
import lightning_tl.tasks  # noqa: F401  imported so that YAML can name their classes without a path
from lightning_tl.config_files import with_found_configs
from lightning_tl.csv_history import keep_history
from lightning_tl.errors import UserError, explain, nearest, user_error
from lightning_tl.models.weights import read_checkpoint
from lightning_tl.tasks import Schedule, TransferTask

# Interpolation is resolved after all files and overrides are merged, and absolute keys work under sub-commands.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


class RunParser(LightningArgumentParser):
    """Lightning's parser, with a ``UserError`` for what it cannot take."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's complaint as a ``UserError``."""
        text = explain(self, message, ex)
        if unknown := _UNKNOWN_CLASS.search(text):
            key, name = unknown.groups()
            hint = nearest(name, _class_names(_KINDS[key])) if key in _KINDS else ""
            text = text.replace(unknown[0], f"{key}: no class '{name}'{hint}")
        raise UserError(text) from ex


_UNKNOWN_CLASS = re.compile(r"(\w+): Expected a dot import path string: ([\w.]+)")
_KINDS: dict[str, type] = {
    "model": TransferTask,
    "data": LightningDataModule,
    "optimizer": torch.optim.Optimizer,
    "scheduler": torch.optim.lr_scheduler.LRScheduler,
    "schedule": Schedule,
    "callbacks": Callback,
    "logger": Logger,
}


def _class_names(base: type) -> set[str]:
    """Return the names of all public subclasses that are imported."""
    found: set[str] = set()
    waiting: list[type] = [base]
    while waiting:
        children: list[type] = type.__subclasses__(waiting.pop())
        found |= {child.__name__ for child in children if not child.__name__.startswith("_")}
        waiting += children
    return found


# of a list, those before the one that fails are made already
_GIVEN = re.compile(r"Given value: .*?Namespace\(class_path='([\w.]+)'")


def _not_made(error: BaseException) -> UserError | None:
    """Return what to say where a logger or callback could not be made, such as one whose package is missing."""
    given = _GIVEN.search(str(error))
    if given is None or error.__cause__ is None:
        return None
    while error.__cause__ is not None:
        error = error.__cause__
    return UserError(f"{given[1]} cannot be made: {type(error).__name__}: {' '.join(str(error).split())}")


class SaveFitConfig(SaveConfigCallback):
    """Writes ``config.yaml``: what a training run was, whole, however often it was resumed or tested since.

    It goes into ``trainer.default_root_dir``: not all loggers have a folder, and those that have may share one.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file for ``fit`` alone, without the checkpoint that this part of the run was resumed from."""
        if stage == "fit":
            self.config = self.config.clone()
            self.config.ckpt_path = None
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it, over the same file of an earlier part of the run."""
        folder = trainer.default_root_dir
        get_filesystem(folder).makedirs(folder, exist_ok=True)
        self.parser.save(self.config, f"{folder}/{self.config_filename}", skip_none=False, overwrite=True)


def steps_done(checkpoint: str) -> int | None:
    """Return after how many steps a checkpoint was written; ``None`` for a name, such as ``last``, or a URL.

    Raises:
        UserError: No such file, damaged, or only weights.
    """
    if "://" in checkpoint or not Path(checkpoint).suffix:
        return None
    content = read_checkpoint(checkpoint)
    if "global_step" not in content:
        raise UserError(
            f"--ckpt_path {checkpoint}: holds no state of a training run, so none can go on from it; "
            "to start from its weights: --model.init_from"
        )
    return int(content["global_step"])


class RunCLI(LightningCLI):
    """LightningCLI for any module and data module; ours need no number of classes, which the data know."""

    def __init__(self, args: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        self.more_callbacks = list(callbacks)
        self.asked = args[0] if args else ""
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_kwargs={"parser_mode": "omegaconf+"},
            parser_class=RunParser,
            args=with_found_configs(list(args)),
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the one that is asked for: each takes a tenth of a second to describe. All, to say what there are."""
        known = LightningCLI.subcommands()
        return {self.asked: known[self.asked]} if self.asked in known else known

    def instantiate_classes(self) -> None:
        """Make trainer, module and data; what they say of their arguments comes through as it is.

        Where all weights come from a checkpoint of this very task, the one that it once started from is not read
        again: it may be gone by then.
        """
        config = self.config[self.subcommand]
        started_from = config.get("model.init_args.init_from")
        if started_from is not None and Path(config.ckpt_path or "").is_file():
            config.model.init_args.init_from = None
        try:
            super().instantiate_classes()
        except MisconfigurationException as error:
            raise UserError(" ".join(str(error).split())) from error
        except ValueError as error:
            raise user_error(error) or _not_made(error) or error from None
        finally:
            if started_from is not None:
                config.model.init_args.init_from = started_from

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer, with the callbacks of whoever called."""
        asked = self.config_init[self.subcommand].trainer
        if asked.get("sync_batchnorm") and (asked.get("accelerator") == "cpu" or not torch.cuda.is_available()):
            kwargs["sync_batchnorm"] = False
            rank_zero_info("trainer.sync_batchnorm is for GPUs alone: here each process normalises by its own images")
        trainer = super().instantiate_trainer(**kwargs)
        # before those that write checkpoints, which then hold these callbacks' state of the same moment
        trainer.callbacks[:0] = self.more_callbacks  # type: ignore[attr-defined]
        checkpoint = self.config[self.subcommand].ckpt_path or ""
        done = steps_done(checkpoint)
        if self.subcommand != "fit" or checkpoint:  # a new fit begins a new history
            for logger in trainer.loggers:
                if isinstance(logger, CSVLogger):
                    keep_history(logger, before_step=done if self.subcommand == "fit" else None)
        return trainer

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments; as a library call they have nothing to do with the process's own."""
        try:
            self.config = parser.parse_args(args)
        except OmegaConfBaseException as error:
            key = f"{error.full_key}: " if error.full_key else ""
            mend = "${…} names a key from the top of the file, and holds in files alone, not in values given by --key"
            raise UserError(f"{key}{str(error).splitlines()[0]}; {mend}") from error

    def _parse_ckpt_path(self) -> None:
        # Lightning would let a checkpoint's hyper-parameters beat what was just given on the command line, silently.
        return

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the model the data's number of classes, where both have such a thing."""
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")


def run(args: Sequence[str], callbacks: Sequence[Callback] = ()) -> RunCLI:
    """Do one run and return its CLI, with ``model``, ``datamodule``, ``trainer`` and ``config``.

    Args:
        args: As after ``lightning-tl``: ``["fit", "--config", "pretrain/small_images", "--data.n", "64"]``.
        callbacks: To be called beside the configured ones; they do not enter the saved configuration.

    Raises:
        UserError: An unknown key, a wrong value, a missing file.
    """
    return RunCLI(args, callbacks)
