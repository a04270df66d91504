"""`lightning-tl measure` on the checkpoint of a short run."""

import csv

import pytest

from lightning_tl.cli.measure import main
from lightning_tl.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of two steps."""
    from lightning_tl.run import run as fit

    folder = tmp_path_factory.mktemp("run")
    options = {
        "--config": "finetune/digits",
        "--data.batch_size": "8",
        "--data.shots": "2",
        "--data.steps_per_epoch": "2",
        "--model.init_args.scheduler.init_args.warmup_steps": "1",
        "--trainer.limit_val_batches": "1",
        "--trainer.default_root_dir": str(folder),
        "--trainer.max_steps": "2",
    }
    fit(["fit", *(part for pair in options.items() for part in pair)])
    return folder


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "out"
    measured = ["--ckpt", str(run / "checkpoints" / "last.ckpt"), "--out", str(out)]
    measured += ["--quantities", "distance", "trace", "sensitivity", "--draws", "2", "--gammas", "0.01", "0.02"]
    code = main(["--config", str(run / "config.yaml"), *measured, "--data.batch_size", "6"])
    assert code == 0
    printed = capsys.readouterr().out
    assert "step       2  hessian/trace: " in printed
    assert "step       2  hessian/weighted_trace: " in printed
    assert "step       2  param_distance/total: 0\n" in printed
    assert "perturbed_loss gamma=0: " in printed
    assert "sensitivity gamma=0.02: " in printed
    assert "trace/" not in printed  # parameter groups are in the table
    rows = read(out / "measurements.csv")
    (trace,) = [row for row in rows if (row["quantity"], row["group"]) == ("hessian", "trace")]
    assert float(trace["stderr"]) == 0  # a ResNet of ten classes: exact
    assert {row["run_id"] for row in rows} == {run.name}
    assert {row["gamma"] for row in rows if row["quantity"] == "sensitivity"} == {"0.01", "0.02"}
    assert f"{out}/measurements.csv ({len(rows)} rows), measurements.png" in printed


def test_options_from_a_file(run, tmp_path):
    (tmp_path / "options.yaml").write_text(
        f"config: [{run / 'config.yaml'}]\nckpt: [{run / 'checkpoints' / 'last.ckpt'}]\nout: {tmp_path / 'out'}\n"
        "quantities: [sensitivity]\ngammas: [0.05]\nnoise: relative\ndraws: 2\nsplit: val\n"
    )
    assert main(["--options", str(tmp_path / "options.yaml"), "--draws", "3"]) == 0
    rows = read(tmp_path / "out" / "measurements.csv")
    assert [(row["quantity"], row["gamma"]) for row in rows] == [
        ("perturbed_loss", "0"),
        ("perturbed_loss", "0.05"),
        ("sensitivity", "0.05"),
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], r"needs --ckpt \(one or more checkpoints\), and --config"),
        (["--gamas", "0.1"], "unknown option --gamas; did you mean 'gammas'"),
        (["--quantities", "trace", "sensitivit"], "quantities: 'sensitivit' is unknown; did you mean 'sensitivity'"),
        (["--noise", "isotrope"], "noise: 'isotrope' is unknown; did you mean 'isotropic'"),
        (["--bn", "average"], "bn: 'average' is unknown; valid: interpolated, kept, re-estimated"),
        (["--split", "test"], "split: 'test' is unknown; valid: train, val"),
        (["--gammas", "0.1", "x"], "gammas: should be a number, not x"),
        (["--config", "a", "--ckpt", "b", "--rest", "reference"], "rest='reference' needs include="),
    ],
)
def test_options_that_are_wrong(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)
