"""`lightning-tl measure`: distance, Hessian trace and sensitivity of saved checkpoints."""

from __future__ import annotations

import sys

from lightning_tl.cli.parsing import CommandParser
from lightning_tl.errors import UserError

_OF_THE_RUN = ("--model", "--data", "--trainer", "--seed_everything")


def main(argv: list[str] | None = None) -> int:
    """Run ``lightning-tl measure``; return its exit code."""
    own, of_the_run = _split(list(sys.argv[1:] if argv is None else argv))
    options = _parser().parse_args(own)
    if not options.config or not options.ckpt:
        raise UserError("lightning-tl measure needs --config (the run's YAML) and --ckpt (one or more checkpoints)")

    from itertools import islice

    from lightning_tl.callbacks.checkpoints import measure_checkpoints
    from lightning_tl.run import RunCLI

    class Built(RunCLI):
        """Trainer, module and data of a run that is not run."""

        def _run_subcommand(self, subcommand: str) -> None:
            return

    configs = [part for file in options.config for part in ("--config", file)]
    run = Built(["fit", *configs, *of_the_run])
    data, module = run.datamodule, run.model
    data.trainer = module.trainer = run.trainer
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader() if options.split == "train" else data.val_dataloader()
    module.to(options.device)
    batches = [data.transfer_batch_to_device(b, module.device, 0) for b in islice(iter(loader), options.batches)]
    rows = measure_checkpoints(
        module,
        options.ckpt,
        batches,
        out=options.out,
        quantities=options.quantities,
        reference=options.reference,
        gammas=options.gammas,
        draws=options.draws,
        noise=options.noise,
        products=options.products,
        include=options.include,
        exclude=options.exclude,
        rest=options.rest,
        bn=options.bn,
        seed=options.seed,
    )
    for row in rows:
        if row["group"] == "" and "along" not in row["quantity"]:
            gamma = f" gamma={row['gamma']}" if row["gamma"] != "" else ""
            spread = f" ± {row['stderr']:.2g}" if row["stderr"] != "" else ""
            print(f"step {row['step']:>7}  {row['quantity']}{gamma}: {row['value']:.5g}{spread}")
    print(f"{options.out}/measurements.csv ({len(rows)} rows), measurements.png")
    return 0


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
    add(
        "--quantities",
        type=str,
        nargs="+",
        default=["distance", "trace", "sensitivity", "direction"],
        help="Any of distance, trace, sensitivity, direction.",
    )
    add("--reference", type=str | None, default=None, help="Checkpoint to measure from; default: the first.")
    add("--split", type=str, choices=["train", "val"], default="train", help="Which data the loss is measured on.")
    add("--batches", type=int, default=1, help="How many batches of it.")
    add("--gammas", type=float, nargs="+", default=[0.005, 0.01, 0.02, 0.05], help="Scales of the noise.")
    add("--draws", type=int, default=8, help="Antithetic pairs by scale.")
    add("--noise", type=str, default="init", help="init, relative or isotropic.")
    add("--products", type=int, default=24, help="Hessian-vector products by trace.")
    add("--include", type=str | None, default=None, help="Regular expression of parameters to measure.")
    add("--exclude", type=str | None, default=None, help="Regular expression of parameters to leave out.")
    add(
        "--rest",
        type=str,
        choices=["own", "reference"],
        default="own",
        help="What --include leaves out is each checkpoint's own, or the reference's: --include '^backbone' --rest "
        "reference measures fine-tuned backbones under the pre-training head.",
    )
    add(
        "--bn",
        type=str,
        choices=["kept", "re-estimated", "interpolated"],
        default="kept",
        help="BatchNorm's statistics: each checkpoint's; re-estimated on the batches for the weights at hand; or, on "
        "the line from the reference, interpolated like the weights.",
    )
    add("--seed", type=int, default=0, help="Draws probes and noise.")
    add("--device", type=str, default="cpu", help="Where to measure: cpu, cuda, cuda:1, mps.")
    return parser


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return the command's own arguments and those of the run's configuration."""
    own: list[str] = []
    passed: list[str] = []
    into = own
    for argument in argv:
        if argument.startswith("--"):
            name = argument.split("=", 1)[0]
            into = passed if name in _OF_THE_RUN or name.startswith(tuple(f"{n}." for n in _OF_THE_RUN)) else own
        into.append(argument)
    return own, passed
