"""The folders of a training's checkpoints: one training writes there at a time, and overwrites no earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_tl._io.locks import lock_owner, try_lock
from lightning_tl.errors import UserError


def checkpoint_folders(trainer: Trainer) -> list[Path]:
    """Return the local folders that the configuration names for checkpoints, in order, each once."""
    named = [str(folder) for each in trainer.checkpoint_callbacks if (folder := getattr(each, "dirpath", None))]
    return [Path(folder) for folder in dict.fromkeys(named) if "://" not in folder]


@contextmanager
def training_in(trainer: Trainer) -> Iterator[None]:
    """Keep other trainings out of the checkpoints' folders; afterwards the checkpoints must be there.

    Raises:
        UserError: Another process trains into one of the folders, or checkpoints were deleted during the training.
    """
    with ExitStack() as stack:
        for folder in checkpoint_folders(trainer) if trainer.is_global_zero else ():
            lock = folder.with_name(f".{folder.name}.lock")  # a file in the folder would count as a checkpoint's
            lock.parent.mkdir(parents=True, exist_ok=True)
            if not stack.enter_context(try_lock(lock)):
                raise UserError(
                    f"another process (id {lock_owner(lock)}) is training into {folder}: wait for it, end it, or "
                    "choose another --trainer.default_root_dir"
                )
        yield
        if trainer.is_global_zero:
            _check_saved(trainer)


def _check_saved(trainer: Trainer) -> None:
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        for saved in (callback.best_model_path, callback.last_model_path):
            if saved and "://" not in saved and not Path(saved).exists():
                raise UserError(
                    f"{saved}: was deleted during the training, so the result is incomplete: train again into an "
                    "empty folder"
                )


def refuse_used_folder(trainer: Trainer) -> None:
    """Refuse a new training where another one's checkpoints are, which it would overwrite.

    Raises:
        UserError: There are checkpoints in a folder that the configuration names.
    """
    for folder in checkpoint_folders(trainer) if trainer.is_global_zero else ():
        found = sorted(folder.glob("*.ckpt"))
        if found:
            last = folder / "last.ckpt"
            raise UserError(
                f"{folder} holds the checkpoints of an earlier training, which this one would overwrite: go on with it "
                f"by --ckpt_path {last if last in found else found[0]}, choose another --trainer.default_root_dir, or "
                "delete the folder"
            )
