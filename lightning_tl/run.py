"""One training run from its arguments, for the command line and for studies."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

import lightning_tl.callbacks
import lightning_tl.data.ade20k
import lightning_tl.data.coco
import lightning_tl.data.digit_scenes
import lightning_tl.data.digits
import lightning_tl.data.image_folder
import lightning_tl.data.rendered_module
import lightning_tl.data.text
import lightning_tl.data.text_examples
import lightning_tl.data.torchvision_sets
import lightning_tl.data.yolo
import lightning_tl.tasks  # imported so that YAML can name their classes without a path
from lightning_tl.config_files import with_config_paths
from lightning_tl.csv_history import WholeHistory, keep_history
from lightning_tl.data.batched_module import BatchedDataModule
from lightning_tl.errors import UserError, memory_full, one_line, shortened, user_error
from lightning_tl.logger_pictures import LoggerPictures, takes_pictures
from lightning_tl.pretraining_files import load_pretrained, pretraining_config
from lightning_tl.resuming import (
    CheckTrainingState,
    ReadCheckpoints,
    checkpoint_to_load,
    names_a_file,
    restoring_error,
)
from lightning_tl.run_arguments import check_braces, check_classes, given_values, in_its_file
from lightning_tl.run_output import (
    metrics_table,
    quieten_lightning,
    saved_checkpoints,
    use_own_progress_bar,
    without_tensorboard,
)
from lightning_tl.run_parser import RunParser, instantiation_error
from lightning_tl.sigterm import only_note_sigterm
from lightning_tl.training_folder import refuse_used_folder, training_in
from lightning_tl.transfer.pretraining import UsesPretraining
from lightning_tl.yaml_limits import limit_parsers

# Interpolation is resolved after all files and overrides are merged, and absolute keys work under sub-commands.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
limit_parsers()


class SaveFitConfig(SaveConfigCallback):
    """Writes ``config.yaml``, the complete configuration of a training run, into ``trainer.default_root_dir``.

    Resuming writes the same file again, and testing leaves it as it is. A logger's folder would not do: not all loggers
    have one, and several runs may share it.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, only for ``fit``, without the checkpoint that this part of the run was resumed from."""
        if stage == "fit":
            if not self.config.get("ckpt_path"):
                refuse_used_folder(trainer)
            self.config = self.config.clone()
            self.config.ckpt_path = None
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file; replace that of an earlier part of the run."""
        folder = trainer.default_root_dir
        get_filesystem(folder).makedirs(folder, exist_ok=True)
        self.parser.save(self.config, f"{folder}/{self.config_filename}", skip_none=False, overwrite=True)


class RunCLI(LightningCLI):
    """LightningCLI for any module and data module. The number of classes comes from the data, where they know it."""

    def __init__(self, args: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        self.more_callbacks = list(callbacks)
        self.requested = args[0] if args else ""
        resolved = with_config_paths(list(args))
        self.given = given_values(resolved, ("model.num_classes", "model.init_args.num_classes"))
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_kwargs={"parser_mode": "omegaconf+"},
            parser_class=RunParser,
            args=resolved,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return only the requested sub-command, since each parser takes 0.1 s to build; all, where it is unknown."""
        known = LightningCLI.subcommands()
        return {self.requested: known[self.requested]} if self.requested in known else known

    def instantiate_classes(self) -> None:
        """Instantiate trainer, module and data; their errors are raised as ``UserError``.

        With ``ckpt_path`` all weights are those of that checkpoint, so the checkpoint of ``init_from``, or what
        ``pretrained`` names, is not read again: it may have been deleted. Only ``ckpt_path: last`` may find none, in a
        run that has not begun.
        """
        config = self.config[self.subcommand]
        if config.get("weights_only") is False:
            raise UserError(
                "weights_only is false: a checkpoint is data, and code in it is never run; remove the key, or save "
                "only the state_dict of that model"
            )
        started_from = config.get("model.init_args.init_from")
        starts = _starts(config)
        given = config.ckpt_path
        loggers = config.trainer.logger
        config.trainer.logger = without_tensorboard(loggers)
        if given:
            _put(config, dict.fromkeys(starts))
        try:
            super().instantiate_classes()
            if starts and given and not config.ckpt_path:
                _put(config, starts)
                super().instantiate_classes()
            check_classes(self.given, self.datamodule)
            if self.subcommand == "fit":
                self.give_pretraining(started_from)
        except MisconfigurationException as error:
            raise UserError(" ".join(str(error).split())) from error
        except ValueError as error:
            raise user_error(error) or instantiation_error(error) or error from None
        finally:
            config.trainer.logger = loggers
            _put(config, starts)

    def give_pretraining(self, started_from: str | None) -> None:
        """Make the pre-training's task and data module for the methods of ``transfer`` that need them.

        Args:
            started_from: The value of ``model.init_from``; None: there is no pre-training, which the method refuses.

        Raises:
            UserError: The pre-training's configuration, or its checkpoint, is missing or does not fit.
        """
        methods = getattr(getattr(self.model, "transfer", None), "methods", ())
        resumed = bool(self.config[self.subcommand].ckpt_path)
        for method in methods:
            if isinstance(method, UsesPretraining) and started_from and (method.needed_to_resume or not resumed):
                name, config = f"transfer {type(method).__name__}", pretraining_config(method, started_from)
                with torch.random.fork_rng(devices=[]):
                    made = CheckCLI(["fit", f"--config={config}", *_ONLY_MADE])
                load_pretrained(made.model, started_from, name)
                method.use_pretraining(made.model, made.datamodule)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer, with the caller's callbacks added."""
        asked = self.config_init[self.subcommand].trainer
        if asked.get("sync_batchnorm") and (asked.get("accelerator") == "cpu" or not torch.cuda.is_available()):
            kwargs["sync_batchnorm"] = False
            rank_zero_info(
                "trainer.sync_batchnorm works only on GPUs: on this machine each process normalises by its own images"
            )
        quieten_lightning()
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, AttributeError, KeyError, RuntimeError, ValueError) as error:
            if known := isinstance(error, ValueError) and (user_error(error) or instantiation_error(error)):
                raise known from error
            raise UserError(
                f"trainer: cannot be made of these values ({type(error).__name__}: {shortened(one_line(error), 300)})"
            ) from error
        use_own_progress_bar(trainer)
        only_note_sigterm(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = ReadCheckpoints(self.model, training=self.subcommand == "fit")
        # before the callbacks that write checkpoints, so that checkpoints hold these callbacks' state of the same step
        trainer.callbacks[:0] = [WholeHistory(), *self.more_callbacks]  # type: ignore[attr-defined]
        config, fitting = self.config[self.subcommand], self.subcommand == "fit"
        if fitting and any(map(takes_pictures, trainer.loggers)):
            trainer.callbacks.append(LoggerPictures())  # type: ignore[attr-defined]
        checkpoint = config.ckpt_path = checkpoint_to_load(trainer, str(self.subcommand), config.ckpt_path)
        done = self._open_checkpoint(trainer, checkpoint) if checkpoint and names_a_file(checkpoint) else None
        if not fitting or checkpoint:  # a new fit starts a new metrics.csv
            for logger in trainer.loggers:
                if isinstance(logger, CSVLogger):
                    keep_history(logger, before_step=done if fitting else None)
        return trainer

    def _open_checkpoint(self, trainer: Trainer, checkpoint: str) -> int | None:
        """Read and check the checkpoint that Lightning will restore; return the step at which it was written."""
        reader = trainer.strategy.checkpoint_io
        if not isinstance(reader, ReadCheckpoints):
            return None  # a plugin of the user's own
        content = reader.read(checkpoint)
        if self.subcommand == "fit":
            trainer.callbacks.insert(0, CheckTrainingState(content, checkpoint))  # type: ignore[attr-defined]
        step: int | None = content.get("global_step")
        return step

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with training_in(self.trainer) if subcommand == "fit" else nullcontext():
                super()._run_subcommand(subcommand)
        except (UserError, OSError, MemoryError):
            raise
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # which Lightning turns into an ordinary failure
                raise KeyboardInterrupt from None
            if self.trainer.received_sigterm:  # for which Lightning has exit code 0, as if the training were complete
                raise SystemExit(128 + signal.SIGTERM) from None
            raise
        except MisconfigurationException as error:
            raise UserError(shortened(one_line(error), 1000)) from error
        except Exception as error:
            if isinstance(error, ValueError) and "`val_check_interval`" in str(error):
                batches = str(error).partition("training batches (")[2].partition(")")[0]
                raise UserError(
                    f"trainer.val_check_interval is {self.trainer.val_check_interval}, and an epoch has {batches} "
                    "batches: lower it, or set trainer.check_val_every_n_epoch to null to count over epochs"
                ) from error
            if isinstance(error, RuntimeError) and "does not allow for gradient clipping" in str(error):
                raise UserError(
                    f"trainer.gradient_clip_val is given with a fused optimizer under trainer.precision "
                    f"{self.trainer.precision}, which Lightning does not allow: leave out fused: true of "
                    "model.optimizer, or gradient_clip_val"
                ) from error
            if isinstance(error, RuntimeError) and "shared memory" in str(error):  # of a loader process
                raise UserError(
                    memory_full() or f"a loader process ended: {shortened(one_line(error), 300)}"
                ) from error
            raise restoring_error(error, str(self.config[subcommand].ckpt_path)) or error from None

    def after_fit(self) -> None:
        """Say where the weights are."""
        if saved := saved_checkpoints(self.trainer):
            rank_zero_info(f"saved: {', '.join(saved)}")

    def after_validate(self) -> None:
        """Print what was measured."""
        self._print_metrics()

    def after_test(self) -> None:
        """Print what was measured."""
        self._print_metrics()

    def _print_metrics(self) -> None:
        if self.config[self.subcommand].verbose and self.trainer.is_global_zero:
            print(metrics_table(self.trainer.callback_metrics))

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        if "weights_only" in arguments:
            arguments["weights_only"] = True  # also of strategies that read their own files
        if "verbose" in arguments:
            arguments["verbose"] = False  # Lightning prints 16 digits
        return arguments

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments. Lightning would compare them with those of the process."""
        check_braces(args)
        try:
            self.config = parser.parse_args(args)
        except UserError as error:
            raise in_its_file(error, args) from error
        except OmegaConfBaseException as error:
            key = f"{error.full_key}: " if error.full_key else ""
            mend = "interpolation (${…}) uses absolute keys and works only in YAML files, not in values given by --key"
            raise UserError(f"{key}{str(error).splitlines()[0]}; {mend}") from error

    def _parse_ckpt_path(self) -> None:
        # Lightning would silently replace values of the command line by the checkpoint's hyper-parameters.
        return

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Pass the data module's number of classes to the model, where both have one."""
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")


def _starts(config: Any) -> dict[str, Any]:
    """Return the keys of a configuration that name weights to start from, with their values."""
    keys = ("model.init_args.init_from", "model.init_args.pretrained")
    return {key: value for key in keys if (value := config.get(key))}


def _put(config: Any, values: Mapping[str, Any]) -> None:
    """Set keys of a configuration; None: nothing to start from."""
    for key, value in values.items():
        config[key] = False if value is None and key.endswith("pretrained") else value


# a trainer that is made for its task and data module: what the pre-training ran on may be missing here
_ONLY_MADE = (
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.num_nodes=1",
    "--trainer.strategy=auto",
    "--trainer.precision=null",
    "--trainer.plugins=null",
    "--trainer.profiler=null",
    "--trainer.logger=false",
    "--trainer.callbacks=null",
)


class CheckCLI(RunCLI):
    """The configuration of a run, checked and not run.

    Args:
        args: As of :func:`run`.
        make: Also make trainer, data, network (from random weights) and optimiser. They are made for the CPU where the
            configuration does not say otherwise.

    Raises:
        UserError: As :func:`run`, before anything is read or trained.
    """

    def __init__(self, args: Sequence[str], make: bool = True) -> None:
        self.make = make
        super().__init__(args)

    def instantiate_classes(self) -> None:
        """Make the objects, if asked for."""
        if self.make:
            config = self.config[self.subcommand]
            _put(config, dict.fromkeys(_starts(config)))
            with _quiet():
                super().instantiate_classes()
                if isinstance(self.model, lightning_tl.tasks.TransferTask):
                    self.model.check_optimizer()

    def give_pretraining(self, started_from: str | None) -> None:
        """Make nothing more."""

    def _set_seed(self) -> None:
        """Leave the random numbers of the process as they are."""

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        if self.make:
            super()._add_configure_optimizers_method_to_model(subcommand)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def open_data(self) -> None:
        """List the images for training and validation, so that missing folders and too small sets are known.

        A data module that is not one of ours is not changed.
        """
        if isinstance(self.datamodule, BatchedDataModule):
            with _quiet():
                self.datamodule.check()

    def validation_metrics(self) -> list[str]:
        """Return the names of what one small validation batch logs."""
        if isinstance(self.datamodule, BatchedDataModule):
            self.datamodule.eval_batch_size = 2
        with _quiet():
            trainer = Trainer(
                accelerator="cpu", devices=1, fast_dev_run=1, enable_progress_bar=False, enable_model_summary=False
            )
            trainer.validate(self.model, self.datamodule, verbose=False)
        return sorted(trainer.callback_metrics)


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute Lightning's notes."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def run(args: Sequence[str], callbacks: Sequence[Callback] = ()) -> RunCLI:
    """Do one run.

    Args:
        args: As after ``lightning-tl``: ``["fit", "--config", "pretrain/small_images", "--data.n", "64"]``.
        callbacks: Added to the configured ones; the saved configuration does not contain them.

    Returns:
        The CLI with ``model``, ``datamodule``, ``trainer`` and ``config``.

    Raises:
        UserError: A key is unknown, a value is wrong, or a file is missing.
    """
    if not torch.cuda.is_available():
        # Lightning makes torch look for GPUs by NVML, and torch looks in each step of Adam: for 0.1 ms, with no GPU
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return RunCLI(args, callbacks)
