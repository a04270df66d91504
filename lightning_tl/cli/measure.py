"""`lightning-tl measure`: distance, Hessian trace and sensitivity of saved checkpoints."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Literal

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
    has_model = any(argument.split("=", 1)[0] == "--model" for argument in for_the_run)
    if not settings.ckpt or not (settings.config or has_model):
        raise UserError(
            "lightning-tl measure needs --ckpt (one or more checkpoints), and --config (the run's YAML) or --model and "
            "--data (dotted paths to a module and to its data)"
        )
    options = MeasureOptions(**{field.name: settings[field.name] for field in fields(MeasureOptions)})
    if settings.batches < 1:
        raise UserError(f"--batches is {settings.batches}; at least 1 batch is needed to measure on")

    from lightning_tl.cli.dotted import named
    from lightning_tl.cli.measure_objects import device_named, named_objects, objects_of_run
    from lightning_tl.offline.checkpoints import measure_checkpoints
    from lightning_tl.offline.losses import loss_of

    device = device_named(settings.device)
    loss_fn = None if settings.loss is None else loss_of(named(settings.loss, "--loss"), f"--loss {settings.loss}")
    if settings.config:
        configs = [part for file in settings.config for part in ("--config", file)]
        module, batches = objects_of_run([*configs, *for_the_run], settings.split, settings.batches, device)
    else:
        needs_data = set(options.quantities) != {"distance"}
        module, batches = named_objects(
            for_the_run, settings.ckpt[0], settings.split, settings.batches, device, needs_data, options.seed
        )
    records = measure_checkpoints(
        module, settings.ckpt, batches, options, out=settings.out, reference=settings.reference, loss_fn=loss_fn
    )
    for record in records:
        if record.group in _WHOLE and not record.quantity.endswith("_along"):
            print(_line(record))
    print(f"{settings.out}/measurements.csv ({len(records)} rows), measurements.png")
    return 0


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
        "weights, and the loss along reference → checkpoint, into measurements.csv and a plot. What is measured is a "
        "run's YAML (--config; overrides of its own options, --model.…, --data.…, --trainer.…, are passed on), or any "
        "module: --model my_module.MyModel --data my_module.make_loader, dotted paths to a LightningModule or a "
        "torch.nn.Module (a class, or a function that makes one), and to a DataLoader, a data module or a function "
        "that makes one; --model.width 3 is an argument of theirs.",
    )
    add = parser.add_argument
    add("--options", action=ActionConfigFile, help="YAML file with any of the options below.")
    add("--config", type=str, nargs="+", default=[], help="The run's YAML, as for `lightning-tl fit`.")
    add(
        "--loss",
        type=str | None,
        default=None,
        help="Dotted path to a loss, where the module has no training_step or another is meant: a function (module, "
        "batch), or a criterion (outputs, targets) such as torch.nn.functional.cross_entropy.",
    )
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
