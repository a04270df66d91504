"""The module and the data that `lightning-tl measure` measures: those of a run's YAML, or any that the user names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import nn

from lightning_tl.cli.dotted import called, hyper_parameters, named
from lightning_tl.errors import UserError, one_line
from lightning_tl.losses.training_step import is_lightning_module
from lightning_tl.measure.checkpoint import read_checkpoint_file
from lightning_tl.offline.batches import first_batches


def device_named(name: str) -> torch.device:
    """Return the device of this name.

    Raises:
        UserError: There is no such kind of device, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ModuleNotFoundError, ValueError) as error:
        reason = one_line(error).split(". ")[0][:160]
        raise UserError(
            f"--device '{name}' cannot be used on this machine ({reason}); name cpu, cuda, cuda:1 or mps"
        ) from None
    return device


def objects_of_run(args: Sequence[str], split: str, count: int, device: torch.device) -> tuple[nn.Module, list[Any]]:
    """Return module and batches of a run that is configured as for `lightning-tl fit`; it is not started.

    Args:
        args: As after ``lightning-tl fit``.
        split: ``train`` or ``val``.
        count: Number of batches.
        device: Where to put both.
    """
    from lightning_tl.run import RunCLI

    class Unstarted(RunCLI):
        """Trainer, module and data of a run that is not started."""

        def _run_subcommand(self, subcommand: str) -> None:
            return

    run = Unstarted(["fit", *args])
    data, module = run.datamodule, run.model
    data.trainer = module.trainer = run.trainer
    loader = _loader_of(data, split)
    module.to(device)
    return module, [data.transfer_batch_to_device(batch, module.device, 0) for batch in islice(iter(loader), count)]


def named_objects(
    args: Sequence[str], checkpoint: str, split: str, count: int, device: torch.device, needs_data: bool, seed: int
) -> tuple[nn.Module, list[Any]]:
    """Return the module of ``--model`` and batches of the data of ``--data``, each a dotted path to anything suitable.

    Args:
        args: ``--model``, ``--data`` and their options.
        checkpoint: What Lightning's hyper-parameters are read from, for arguments that no option gives.
        split: ``train`` or ``val``, for a data module, and for a module that has its own loaders.
        count: Number of batches.
        device: Where to put both.
        needs_data: Whether anything is measured on data.
        seed: Of module and data as they are made.

    Raises:
        UserError: An object is not found, cannot be made, or is of another kind.
    """
    for argument in args:
        if argument.startswith("--") and not argument.startswith(("--model", "--data")):
            raise UserError(f"{argument.split('=', 1)[0]} is an option of a run's YAML: use it together with --config")
    torch.manual_seed(seed)
    model, model_options = named_object(args, "--model")
    kept = hyper_parameters(read_checkpoint_file(checkpoint))
    module = called(named(str(model), "--model"), "--model", model_options, kept)
    if not isinstance(module, nn.Module):
        raise UserError(f"--model {model} gives a {type(module).__name__}, not a torch.nn.Module")
    if is_lightning_module(module):  # its training_step may ask the trainer for the epoch
        base = next(kind for kind in type(module).__mro__ if kind.__name__ == "LightningModule")
        package: Any = import_module(
            "pytorch_lightning" if base.__module__.startswith("pytorch_lightning") else "lightning.pytorch"
        )
        module.trainer = package.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.to(device)
    if not needs_data:
        return module, []
    name, data_options = named_object(args, "--data")
    if name is not None:
        data = called(named(name, "--data"), "--data", data_options)
    elif _is_overridden(module, f"{split}_dataloader"):
        name, data = model, module
    else:
        raise UserError(
            "name the data to measure on: --data, a dotted path to a DataLoader or a function that gives one"
        )
    loader = _loader_of(data, split) if hasattr(data, f"{split}_dataloader") else data
    if isinstance(loader, torch.utils.data.Dataset) or not isinstance(loader, Iterable):
        raise UserError(
            f"--data {name} gives a {type(loader).__name__}; it must be a DataLoader, a data module, a list of "
            "batches, or a function that gives one of these"
        )
    return module, [move_data_to_device(batch, device) for batch in first_batches(iter(loader), count, device, seed)]


def named_object(args: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """Return the value of an option such as ``--model``, None where it is not given, and the options of its object."""
    name, own = None, []
    into = False
    arguments = iter(args)
    for argument in arguments:
        if argument.startswith("--"):
            into = argument.split("=", 1)[0].split(".", 1)[0] == option
        if not into:
            continue
        if argument == option:
            name = next(arguments, None)
        elif argument.startswith(f"{option}="):
            name = argument.removeprefix(f"{option}=")
        else:
            own.append(argument)
    return name, own


def _loader_of(data: Any, split: str) -> Any:
    """Return the loader of a data module, prepared as for training, or of a module that has its own."""
    for name, arguments in (("prepare_data", ()), ("setup", ("fit",))):
        if callable(method := getattr(data, name, None)):
            method(*arguments)
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    return loader[0] if isinstance(loader, list | tuple) and loader else loader


def _is_overridden(module: nn.Module, name: str) -> bool:
    """Return whether a module has its own loaders: Lightning's base classes have methods that raise."""
    method = getattr(type(module), name, None)
    return method is not None and not method.__module__.startswith(("lightning.", "pytorch_lightning."))
