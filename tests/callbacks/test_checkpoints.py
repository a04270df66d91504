"""Saved checkpoints, measured after the fact: by function and by the command."""

import csv

import pytest
import torch
from torch.optim.swa_utils import update_bn

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.offline.checkpoints import measure_checkpoints
from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace, noise_scales
from tests.callbacks.modules import Classifier, images, trainer


class Plain(Classifier):
    """No noise of its own, so that two ways of measuring see one loss."""

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose callbacks measured as it went, with a checkpoint of every fourth step."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    module = Plain()
    batch = next(iter(images(16, 16, seed=4)))
    live = [
        ParameterDistance(every_n_steps=4),
        HessianTrace(every_n_steps=4, probe=batch, noise="init"),
        PerturbationSensitivity([0.1], draws=3, every_n_steps=4, probe=batch),
    ]
    torch.save({"state_dict": module.state_dict(), "global_step": 0}, folder / "start.ckpt")
    saver = ModelCheckpoint(folder, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    trainer(max_steps=8, callbacks=[*live, saver], enable_checkpointing=True).fit(module, images())
    return folder, live, batch


def value(rows, step, quantity, gamma="", group=""):
    (row,) = [r for r in rows if (r["step"], r["quantity"], r["gamma"], r["group"]) == (step, quantity, gamma, group)]
    return row["value"]


def test_checkpoints_give_what_the_callbacks_logged(run, tmp_path):
    folder, live, batch = run
    module = Plain()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    paths = [folder / name for name in ("start.ckpt", "step=4.ckpt", "step=8.ckpt")]
    rows = measure_checkpoints(module, paths, [batch], out=tmp_path, gammas=[0.1], draws=3)
    assert all(torch.equal(t, module.state_dict()[n]) for n, t in before.items())
    for index, step in enumerate((0, 4, 8)):
        distance, trace, noisy = (c.history[index] for c in live)
        assert value(rows, step, "param_distance/total") == pytest.approx(distance["param_distance/total"], rel=1e-5)
        assert value(rows, step, "param_distance", group="head") == pytest.approx(
            distance["param_distance/head"], rel=1e-5
        )
        assert value(rows, step, "hessian/trace") == pytest.approx(trace["hessian/trace"], rel=1e-5)
        assert value(rows, step, "hessian/weighted_trace") == pytest.approx(trace["hessian/weighted_trace"], rel=1e-5)
        parts = [value(rows, step, "hessian/weighted_trace", group=group) for group in ("backbone", "head")]
        assert sum(parts) == pytest.approx(trace["hessian/weighted_trace"], rel=1e-5)
        assert value(rows, step, "sensitivity", 0.1) == pytest.approx(noisy["sensitivity/gamma_0.1"], rel=1e-3)
        assert value(rows, step, "perturbed_loss", 0) == pytest.approx(noisy["perturbed_loss/gamma_0"], rel=1e-5)
    # along reference → checkpoint λ = 0 is the reference; λ = 1 has the checkpoint's weights and its statistics
    assert value(rows, 8, "loss_along", 0.0) == pytest.approx(value(rows, 0, "perturbed_loss", 0), rel=1e-5)
    assert value(rows, 8, "loss_along", 1.0) != pytest.approx(value(rows, 8, "perturbed_loss", 0), rel=1e-3)
    assert not [r for r in rows if r["step"] == 0 and "along" in r["quantity"]]
    with (tmp_path / "measurements.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    assert list(table[0]) == ["run_id", "step", "quantity", "group", "gamma", "value", "stderr"]
    assert {r["run_id"] for r in table} == {folder.name}
    assert (tmp_path / "measurements.png").stat().st_size > 10_000


def test_the_weighted_trace_comes_with_the_sensitivity_of_the_same_noise(run):
    folder, _, batch = run
    paths = [folder / "step=4.ckpt", folder / "step=8.ckpt"]
    alone = measure_checkpoints(Plain(), paths, [batch], quantities=["trace"])
    assert {r["quantity"] for r in alone} == {"hessian/trace"}
    both = measure_checkpoints(
        Plain(), paths, [batch], quantities=["trace", "sensitivity"], noise="relative", gammas=[1e-4], draws=2
    )
    for path, step in zip(paths, (4, 8), strict=True):  # relative noise is that of each checkpoint's own weights
        module = Plain()
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        objective = Objective(module, lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]), [batch])
        expected = hessian_trace(objective, scales=noise_scales(module, objective.params, "relative"))
        assert value(both, step, "hessian/weighted_trace") == pytest.approx(expected.weighted.value, rel=1e-5)
        assert value(both, step, "hessian/trace") == value(alone, step, "hessian/trace")


def test_statistics_along_the_line(run):
    """Interpolated ones arrive at the checkpoint; re-estimated ones are those of the batch at both ends."""
    folder, _, batch = run
    paths = [folder / "start.ckpt", folder / "step=8.ckpt"]
    only = {"quantities": ["direction", "sensitivity"], "gammas": [0.1], "draws": 2}
    moving = measure_checkpoints(Plain(), paths, [batch], bn="interpolated", **only)
    for at, step in ((0.0, 0), (1.0, 8)):
        assert value(moving, 8, "loss_along", at) == pytest.approx(value(moving, step, "perturbed_loss", 0), rel=1e-5)
    again = measure_checkpoints(Plain(), paths, [batch], bn="re-estimated", **only)
    for at, path in ((0.0, paths[0]), (1.0, paths[1])):
        module = Plain()
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        update_bn([batch[0]], module)
        with torch.no_grad():
            expected = torch.nn.functional.cross_entropy(module.eval()(batch[0]), batch[1])
        assert value(again, 8, "loss_along", at) == pytest.approx(expected.item(), rel=1e-5)


def test_a_backbone_under_the_head_of_the_reference(run, tmp_path):
    """As that of a network fine-tuned for another task: only what ``include`` names comes from the checkpoint."""
    folder, _, batch = run
    state = torch.load(folder / "step=8.ckpt", weights_only=True)["state_dict"]
    other = {n: t for n, t in state.items() if n.startswith("backbone.")} | {"head.weight": torch.zeros(7, 16)}
    torch.save({"state_dict": other, "global_step": 8}, tmp_path / "fine.ckpt")
    start = folder / "start.ckpt"
    options = {"quantities": ["distance", "direction", "sensitivity"], "gammas": [0.1], "draws": 2}
    with pytest.raises(UserError, match=r"does not fit Plain.*include='\^backbone', rest='reference'"):
        measure_checkpoints(Plain(), [tmp_path / "fine.ckpt"], [batch], reference=start, **options)
    rows = measure_checkpoints(
        Plain(), [tmp_path / "fine.ckpt"], [batch], reference=start, include="^backbone", rest="reference", **options
    )
    module = Plain()
    module.load_state_dict(torch.load(start, weights_only=True)["state_dict"])
    module.backbone.load_state_dict({n.removeprefix("backbone."): t for n, t in state.items() if "backbone." in n})
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(module.eval()(batch[0]), batch[1])
    assert value(rows, 8, "perturbed_loss", 0) == pytest.approx(expected.item(), rel=1e-5)
    assert {r["group"] for r in rows if r["quantity"] == "param_distance"} == {"backbone"}


def test_distance_alone_needs_no_batches(run):
    folder, _, _ = run
    rows = measure_checkpoints(
        Plain(), [folder / "step=8.ckpt"], quantities=["distance"], reference=folder / "start.ckpt"
    )
    assert value(rows, 8, "param_distance/total") > 0


def test_what_cannot_be_measured(run, tmp_path):
    folder, _, batch = run
    path = folder / "start.ckpt"
    for arguments, options, message in [
        (([path],), {"quantities": ["traces"]}, "quantity 'traces' is unknown; did you mean 'trace'"),
        (([],), {}, "no checkpoint to measure"),
        (([path],), {}, "needs batches to measure the loss on"),
        (([path], [batch]), {"gammas": [0]}, "gammas must be positive"),
        (([path], [batch]), {"bn": "interpolate"}, "bn='interpolate' is unknown; did you mean 'interpolated'"),
        (([path], [batch]), {"rest": "refer"}, "rest='refer' is unknown; did you mean 'reference'"),
        (([path], [batch]), {"rest": "reference"}, "rest='reference' needs include="),
        (([tmp_path / "no.ckpt"], [batch]), {}, "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            measure_checkpoints(Plain(), *arguments, **options)
    other = Plain()
    other.head = torch.nn.Linear(16, 4)
    with pytest.raises(
        UserError, match=r"does not fit Plain: it lacks, or has in another shape, head.weight, head.bias"
    ):
        measure_checkpoints(other, [path], [batch])


def test_the_command(tmp_path, capsys):
    from lightning_tl.cli.measure import main
    from lightning_tl.run import run as fit

    options = {
        "--config": "finetune/digits",
        "--data.batch_size": "8",
        "--data.shots": "2",
        "--data.steps_per_epoch": "2",
        "--model.init_args.scheduler.init_args.warmup_steps": "1",
        "--trainer.limit_val_batches": "1",
        "--trainer.default_root_dir": str(tmp_path),
        "--trainer.max_steps": "2",
    }
    fit(["fit", *(part for pair in options.items() for part in pair)])
    saved = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match="needs --config"):
        main([])
    with pytest.raises(UserError, match="--ckp"):
        main(["--ckp", str(saved)])
    out = tmp_path / "out"
    measured = ["--ckpt", str(saved), "--out", str(out), "--quantities", "distance", "trace", "sensitivity"]
    noise = ["--draws", "2", "--gammas", "0.01", "0.02"]
    code = main(["--config", str(tmp_path / "config.yaml"), *measured, *noise, "--data.batch_size", "6"])
    assert code == 0
    printed = capsys.readouterr().out
    assert "step       2  hessian/trace: " in printed
    assert "sensitivity gamma=0.02: " in printed
    with (out / "measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    (trace,) = [r for r in rows if r["quantity"] == "hessian/trace" and r["group"] == ""]
    assert float(trace["stderr"]) == 0  # a ResNet of ten classes: exact
    assert {r["run_id"] for r in rows} == {tmp_path.name}
