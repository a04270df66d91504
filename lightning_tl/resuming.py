"""What ``--ckpt_path`` names: read by the one reader, and compared with the run before Lightning restores it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError, one_line, shortened
from lightning_tl.models.weights import is_statistic, tensor_problem
from lightning_tl.tasks import TransferTask

#: What Lightning looks for by itself; anything else is a place.
NAMES = ("best", "last", "hpc")
_RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"
_MOST = 2**48  # of a counter: larger ones overflow where steps are counted in images
_TRAINING = {"optimizer_states": Sequence, "lr_schedulers": Sequence, "loops": Mapping, "callbacks": Mapping}
_NEW_RUN = "to start a new run from its weights use --model.init_from"

Content = dict[str, Any]


def names_a_file(checkpoint: str | None) -> bool:
    """Return whether ``--ckpt_path`` names a path or URL, and not what Lightning finds by itself."""
    return bool(checkpoint) and checkpoint not in NAMES and not str(checkpoint).startswith("registry")


def checkpoint_to_load(trainer: Trainer, subcommand: str, given: str | None) -> str | None:
    """Return the checkpoint that a run will load: a path or URL instead of a name such as ``last``; None: none.

    Args:
        trainer: Of the run.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        given: The value of ``--ckpt_path``. With None, Lightning looks for the checkpoint of a SLURM job that was
            interrupted.

    Raises:
        UserError: There is no checkpoint of that name; ``last`` may be missing, as before the first training.
    """
    if given is not None and given not in NAMES:
        return given
    try:
        connector = trainer._checkpoint_connector
        found = connector._parse_ckpt_path(TrainerFn(subcommand), given, model_provided=True, model_connected=False)
    except ValueError as error:
        raise UserError(f"--ckpt_path {given}: found no such checkpoint; give the file ({one_line(error)})") from error
    return None if found is None else str(found)


class ReadCheckpoints(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoint files, which reads plain types only, whatever it is asked for.

    Args:
        module: The module whose checkpoints these are.
        training: Whether a training is resumed from them; else only the weights are used.
    """

    def __init__(self, module: LightningModule, training: bool) -> None:
        self._module, self._training = module, training
        self._ready: dict[str, Content] = {}

    def read(self, place: str) -> Content:
        """Return a checkpoint's content, and keep it for the next :meth:`load_checkpoint` of that place."""
        content = read_checkpoint(place)
        check_content(content, place, self._training)
        self._ready[place] = content
        return content

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Content:
        """Return a checkpoint's content, on the CPU, for the module, whose parameters are made by now.

        Raises:
            UserError: As :func:`~lightning_tl.checkpoint_files.read_checkpoint`, or the checkpoint does not fit.
        """
        place, module = str(path), self._module
        content = self._ready.pop(place, None) or self.read(place)
        self._ready.clear()
        name = f"--ckpt_path {shortened(place)}"
        if self._training and isinstance(module, TransferTask):
            module.transfer.check_resumed(content, name)
        known = (LightningModule.on_load_checkpoint, TransferTask.on_load_checkpoint)
        own_names = type(module).on_load_checkpoint not in known
        strict = module.strict_loading and not own_names  # else the module renames, or leaves out
        check_weights(content["state_dict"], module, name, strict)
        return content


def check_content(content: Content, place: str, training: bool) -> None:
    """Refuse a checkpoint that is not Lightning's, or lacks what is needed.

    Args:
        content: Of the checkpoint.
        place: For messages.
        training: Whether a training is resumed from it; else only its weights are used.

    Raises:
        UserError: A part is missing, or of a wrong type.
    """
    name = f"--ckpt_path {shortened(place)}"
    state, version = content.get("state_dict"), content.get("pytorch-lightning_version")
    if not isinstance(state, Mapping) or not isinstance(version, str):
        raise UserError(f"{name}: is no checkpoint of a Lightning run; {_NEW_RUN}")
    if wrong := [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]:
        raise UserError(f"{name}: '{shortened(wrong[0])}' in its state_dict is no tensor; {_NEW_RUN}")
    if not version[:1].isdigit() or not all(part.isalnum() for part in version.replace("+", ".").split(".")):
        raise UserError(f"{name}: its Lightning version is '{shortened(version)}', which is none; {_NEW_RUN}")
    if training and "optimizer_states" not in content:
        raise UserError(f"{name}: holds no training state to resume from; {_NEW_RUN}")
    for key in ("global_step", "epoch"):
        if (training or key in content) and not _is_counter(content.get(key)):
            raise UserError(f"{name}: its {key} is {shortened(repr(content.get(key)))}, no whole number; {_NEW_RUN}")
    for key, kind in _TRAINING.items() if training else ():
        if key in content and (not isinstance(content[key], kind) or isinstance(content[key], str)):
            raise UserError(f"{name}: its {key} is a {type(content[key]).__name__}; {_NEW_RUN}")
        if key not in content and key != "callbacks":
            raise UserError(f"{name}: has no {key}, so no training can be resumed from it; {_NEW_RUN}")


def check_weights(state: Mapping[str, Tensor], module: nn.Module, name: str, strict: bool = True) -> None:
    """Refuse weights that do not fit a module, or are no finite numbers.

    Args:
        state: Name → tensor.
        module: The module.
        name: How messages call the source.
        strict: Whether the names must be the module's.

    Raises:
        UserError: A tensor is missing, left over, of another shape or kind, or a parameter is not finite.
    """
    own = module.state_dict()
    missing, more = [key for key in own if key not in state], [key for key in state if key not in own]
    if strict and (missing or more):
        parts = [f"it lacks {_listed(missing)}"] if missing else []
        parts += [f"it has {_listed(more)}, which the model lacks"] if more else []
        raise UserError(f"{name} does not fit {type(module).__name__}: {' and '.join(parts)}; {_NEW_RUN}")
    parameters = {key for key, _ in module.named_parameters()}
    for key, here in own.items():
        if not isinstance(here, Tensor) or key not in state:
            continue
        if problem := tensor_problem(state[key], here, key in parameters or is_statistic(key)):
            raise UserError(f"{name}: {key} {problem}; {_NEW_RUN}")


class CheckTrainingState(Callback):
    """Compares a checkpoint's optimisers, schedules, loops and callbacks with the run's, before they are restored.

    torch and Lightning accept states of wrong types, and fail at a later step.

    Args:
        content: Of the checkpoint.
        place: For messages.
    """

    def __init__(self, content: Content, place: str) -> None:
        # Lightning changes the content while it restores
        self._parts = {key: content.get(key) for key in _TRAINING}
        self._name = f"--ckpt_path {shortened(place)}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare the states of the loops and the callbacks."""
        loops = self._parts.pop("loops", None)
        if isinstance(loops, Mapping):
            self._compare(loops.get("fit_loop"), trainer.fit_loop.state_dict(), "loops.fit_loop")
        callbacks = self._parts.pop("callbacks", None)
        if isinstance(callbacks, Mapping):
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if callback.state_key in callbacks:
                    self._compare(callbacks[callback.state_key], callback.state_dict(), type(callback).__name__)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the states of optimisers and schedules, then let go of the content."""
        there, here = self._parts.pop("optimizer_states", None), [each.state_dict() for each in trainer.optimizers]
        schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        self._same_number(there, here, "optimisers")
        for state, optimizer in zip(there or (), trainer.optimizers, strict=False):
            self._compare(state, optimizer.state_dict() | {"state": {}}, "optimizer_states")
            self._optimizer(state, optimizer)
        there = self._parts.pop("lr_schedulers", None)
        self._same_number(there, schedulers, "learning-rate schedules")
        self._compare(there, schedulers, "lr_schedulers")

    def _same_number(self, there: Any, here: list[Any], what: str) -> None:
        if isinstance(there, Sequence) and len(there) != len(here):
            raise UserError(f"{self._name}: has {len(there)} {what}, this run has {len(here)}; {_NEW_RUN}")

    def _optimizer(self, state: Any, optimizer: torch.optim.Optimizer) -> None:
        """Compare the groups' sizes and the tensors' shapes, which torch does not."""
        groups = optimizer.param_groups
        sizes = [len(group.get("params", ())) for group in state["param_groups"]]
        if sizes != [len(group["params"]) for group in groups]:
            raise UserError(f"{self._name}: its optimiser has other parameters than this run's; {_NEW_RUN}")
        params = [param for group in groups for param in group["params"]]
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        for number, param in zip(numbers, params, strict=True):
            moments = state["state"].get(number, {}) if isinstance(number, int) else None
            if not isinstance(moments, Mapping):
                raise UserError(f"{self._name}: the optimiser's state is damaged; {_NEW_RUN}")
            for key, value in moments.items():
                single = isinstance(value, int | float | None) or (isinstance(value, Tensor) and value.numel() == 1)
                if not single and not (isinstance(value, Tensor) and value.shape == param.shape):
                    raise UserError(
                        f"{self._name}: the optimiser's {shortened(key)} is of another shape than its parameter, "
                        f"{list(param.shape)}; {_NEW_RUN}"
                    )

    def _compare(self, there: Any, here: Any, where: str) -> None:
        """Refuse values of other types than the run's own; what only one of the two has is left to Lightning."""
        if here is None:
            return
        if isinstance(here, Mapping):
            if not isinstance(there, Mapping):
                raise self._wrong(there, where)
            for key, value in here.items():
                if key in there:
                    self._compare(there[key], value, f"{where}.{key}")
        elif isinstance(here, list | tuple):
            if not isinstance(there, list | tuple):
                raise self._wrong(there, where)
            for number, (first, second) in enumerate(zip(there, here, strict=False)):
                self._compare(first, second, f"{where}[{number}]")
        elif isinstance(here, bool) or (isinstance(here, int) and "progress" in where):
            if not (isinstance(there, bool) if isinstance(here, bool) else _is_counter(there)):
                raise self._wrong(there, where)
        elif isinstance(here, int | float | Tensor):
            if not (isinstance(there, int | float) or (isinstance(there, Tensor) and there.numel() == 1)):
                raise self._wrong(there, where)
        elif isinstance(here, str) and not isinstance(there, str):
            raise self._wrong(there, where)

    def _wrong(self, value: Any, where: str) -> UserError:
        return UserError(f"{self._name}: {where} is {shortened(repr(value), 60)}: the file is damaged; {_NEW_RUN}")


def restoring_error(error: Exception, place: str) -> UserError | None:
    """Return the error for an exception that Lightning raised while it restored a checkpoint; ``None`` for others."""
    frames = traceback.walk_tb(error.__traceback__)
    if not any(frame.f_globals.get("__name__") == _RESTORING for frame, _ in frames):
        return None
    reason = shortened(f"{type(error).__name__}: {one_line(error)}", 300)
    return UserError(f"--ckpt_path {shortened(place)}: cannot be restored ({reason}); {_NEW_RUN}")


def _is_counter(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{shortened(name, 80)}'" for name in names[:most]) + more
