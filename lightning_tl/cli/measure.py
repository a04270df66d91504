"""`lightning-tl measure`: distance, Hessian trace and sensitivity of saved checkpoints."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_tl.cli.parsing import CommandParser
from lightning_tl.errors import UserError
from lightning_tl.offline.measure_options import SERIES_QUANTITIES, MeasureOptions, Quantity, SeriesOptions

if TYPE_CHECKING:
    from lightning_tl.measured_value import Measured

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
    values = [argument.removeprefix("--model=") for argument in for_the_run]
    hub = next((value.removeprefix("hf:") for value in values if value.startswith("hf:")), None)
    if hub is None:
        quantities = MeasureOptions.quantities
    else:  # fine-tuning is an experiment of its own
        quantities = SERIES_QUANTITIES if settings.finetune is None else ("distance",)
    options = MeasureOptions(
        **{field.name: settings[field.name] for field in fields(MeasureOptions) if field.name != "quantities"},
        quantities=settings.quantities or quantities,
    )
    if hub is not None:
        if len(for_the_run) > 2 or settings.config or settings.ckpt or settings.loss:
            raise UserError("--model hf:… takes no --config, --ckpt, --data, --loss, and no other options of a run")
        return _language_models(hub, settings, options)
    has_model = any(argument.split("=", 1)[0] == "--model" for argument in for_the_run)
    if not settings.ckpt or not (settings.config or has_model):
        raise UserError(
            "lightning-tl measure needs --ckpt (one or more checkpoints), and --config (the run's YAML) or --model and "
            "--data (dotted paths to a module and to its data); or --model hf:… and --text, for a series of language "
            "models"
        )
    if settings.batches < 1:
        raise UserError(f"--batches is {settings.batches}; at least 1 batch is needed to measure on")
    return _checkpoints(settings, options, for_the_run)


def _checkpoints(settings: Any, options: MeasureOptions, for_the_run: list[str]) -> int:
    """Measure checkpoint files of a run, or of any module."""
    from lightning_tl.cli.dotted import named
    from lightning_tl.cli.measure_objects import device_named, named_objects, objects_of_run
    from lightning_tl.offline.checkpoint_series import measure_checkpoint_series
    from lightning_tl.offline.default_loss import loss_of

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
    more = {"loss": settings.loss, "split": settings.split, "device": device.type, "options of the run": for_the_run}
    results, answer = measure_checkpoint_series(
        module, settings.ckpt, batches, options, Path(settings.out), settings.reference, loss_fn, more
    )
    records = [record for result in results for record in result.records]
    for record in records:
        if record.group in _WHOLE and not record.quantity.endswith("_along"):
            print(_line(record))
    print(*answer, sep="\n", end="\n" if answer else "")
    print(f"{settings.out}/measurements.csv ({len(records)} rows), measurements.png, report.html")
    return 0


def _language_models(model: str, settings: Any, options: MeasureOptions) -> int:
    """Measure a series of language models."""
    if settings.text is None:
        raise UserError(f"--model hf:{model} needs --text, a file of held-out text to measure the loss on")
    given = {field.name: settings[field.name] for field in fields(SeriesOptions) if field.name != "model"}
    series = SeriesOptions(model=model, **given)

    from lightning_tl.cli.measure_objects import device_named
    from lightning_tl.offline.language_series import measure_language_models
    from lightning_tl.offline.series_report import write_series

    if series.device != "auto":
        device_named(series.device)
    out = Path(settings.out)
    results, used = measure_language_models(series, options, out)
    for result in results:
        print(result.revision.name)
        for record in result.records:
            print(f"  {_line(record)}")
    for sentence in write_series(results, used, str(used["model"]), out):
        print(sentence)
    print(f"{out}/report.html, measurements.csv")
    return 0


def _line(record: Measured) -> str:
    """Return a value as one line for the terminal."""
    from lightning_tl.offline.loss_records import strength_of

    name = f"{record.quantity}/{record.group}" if record.group else record.quantity
    strength = "" if record.gamma is None else f" {strength_of(record)}={record.gamma}"
    error = "" if record.stderr is None else f" ± {record.stderr:.2g}"
    return f"step {record.step:>7}  {name}{strength}: {record.value:.5g}{error}"


def _parser() -> CommandParser:
    from jsonargparse import ActionConfigFile

    parser = CommandParser(
        prog="lightning-tl measure",
        description="Measure saved checkpoints: distance from a reference, Hessian trace, sensitivity to noise in the "
        "weights, quantisation and pruning, and the loss along reference → checkpoint, into measurements.csv, plots "
        "and a report. What is measured is a run's YAML (--config; overrides of its own options, --model.…, --data.…, "
        "--trainer.…, are passed on), or any module: --model my_module.MyModel --data my_module.make_loader, dotted "
        "paths to a LightningModule or a torch.nn.Module (a class, or a function that makes one), and to a DataLoader, "
        "a data module or a function that makes one; --model.width 3 is an argument of theirs. Or a series of language "
        "models, on the Hugging Face Hub or in a folder: --model hf:OWNER/MODEL --text FILE.",
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
    add("--device", type=str, default="cpu", help="Where to measure: cpu, cuda, cuda:1, mps; auto with hf:….")
    # these two as `--gammas 0.1 0.2`; a class's lists would be `--gammas [0.1,0.2]`
    lists = {"quantities", "gammas", "bits", "sparsities"}
    gammas = list(MeasureOptions.gammas)
    known = ", ".join(MeasureOptions.quantities)
    add(
        "--quantities", type=Quantity, nargs="+", default=[], help=f"What to measure: {known}; default: all that apply."
    )
    add("--bits", type=int, nargs="+", default=list(MeasureOptions.bits), help="Bits to which weights are rounded.")
    sparsities = list(MeasureOptions.sparsities)
    add("--sparsities", type=float, nargs="+", default=sparsities, help="Shares of the weights that are set to 0.")
    add("--gammas", type=float, nargs="+", default=gammas, help="Scales of the noise.")
    parser.add_class_arguments(MeasureOptions, skip=lists)
    _add_series(parser)
    for action in parser._actions:
        action.help = (action.help or "").replace("``", "") or None  # marked as code in the docstring
    return parser


def _add_series(parser: CommandParser) -> None:
    """Add the options of a series of language models, ``--model hf:…``."""
    add = parser.add_argument
    add("--text", type=str | None, default=None, help="With --model hf:…: a UTF-8 file of held-out text.")
    add(
        "--revisions", type=str, nargs="+", default=[], help="Branches, tags or sub-folders; default: all that tell it."
    )
    add("--tokens", type=str, nargs="+", default=[], help="Tokens seen in training by each revision, as 4B 8B.")
    rates = list(SeriesOptions.finetune_lr)
    flags = dict.fromkeys(["--finetune-lr", "--finetune_lr"])
    add(*flags, type=float, nargs="+", default=rates, help="Peak learning rates of --finetune, each by itself.")
    for name in _SERIES_HELP:
        field = {field.name: field for field in fields(SeriesOptions)}[name]
        flags = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        kind = {"int": int, "str": str, "bool": bool, "int | None": int | None, "str | None": str | None}[
            str(field.type)
        ]
        add(*flags, type=kind, default=field.default, help=_SERIES_HELP[name])


_SERIES_HELP = {
    "spread": "Of all revisions take so many, evenly spaced in the logarithm of the training seen.",
    "tokens_per_step": "Tokens per training step, as 2M, where names of revisions tell only the step.",
    "windows": "Windows of text.",
    "length": "Tokens of a window.",
    "batch_size": "Windows per batch; batches are the units of the standard errors.",
    "dtype": "Of the weights in memory: fp32, bf16 or fp16.",
    "finetune": "A UTF-8 file of another text: fine-tune each revision on a part of it, and measure its loss on the "
    "rest and on --text. By default nothing else is measured then but distances.",
    "finetune_windows": "Windows of it to fine-tune on.",
    "finetune_epochs": "Passes over them.",
    "finetune_draws": "How often to fine-tune at each rate, each time on other windows.",
    "discard_downloads": "Download into --out, and delete each revision once it is measured (true or false).",
}


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
