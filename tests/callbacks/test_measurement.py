"""Which values are measured, when, and where they are logged."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.measure import Objective, hessian_trace, noise_scales, perturbation_sensitivity
from lightning_tl.measured_value import logged as logged_values
from tests.callbacks.modules import Classifier, images, trainer
from tests.measured_values import only, series


def rows(path):
    lines = [line.split(",") for line in (path / "version_0" / "metrics.csv").read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_numbers_reach_the_logger_at_their_step_whatever_log_every_n_steps_is(tmp_path):
    measuring = [
        ParameterDistance(every_n_steps=5, groups={"^head": "head", "": "rest"}),
        HessianTrace(every_n_steps=7, top_eigenvalue=True),
        PerturbationSensitivity([0.02, 0.1], draws=2, every_n_steps=5),
    ]
    logger = CSVLogger(tmp_path, name="x")
    run = trainer(max_epochs=2, callbacks=measuring, logger=logger, log_every_n_steps=50)
    run.fit(Classifier(), images())
    logged = rows(tmp_path / "x")
    assert [int(r["step"]) for r in logged if r.get("param_distance/total")] == [0, 5, 10, 12]
    assert [int(r["step"]) for r in logged if r.get("hessian/trace")] == [0, 7, 12]
    for callback in measuring:
        for record in callback.history:
            for key, value in logged_values([record]).items():
                assert math.isfinite(value)
                cells = [float(r[key]) for r in logged if r.get(key) and int(r["step"]) == record.step]
                assert cells == pytest.approx([value], rel=1e-6), key
    expected = {"param_distance/total", "param_distance/head", "param_distance/relative", "param_distance/seconds"}
    expected |= {"hessian/trace", "hessian/trace_stderr", "hessian/top_eigenvalue", "hessian/seconds"}
    expected |= {"hessian/trace/backbone", "hessian/trace/head"}
    expected |= {"sensitivity/gamma_0.02", "sensitivity/gamma_0.02_stderr", "perturbed_loss/gamma_0.02"}
    expected |= {"sensitivity/gamma_0.1", "perturbed_loss/gamma_0", "sensitivity/seconds"}
    assert expected <= run.callback_metrics.keys()
    distances = series(measuring[0].history, "param_distance", "total")
    assert [step for step, _ in distances] == [0, 5, 10, 12]
    assert run.callback_metrics["param_distance/total"] == pytest.approx(distances[-1][1])


def test_values_are_those_of_the_measure_package_on_the_first_batch():
    class First(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0 and trainer.current_epoch == 0:
                self.batch = [t.clone() for t in batch]
                self.weights = {n: t.clone() for n, t in pl_module.state_dict().items()}

    first, trace, noisy = First(), HessianTrace(None), PerturbationSensitivity([0.1], every_n_steps=None, draws=4)
    weighted = HessianTrace(None, noise="init", prefix="init/")
    distance = ParameterDistance(every_n_steps=None, at_epoch_end=True)
    module = Classifier()
    trainer(max_epochs=1, callbacks=[first, trace, weighted, noisy, distance]).fit(module, images())
    final = {n: p.detach().clone() for n, p in module.named_parameters()}
    module.load_state_dict(first.weights)

    def loss(m, batch):
        x, y = batch
        return torch.nn.functional.cross_entropy(m(x + 0.01 * torch.randn_like(x)), y)

    objective = Objective(module, loss, [first.batch])
    expected = hessian_trace(objective)
    assert expected.method == "exact"
    measured = only(trace.history, 0, "hessian", "trace")
    assert measured.value == pytest.approx(expected.value, rel=1e-5)
    assert measured.stderr == 0
    scales = noise_scales(module, objective.params)
    expected = hessian_trace(objective, scales=scales).weighted
    of_noise = only(weighted.history, 0, "init/hessian", "weighted_trace")
    assert of_noise.value == pytest.approx(expected.value, rel=1e-5)
    assert of_noise.stderr == 0
    assert only(weighted.history, 0, "init/hessian", "trace").value == measured.value
    assert not [record for record in trace.history if "weighted" in record.group]
    again = perturbation_sensitivity(objective, scales, [0.1], 4)[0]
    rise = only(noisy.history, 0, "sensitivity", gamma=0.1)
    assert rise.value == pytest.approx(again.sensitivity, rel=1e-4)
    assert rise.stderr == pytest.approx(again.stderr, rel=1e-3)
    moved = sum(float((p - first.weights[n]).square().sum()) for n, p in final.items()) ** 0.5
    assert series(distance.history, "param_distance", "total") == [(0, 0.0), (6, pytest.approx(moved, rel=1e-5))]


def test_early_stopping_and_checkpoints_can_monitor_the_values(tmp_path):
    stop = EarlyStopping("param_distance/total", mode="min", patience=1)
    best = ModelCheckpoint(tmp_path, monitor="hessian/trace", save_top_k=1, filename="best")
    run = trainer(
        max_epochs=9,
        enable_checkpointing=True,
        callbacks=[ParameterDistance(every_n_steps=1), HessianTrace(every_n_steps=2, products=2), stop, best],
    )
    run.fit(Classifier(), images(), images(8))
    assert run.current_epoch < 9  # the distance grows, so "min" stops
    assert best.best_model_score is not None
    assert (tmp_path / "best.ckpt").exists()


def test_accumulation_counts_optimiser_steps_once():
    distance = ParameterDistance(every_n_steps=1)
    trainer(max_epochs=2, accumulate_grad_batches=4, callbacks=[distance]).fit(Classifier(), images())
    assert distance.measured_steps == [0, 1, 2, 3, 4]  # 6 batches: steps after 4 and 6


def test_moments():
    epoch = ParameterDistance(every_n_steps=None, at_start=False, at_epoch_end=True)
    validation = ParameterDistance(every_n_steps=None, at_start=False, at_validation=True, prefix="v/")
    run = trainer(max_epochs=2, val_check_interval=3, callbacks=[epoch, validation], num_sanity_val_steps=2)
    run.fit(Classifier(), images(), images(8))
    assert epoch.measured_steps == [6, 12]
    assert validation.measured_steps == [3, 6, 9, 12]
    assert {record.quantity for record in validation.history} == {"v/param_distance"}


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_under_inference_mode(stage, tmp_path):
    module = Classifier()
    module.test_step = lambda batch, batch_idx: None
    reference = {n: p.detach() + 1 for n, p in module.named_parameters()}
    measuring = [
        ParameterDistance(reference),
        HessianTrace(products=4),
        HessianTrace(products=4, method="matvec", prefix="matvec/", probe_batches=2),
        PerturbationSensitivity([0.1], draws=2),
    ]
    run = trainer(callbacks=measuring, logger=CSVLogger(tmp_path, name="x"), inference_mode=True)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    getattr(run, stage)(module, images(16), verbose=False)
    assert all(torch.equal(t, module.state_dict()[n]) for n, t in before.items())
    count = sum(p.numel() for p in module.parameters())
    assert only(measuring[0].history, 0, "param_distance", "total").value == pytest.approx(count**0.5)
    assert [callback.measured_steps for callback in measuring] == [[0]] * 4
    assert only(measuring[1].history, 0, "hessian", "trace").value > 0
    assert any(r.get("hessian/trace") for r in rows(tmp_path / "x"))


def test_values_that_are_not_finite_are_logged_with_a_warning():
    trace = HessianTrace(None, loss_fn=lambda m, b: m(b[0]).mean() * float("nan"))
    with pytest.warns(UserWarning, match="HessianTrace: not finite at step 0: hessian/trace"):
        trainer(max_steps=1, callbacks=[trace]).fit(Classifier(), images())
    assert math.isnan(only(trace.history, 0, "hessian", "trace").value)
