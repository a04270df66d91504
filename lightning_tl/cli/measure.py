"""`lightning-tl measure`: distance, Hessian trace and sensitivity of saved checkpoints."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from lightning_tl.cli.parsing import CommandParser
from lightning_tl.errors import UserError
from lightning_tl.offline.options import MeasureOptions, Quantity

if TYPE_CHECKING:
    from lightning_tl.measured import Measured

_RUN_OPTIONS = ("--model", "--data", "--trainer", "--seed_everything")
#: Groups of values for the whole network; the others are of parameter groups.
_WHOLE = ("", "total", "relative", "cosine", "trace", "weighted_trace")


def main(argv: list[str] | None = None) -> int:
    """Run ``lightning-tl measure``.

    Args:
        argv: Arguments after ``lightning-tl measure``; default: the process's.

    Returns:
        The exit code 0.

    Raises:
        UserError: An option is wrong, or as :func:`~lightning_tl.offline.checkpoints.measure_checkpoints`.
    """
    own, for_the_run = _split(list(sys.argv[1:] if argv is None else argv))
    settings = _parser().parse_args(own)
    if not settings.config or not settings.ckpt:
        raise UserError("lightning-tl measure needs --config (the run's YAML) and --ckpt (one or more checkpoints)")
    options = MeasureOptions(**{field.name: settings[field.name] for field in fields(MeasureOptions)})

    from lightning_tl.offline.checkpoints import measure_checkpoints

    configs = [part for file in settings.config for part in ("--config", file)]
    module, batches = _module_and_batches([*configs, *for_the_run], settings.split, settings.batches, settings.device)
    records = measure_checkpoints(
        module, settings.ckpt, batches, options, out=settings.out, reference=settings.reference
    )
    for record in records:
        if record.group in _WHOLE and not record.quantity.endswith("_along"):
            print(_line(record))
    print(f"{settings.out}/measurements.csv ({len(records)} rows), measurements.png")
    return 0


def _module_and_batches(args: list[str], split: str, count: int, device: str) -> tuple[Any, list[Any]]:
    """Return the module and the first batches of the data of a run, on the device.

    Args:
        args: As after ``lightning-tl fit``; the run is not started.
        split: ``train`` or ``val``.
        count: Number of batches.
        device: As torch names it.
    """
    from itertools import islice

    from lightning_tl.run import RunCLI

    class Unstarted(RunCLI):
        """Trainer, module and data of a run that is not started."""

        def _run_subcommand(self, subcommand: str) -> None:
            return

    run = Unstarted(["fit", *args])
    data, module = run.datamodule, run.model
    data.trainer = module.trainer = run.trainer
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    module.to(device)
    return module, [data.transfer_batch_to_device(batch, module.device, 0) for batch in islice(iter(loader), count)]


def _line(record: Measured) -> str:
    """Return a value as one line for the terminal."""
    name = f"{record.quantity}/{record.group}" if record.group else record.quantity
    gamma = "" if record.gamma is None else f" gamma={record.gamma}"
    error = "" if record.stderr is None else f" ± {record.stderr:.2g}"
    return f"step {record.step:>7}  {name}{gamma}: {record.value:.5g}{error}"


def _parser() -> CommandParser:
    from jsonargparse import ActionConfigFile

    parser = CommandParser(
        prog="lightning-tl measure",
        description="Measure saved checkpoints: distance from a reference, Hessian trace, sensitivity to noise in the "
        "weights, and the loss along reference → checkpoint, into measurements.csv and a plot. Overrides of the run's "
        "own options (--model.…, --data.…, --trainer.…) are passed on.",
    )
    add = parser.add_argument
    add("--options", action=ActionConfigFile, help="YAML file with any of the options below.")
    add("--config", type=str, nargs="+", default=[], help="The run's YAML, as for `lightning-tl fit`.")
    add("--ckpt", type=str, nargs="+", default=[], help="Checkpoints, in the order in which to measure.")
    add("--out", type=str, default="measurements", help="Folder for the table and the plot.")
    add("--reference", type=str | None, default=None, help="Checkpoint to measure from; default: the first.")
    add("--split", type=Literal["train", "val"], default="train", help="Which data the loss is measured on.")
    add("--batches", type=int, default=1, help="Number of batches of it.")
    add("--device", type=str, default="cpu", help="Where to measure: cpu, cuda, cuda:1, mps.")
    # these two as `--gammas 0.1 0.2`; a class's lists would be `--gammas [0.1,0.2]`
    lists = {"quantities", "gammas"}
    quantities, gammas = list(MeasureOptions.quantities), list(MeasureOptions.gammas)
    add("--quantities", type=Quantity, nargs="+", default=quantities, help="What to measure, any of the default ones.")
    add("--gammas", type=float, nargs="+", default=gammas, help="Scales of the noise.")
    parser.add_class_arguments(MeasureOptions, skip=lists)
    for action in parser._actions:
        action.help = (action.help or "").replace("``", "") or None  # marked as code in the docstring
    return parser


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return the command's own arguments and those for the run."""
    own: list[str] = []
    for_the_run: list[str] = []
    into = own
    for argument in argv:
        if argument.startswith("--"):
            name = argument.split("=", 1)[0]
            is_run_option = name in _RUN_OPTIONS or name.startswith(tuple(f"{option}." for option in _RUN_OPTIONS))
            into = for_the_run if is_run_option else own
        into.append(argument)
    return own, for_the_run
