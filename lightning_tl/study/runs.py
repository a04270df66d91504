"""One run of a study in its folder: locked, resumed after an interruption, recorded when it is finished."""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from lightning_tl._io.locks import try_lock
from lightning_tl.errors import UserError, disk_full, is_disk_full
from lightning_tl.study.records import read_record, read_state, write_json

_STATE_SECONDS = 1.0  # between two writings of state.json


@dataclass(frozen=True)
class Call:
    """All that a worker needs to do a run; plain values, which can be sent to any process.

    Attributes:
        name: Name of the run and of its folder.
        folder: Folder for its checkpoints and record.
        key: Hash of all that the result depends on; a record with another key does not count.
        args: Arguments of ``lightning-tl fit``, without the folder.
        test: Whether the network that ``test_at`` names is tested.
        start: Folder of the pre-training that it starts from, or None.
        forgetting: Whether the pre-training loss is measured afterwards.
        test_at: Which network is tested: after the ``last`` step, or of the ``best`` validation.
        locks: Folder of the lock files.
        targets: Folder for pictures of the target images.
        threads: Number of CPU threads.
        store: URL of a copy of the study's folder, for nodes that share no folder; or None.
        configs: With a store, the configuration files that ``args`` names, as (path, text): a node may not have them.
    """

    name: str
    folder: str
    key: str
    args: tuple[str, ...]
    test: bool
    start: str | None
    locks: str
    targets: str
    forgetting: bool = False
    test_at: str = "last"
    threads: int = 1
    store: str | None = None
    configs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a call ended: with a record, with an error, or with neither where another process is doing the run.

    Attributes:
        name: Name of the run.
        record: Its record.
        error: The reason of a failure.
        again: Whether a failed run may succeed when it is tried again.
    """

    name: str
    record: dict[str, Any] | None = None
    error: str | None = None
    again: bool = True


def do_run(call: Call) -> Outcome:
    """Do or resume one run in this process. Errors are returned, not raised, and noted in ``state.json``."""
    with locked(call) as acquired:
        return do_locked(call) if acquired else Outcome(call.name)


def do_locked(call: Call, keep: Callable[[], None] = lambda: None) -> Outcome:
    """Do one run whose lock this process holds.

    Args:
        call: The run.
        keep: Called before each training step, when the files of the run are consistent.
    """
    folder = Path(call.folder)
    record = read_record(folder / "record.json", call.key)
    if record is not None:
        return Outcome(call.name, record)
    try:
        return Outcome(call.name, _train(call, folder, keep))
    except Exception as error:
        again = not isinstance(error, UserError)
        if isinstance(error, OSError) and is_disk_full(error):
            message, again = disk_full(error.filename), False
        else:
            message = traceback.format_exc() if again else str(error)
            with (folder / "log.txt").open("a") as log:
                log.write(message)
        note_state(folder, call.key, status="failed", error=in_one_line(message))
        return Outcome(call.name, error=message.strip(), again=again)
    finally:
        _end_wandb()


def _end_wandb() -> None:
    """End the process's W&B run; otherwise the worker's next training would log into it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def in_one_line(error: str) -> str:
    """Return an error's message, or the last line of a traceback."""
    lines = error.strip().splitlines()
    return lines[-1] if error.startswith("Traceback") else lines[0]


def note_state(folder: Path, key: str, **facts: Any) -> None:
    """Write ``state.json``, the run's progress, for ``study status``."""
    content = {
        "key": key,
        "folder": str(folder),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": time.time(),
        **facts,
    }
    write_json(folder / "state.json", content, sync=False)


@contextmanager
def locked(call: Call) -> Iterator[bool]:
    """Yield whether this process got the run's lock. The system releases it when the process ends."""
    path = Path(call.locks) / call.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with try_lock(path) as held:
        yield held


def _train(call: Call, folder: Path, keep: Callable[[], None]) -> dict[str, Any]:
    checkpoint = _resumable(folder, call.key)
    if checkpoint is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    spent = _spent(folder)
    begun = time.perf_counter() - spent
    note_state(folder, call.key, status="running", spent=spent)
    with output_to(folder / "log.txt"):
        cli, done = train_and_test(call, folder, checkpoint, [_reporter(call, folder, begun, keep)])
        for name, value in done["metrics"].items():
            if not math.isfinite(value):
                raise UserError(f"{name} is {value}: the training diverged; lower model.optimizer.lr")
        compare(cli, call, done)
    record = {"key": call.key, **done, "seconds": round(time.perf_counter() - begun, 3)}
    write_json(folder / "record.json", record)
    return record


def train_and_test(
    call: Call, folder: Path, checkpoint: Path | None, callbacks: list[Any]
) -> tuple[Any, dict[str, Any]]:
    """Train and test in a folder; return the finished run, and what a record says of it.

    Args:
        call: The run; its test says what comes after the training.
        folder: Folder of the run.
        checkpoint: The training goes on from it.
        callbacks: Further ones.
    """
    from lightning_tl.callbacks.measurement import Measurement
    from lightning_tl.run import run
    from lightning_tl.study.image_results import save_image_results
    from lightning_tl.study.pictures import save_predictions, save_target

    args = ["fit", *call.args, f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    more = [*_best_checkpoint(call, folder), *callbacks]
    cli = run([*args, *([f"--ckpt_path={checkpoint}"] if checkpoint else [])], callbacks=more)
    logged = cli.trainer.callback_metrics.items()
    metrics = {name: float(value) for name, value in logged if not name.endswith("/seconds")}
    if checkpoint and not any(name.startswith("val/") for name in metrics):
        # interrupted after the last step: no training step was left, so no validation ran
        metrics |= _numbers(cli.trainer.validate(cli.model, cli.datamodule, verbose=False))
    saved = cli.trainer.checkpoint_callback
    best = getattr(saved, "best_model_path", "") or getattr(saved, "last_model_path", "")
    facts = _facts(cli)
    replicates: list[float] = []
    measured = [item for item in cli.trainer.callbacks if isinstance(item, Measurement)]  # type: ignore[attr-defined]
    history = [record for item in measured for record in item.history]
    if call.test_at == "best":
        facts |= _take_best(cli, best)
        metrics |= _numbers(cli.trainer.validate(cli.model, cli.datamodule, verbose=False))
    if call.test:
        save_target(cli.datamodule, facts, Path(call.targets))
        metrics |= _numbers(cli.trainer.test(cli.model, cli.datamodule, verbose=False))
        tested_on, replicates = save_image_results(cli.model, folder)
        facts |= tested_on
        save_predictions(cli.model, cli.datamodule, folder / "predictions.png")
    done = {
        "checkpoint": str(Path(best).resolve().relative_to(folder.resolve())) if best else "",
        "metrics": metrics,
        "facts": facts,
        "error_replicates": replicates,
        "measurements": [record.row() for record in history],
    }
    return cli, done


def compare(cli: Any, call: Call, done: dict[str, Any]) -> None:
    """Add to a record what fine-tuning did to the pre-training, and the networks between the two.

    Args:
        cli: The finished run.
        call: The run; its start and forgetting say whether the pre-training is measured.
        done: Its record, which is changed.
    """
    from lightning_tl.study.interpolations import interpolations

    pretrained = None
    if call.forgetting and call.start is not None:
        from lightning_tl.study.forgetting import forgotten, pretrained_network

        pretrained = pretrained_network(Path(call.start))
        done["facts"] |= forgotten(cli.model, pretrained)
    done["interpolations"] = interpolations(cli, call.test, pretrained)
    if pretrained is not None:
        pretrained.release()


def _best_checkpoint(call: Call, folder: Path) -> list[Any]:
    """Return the callback that saves the network with the lowest validation loss, where ``test_at`` is ``best``."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    if call.test_at != "best":
        return []
    place = str(folder / "checkpoints")
    return [ModelCheckpoint(place, "best", monitor="val/loss", mode="min", enable_version_counter=False)]


def _take_best(cli: Any, checkpoint: str) -> dict[str, Any]:
    """Load the network of the best validation; return the step at which it was saved."""
    from lightning_tl.checkpoint_files import read_checkpoint

    content = read_checkpoint(checkpoint)
    cli.model.load_state_dict(content["state_dict"])
    return {"tested_step": content["global_step"]}


def _resumable(folder: Path, key: str) -> Path | None:
    """Return the last intact checkpoint of an interrupted run with the same key, or None."""
    from lightning_tl.checkpoint_files import read_checkpoint

    state = read_state(folder)
    if state.get("key") != key or state.get("folder") != str(folder):
        return None  # after the folder was moved, Lightning forgets which checkpoint was the best
    for name in ("last", "best"):
        checkpoint = folder / "checkpoints" / f"{name}.ckpt"
        try:
            if checkpoint.is_file() and read_checkpoint(checkpoint):
                return checkpoint
        except UserError:  # the process was killed while writing it
            continue
    return None


def _spent(folder: Path) -> float:
    """Return how many seconds of training an interrupted run has had."""
    return float(read_state(folder).get("spent", 0.0))


def _reporter(call: Call, folder: Path, begun: float, keep: Callable[[], None]) -> Any:
    from lightning.pytorch.callbacks import Callback

    class Report(Callback):
        """Writes the run's progress to ``state.json``."""

        last = 0.0

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.is_global_zero:
                keep()  # here, and not at a step's end, as checkpoints are written after this callback's turn

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            now = time.perf_counter()
            if now - self.last > _STATE_SECONDS and trainer.is_global_zero:
                self.last = now
                progress = {"step": trainer.global_step, "steps": trainer.max_steps, "spent": round(now - begun, 1)}
                note_state(folder, call.key, status="running", **progress)

    return Report()


def _numbers(results: Any) -> dict[str, float]:
    return {name: float(value) for name, value in results[0].items()}


def _facts(cli: Any) -> dict[str, Any]:
    """Return the columns of results.csv that module, data module and trainer provide."""
    from lightning_tl.models.low_rank import own_size

    data, model, trainer = cli.datamodule, cli.model, cli.trainer
    splits = getattr(data, "splits", {})
    split = splits.get("train")
    facts = {
        "task": getattr(data, "task", type(model).__name__),
        "data": type(data).__name__,
        # rendered data sets have no test split: the validation images are used
        "tested_on_validation": True if "val" in splits and splits.get("test") is splits["val"] else None,
        "images": None if split is None else len(split),
        "fraction": getattr(data, "fraction", None),
        "draw": getattr(data, "draw", None),
        "backbone": getattr(model, "backbone_name", None),
        "backbone_params": own_size(model.backbone) if hasattr(model, "backbone") else None,
        "metric": getattr(model, "metric_name", None),
        "steps": trainer.global_step,
        "passes": _passes(cli, split),
        "tokens": _tokens(cli),
        "seed": cli.config[cli.subcommand].get("seed_everything"),
        "lr": _peak_lr(trainer.optimizers),
        **_transfer_facts(model),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _transfer_facts(model: Any) -> dict[str, Any]:
    if not hasattr(model, "transfer"):
        return {}
    return {"transfer": model.transfer.label(), "trainable_params": model.transfer.parameter_counts(model)[0]}


def _peak_lr(optimizers: Any) -> float | None:
    """Return the learning rate of the main parameters; groups with ``lr_factor`` are auxiliary heads."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    main = [group for group in groups if "lr_factor" not in group] or groups
    return max((float(group.get("initial_lr", group["lr"])) for group in main), default=None)


def _passes(cli: Any, split: Any) -> float | None:
    """Return how many times the training visited each image on average."""
    trainer, batch = cli.trainer, getattr(cli.datamodule, "batch_size", None)
    if not split or batch is None:
        return None
    return float(trainer.global_step * batch * trainer.accumulate_grad_batches * trainer.world_size / len(split))


def _tokens(cli: Any) -> int | None:
    """Return the tokens that the training has read, repeated ones included; None where data are no text."""
    trainer, data = cli.trainer, cli.datamodule
    sizes = getattr(data, "batch_size", None), getattr(data, "sample_tokens", None)
    if sizes[0] is None or sizes[1] is None:
        return None
    return int(trainer.global_step * sizes[0] * sizes[1] * trainer.accumulate_grad_batches * trainer.world_size)


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send all output to a file. Lightning's log handlers need it too: they keep the stream they had at import."""
    import lightning.pytorch  # noqa: F401  imported within, its handlers would keep the file, which is closed afterwards

    with path.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        before = [(handler, handler.setStream(log)) for handler in _handlers()]
        try:
            yield
        finally:
            for handler, stream in before:
                if stream is not None:
                    handler.setStream(stream)


def _handlers() -> list[logging.StreamHandler[TextIO]]:
    loggers = map(logging.getLogger, ("lightning.pytorch", "lightning.fabric"))
    return [handler for logger in loggers for handler in logger.handlers if isinstance(handler, logging.StreamHandler)]
