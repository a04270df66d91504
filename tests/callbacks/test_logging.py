"""Where numbers go, when they are measured, and that they are right."""

import math
import warnings

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.callbacks.measurement_schedule import MeasurementSchedule
from lightning_tl.measure import Objective, hessian_trace, noise_scales, perturbation_sensitivity
from tests.callbacks.modules import Classifier, images, trainer


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
    assert [int(r["step"]) for r in logged if r.get("param_distance/total")] == [0, 5, 10]
    assert [int(r["step"]) for r in logged if r.get("hessian/trace")] == [0, 7]
    for callback in measuring:
        for row in callback.history:
            assert math.isfinite(sum(row.values()))
            for key, value in row.items():
                if key != "step":
                    found = [float(r[key]) for r in logged if r.get(key) and int(r["step"]) == row["step"]]
                    assert found == pytest.approx([value], rel=1e-6), key
    expected = {"param_distance/total", "param_distance/head", "param_distance/relative", "param_distance/seconds"}
    expected |= {"hessian/trace", "hessian/trace_stderr", "hessian/top_eigenvalue", "hessian/seconds"}
    expected |= {"hessian/trace/backbone", "hessian/trace/head"}
    expected |= {"sensitivity/gamma_0.02", "sensitivity/gamma_0.02_stderr", "perturbed_loss/gamma_0.02"}
    expected |= {"sensitivity/gamma_0.1", "perturbed_loss/gamma_0", "sensitivity/seconds"}
    assert expected <= run.callback_metrics.keys()
    assert run.callback_metrics["param_distance/total"] == pytest.approx(
        measuring[0].history[-1]["param_distance/total"]
    )


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
    found = hessian_trace(objective)
    assert found.method == "exact"
    assert trace.history[0]["hessian/trace"] == pytest.approx(found.value, rel=1e-5)
    assert trace.history[0]["hessian/trace_stderr"] == 0
    scales = noise_scales(module, objective.params)
    expected = hessian_trace(objective, scales=scales).weighted
    logged = weighted.history[0]
    assert logged["init/hessian/weighted_trace"] == pytest.approx(expected.value, rel=1e-5)
    assert logged["init/hessian/weighted_trace_stderr"] == 0
    assert logged["init/hessian/trace"] == trace.history[0]["hessian/trace"]
    assert not [key for key in trace.history[0] if "weighted" in key]
    again = perturbation_sensitivity(objective, scales, [0.1], 4)[0]
    assert noisy.history[0]["sensitivity/gamma_0.1"] == pytest.approx(again.sensitivity, rel=1e-4)
    moved = sum(float((p - first.weights[n]).square().sum()) for n, p in final.items()) ** 0.5
    assert distance.history[-1]["param_distance/total"] == pytest.approx(moved, rel=1e-5)
    assert distance.history[0]["param_distance/total"] == 0


def test_what_is_not_certain_of_the_initialisation_is_told_once_and_kept():
    class Deep(Classifier):
        def __init__(self):
            super().__init__()
            torch.nn.init.orthogonal_(self.head.weight)

    measuring = [PerturbationSensitivity([0.1], draws=2, every_n_steps=1), HessianTrace(1, noise="init")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(max_steps=3, callbacks=measuring).fit(Deep(), images())
    told = [str(w.message) for w in caught if "it is not certain how" in str(w.message)]
    assert len(told) == 2  # once by each callback, not at each of its four measurements
    assert "the constructor of Deep" in told[0]
    for callback in measuring:
        assert len(callback.history) == 4
        assert callback.doubts == told[:1]
    state = measuring[0].state_dict()
    again = PerturbationSensitivity([0.1])
    again.load_state_dict(state)
    assert again.doubts == told[:1]
    assert HessianTrace().doubts == []


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
    assert [row["step"] for row in distance.history] == [0, 1, 2, 3, 4]  # 6 batches: steps after 4 and 6


def test_moments():
    epoch = ParameterDistance(every_n_steps=None, at_start=False, at_epoch_end=True)
    validation = ParameterDistance(every_n_steps=None, at_start=False, at_validation=True, prefix="v/")
    run = trainer(max_epochs=2, val_check_interval=3, callbacks=[epoch, validation], num_sanity_val_steps=2)
    run.fit(Classifier(), images(), images(8))
    assert [row["step"] for row in epoch.history] == [6, 12]
    assert [row["step"] for row in validation.history] == [3, 6, 9, 12]
    assert all("v/param_distance/total" in row for row in validation.history)


def test_log_spaced_steps():
    schedule = MeasurementSchedule(None, 3, True, False, False, None)
    assert [s for s in range(1, 1001) if schedule.due(s)] == [1, 3, 5, 10, 22, 47, 100, 216, 465, 1000]


def test_overhead_spaces_measurements(caplog):
    """A clock of our own: each measurement takes 1 s, each step 0.1 s; at most 20 % may go to measuring."""
    from lightning_tl.callbacks import measurement_schedule as module

    now = [0.0]

    class Strategy:
        def broadcast(self, value):
            return value

    class Run:
        strategy = Strategy()

    original = module.time.perf_counter
    module.time.perf_counter = lambda: now[0]
    try:
        schedule = MeasurementSchedule(1, None, True, False, False, 0.2)
        for step in range(1, 2001):
            now[0] += 0.1
            if schedule.due(step) and schedule.affordable(Run()):
                now[0] += 1.0
                schedule.took(1.0)
    finally:
        module.time.perf_counter = original
    assert 0.15 < schedule.spent / now[0] <= 0.2
    with caplog.at_level("INFO"):
        trainer(max_steps=1, callbacks=[ParameterDistance(overhead=0.05)]).fit(Classifier(), images())
    assert "will not measure at the same steps" in caplog.text


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_under_inference_mode(stage, tmp_path):
    module = Classifier()
    module.test_step = lambda batch, batch_idx: None
    reference = {n: p.detach() + 1 for n, p in module.named_parameters()}
    measuring = [
        ParameterDistance(reference),
        HessianTrace(products=4),
        HessianTrace(products=4, method="opaque", prefix="o/", probe_batches=2),
        PerturbationSensitivity([0.1], draws=2),
    ]
    run = trainer(callbacks=measuring, logger=CSVLogger(tmp_path, name="x"), inference_mode=True)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    getattr(run, stage)(module, images(16), verbose=False)
    assert all(torch.equal(t, module.state_dict()[n]) for n, t in before.items())
    count = sum(p.numel() for p in module.parameters())
    assert measuring[0].history[0]["param_distance/total"] == pytest.approx(count**0.5)
    assert [len(c.history) for c in measuring] == [1, 1, 1, 1]
    assert measuring[1].history[0]["hessian/trace"] > 0
    assert any(r.get("hessian/trace") for r in rows(tmp_path / "x"))


def test_probe_of_the_users_own():
    loader = images(24, 6, seed=9)
    trace = HessianTrace(None, probe=loader, probe_batches=2)
    before = torch.get_rng_state()
    batch = next(iter(images(5, 5)))
    torch.set_rng_state(before)
    single = PerturbationSensitivity([0.1], draws=2, every_n_steps=None, probe=batch)
    trainer(max_steps=1, callbacks=[trace, single]).fit(Classifier(), images())
    assert [len(b[0]) for b in trace.probe.batches] == [6, 6]
    assert len(single.probe.batches[0][0]) == 5
    assert trace.state_dict()["probe"] is None
    late = HessianTrace(None, probe_batches=3)
    trainer(max_steps=4, callbacks=[late]).fit(Classifier(), images())
    assert [row["step"] for row in late.history] == [2]


def test_reference_by_path_and_what_it_lacks(tmp_path):
    old = Classifier()
    del old.head
    torch.save({"state_dict": old.state_dict()}, tmp_path / "old.ckpt")
    module = Classifier()
    distance = ParameterDistance(str(tmp_path / "old.ckpt"), every_n_steps=None)
    with pytest.warns(UserWarning, match=r"leaves out what its reference lacks: head.weight, head.bias"):
        trainer(max_steps=1, callbacks=[distance]).fit(module, images())
    assert "param_distance/head" not in distance.history[0]
    assert distance.history[0]["param_distance/total"] > 0


def test_losses_that_are_not_finite_are_logged_and_told():
    trace = HessianTrace(None, loss_fn=lambda m, b: m(b[0]).mean() * float("nan"))
    with pytest.warns(UserWarning, match="no finite value at step 0 for hessian/trace"):
        trainer(max_steps=1, callbacks=[trace]).fit(Classifier(), images())
    assert math.isnan(trace.history[0]["hessian/trace"])
