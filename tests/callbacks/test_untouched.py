"""The headline: training with all callbacks is, bit for bit, training without."""

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from tests.callbacks.modules import Classifier, images, trainer


def callbacks():
    often = {"every_n_steps": 1, "at_epoch_end": True, "at_validation": True}
    return [
        ParameterDistance(**often),
        HessianTrace(products=4, top_eigenvalue=True, **often),
        HessianTrace(products=4, method="matvec", prefix="matvec/", **often),
        PerturbationSensitivity(gammas=[0.1], draws=2, **often),
    ]


def fit(tmp_path, extra, **options):
    pl.seed_everything(7)
    module = Classifier()
    run = trainer(
        max_epochs=3,
        callbacks=[*extra, ModelCheckpoint(tmp_path, save_last=True)],
        enable_checkpointing=True,
        logger=[CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tb")],
        log_every_n_steps=1,
        **options,
    )
    run.fit(module, images(), images(16, seed=2))
    rng = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    rows = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    return module, run, rng, rows


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2, "val_check_interval": 2},
        {"accumulate_grad_batches": 4, "gradient_clip_val": 0.5},
        {"precision": "bf16-mixed"},
    ],
)
def test_training_is_bit_identical_with_and_without(tmp_path, options):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    plain, run, rng, rows = fit(tmp_path / "a", [], **options)
    with_callbacks = callbacks()
    measured, run2, rng2, rows2 = fit(tmp_path / "b", with_callbacks, **options)
    assert all(len(callback.measured_steps) > 3 for callback in with_callbacks)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, measured.state_dict()[name]), name
    assert plain.seen == measured.seen
    first, second = run.optimizers[0].state_dict(), run2.optimizers[0].state_dict()
    for key, state in first["state"].items():
        assert all(torch.equal(state[k], second["state"][key][k]) for k in state)
    assert first["param_groups"] == second["param_groups"]
    for a, b in zip(plain.parameters(), measured.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)
    assert rng[0] == rng2[0]
    assert rng[1] == rng2[1]
    assert torch.equal(rng[2], rng2[2])
    assert [m.training for m in plain.modules()] == [m.training for m in measured.modules()]
    for key in ("train/loss", "train/accuracy_epoch", "val/loss"):
        assert torch.equal(run.callback_metrics[key], run2.callback_metrics[key]), key
    # what the loggers wrote of the run itself is the same too
    assert columns(rows, ["train/loss", "val/loss", "train/accuracy_epoch"]) == columns(
        rows2, ["train/loss", "val/loss", "train/accuracy_epoch"]
    )


def columns(rows, keys):
    header = rows[0].split(",")
    cells = [[row.split(",")[header.index(k)] for k in keys] for row in rows[1:]]
    return [row for row in cells if any(row)]


def test_an_exception_in_the_loss_leaves_the_module_as_it_was():
    module = Classifier()
    calls = []

    def failing(m, batch):
        calls.append(1)
        if len(calls) > 4:
            raise KeyError("on the way")
        return torch.nn.functional.cross_entropy(m(batch[0]), batch[1])

    run = trainer(max_steps=1, callbacks=[PerturbationSensitivity([0.1], loss_fn=failing, on_error="raise")])
    before = {n: t.clone() for n, t in module.state_dict().items()}
    with pytest.raises(KeyError):
        run.fit(module, images())
    assert all(torch.equal(t, module.state_dict()[n]) for n, t in before.items())
    assert "log" not in vars(module)
