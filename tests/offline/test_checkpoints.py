"""Saved checkpoints give what the callbacks of their run recorded."""

import csv
from argparse import Namespace

import pytest
import torch
from torch.optim.swa_utils import update_bn

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace, noise_scales
from lightning_tl.offline.checkpoints import measure_checkpoints
from lightning_tl.offline.default_loss import loss_of
from lightning_tl.offline.measure_options import MeasureOptions
from tests.callbacks.modules import Classifier, images, trainer
from tests.measured_values import only, series

QUANTITIES = {"param_distance", "hessian", "sensitivity", "perturbed_loss"}


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


def value(records, *what, **where):
    return only(records, *what, **where).value


def test_checkpoints_give_what_the_callbacks_recorded(run, tmp_path):
    """The same quantities and groups with the same values; the errors of groups and perturbed losses in addition."""
    folder, live, batch = run
    module = Plain()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    paths = [folder / name for name in ("start.ckpt", "step=4.ckpt", "step=8.ckpt")]
    options = MeasureOptions(gammas=[0.1], draws=3)
    records = measure_checkpoints(module, paths, [batch], options, out=tmp_path)
    assert all(torch.equal(t, module.state_dict()[n]) for n, t in before.items())
    for expected in (record for callback in live for record in callback.history):
        if expected.group == "products":  # the work, which is no property of the weights
            continue
        record = only(records, expected.step, expected.quantity, expected.group, expected.gamma)
        rel = 1e-3 if expected.quantity == "sensitivity" else 1e-5
        assert record.value == pytest.approx(expected.value, rel=rel, abs=1e-6), record
        assert expected.stderr is None or record.stderr == pytest.approx(expected.stderr, rel=1e-3), record
    compressed = {"quantised_loss", "quantisation_rise", "pruned_loss", "pruning_rise"}
    assert {record.quantity for record in records} == QUANTITIES | compressed | {"loss_along", "quadratic_along"}
    for step in (0, 4, 8):
        parts = [value(records, step, "hessian", f"weighted_trace/{group}") for group in ("backbone", "head")]
        assert sum(parts) == pytest.approx(value(records, step, "hessian", "weighted_trace"), rel=1e-5)
    # along reference → checkpoint λ = 0 is the reference; λ = 1 has the checkpoint's weights and its statistics
    at_end = value(records, 8, "perturbed_loss", gamma=0)
    assert value(records, 8, "loss_along", gamma=0.0) == pytest.approx(
        value(records, 0, "perturbed_loss", gamma=0), rel=1e-5
    )
    assert value(records, 8, "loss_along", gamma=1.0) != pytest.approx(at_end, rel=1e-3)
    assert not [record for record in records if record.step == 0 and "along" in record.quantity]
    with (tmp_path / "measurements.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(int(row["step"]), row["quantity"], row["group"]) for row in table] == [
        (record.step, record.quantity, record.group) for record in records
    ]
    assert list(table[0]) == ["run_id", "step", "quantity", "group", "gamma", "value", "stderr"]
    assert {row["run_id"] for row in table} == {folder.name}
    assert (tmp_path / "measurements.png").stat().st_size > 10_000


def test_the_weighted_trace_comes_with_the_sensitivity_of_the_same_noise(run):
    folder, _, batch = run
    paths = [folder / "step=4.ckpt", folder / "step=8.ckpt"]
    traces = measure_checkpoints(Plain(), paths, [batch], MeasureOptions(quantities=["trace"]))
    assert {(record.quantity, record.group) for record in traces} == {
        ("hessian", group) for group in ("products", "trace", "trace/backbone", "trace/head")
    }
    options = MeasureOptions(quantities=["trace", "sensitivity"], noise="relative", gammas=[1e-4], draws=2)
    both = measure_checkpoints(Plain(), paths, [batch], options)
    for path, step in zip(paths, (4, 8), strict=True):  # relative noise is that of each checkpoint's own weights
        module = Plain()
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        objective = Objective(module, lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]), [batch])
        expected = hessian_trace(objective, scales=noise_scales(module, objective.params, "relative"))
        weighted = value(both, step, "hessian", "weighted_trace")
        assert weighted == pytest.approx(expected.weighted.value, rel=1e-5)
        assert value(both, step, "hessian", "trace") == value(traces, step, "hessian", "trace")


def test_statistics_along_the_line(run):
    """Interpolated ones arrive at the checkpoint; re-estimated ones are those of the batch at both ends."""
    folder, _, batch = run
    paths = [folder / "start.ckpt", folder / "step=8.ckpt"]
    common = {"quantities": ["direction", "sensitivity"], "gammas": [0.1], "draws": 2}
    moving = measure_checkpoints(Plain(), paths, [batch], MeasureOptions(bn="interpolated", **common))
    for at, step in ((0.0, 0), (1.0, 8)):
        expected = value(moving, step, "perturbed_loss", gamma=0)
        assert value(moving, 8, "loss_along", gamma=at) == pytest.approx(expected, rel=1e-5)
    again = measure_checkpoints(Plain(), paths, [batch], MeasureOptions(bn="re-estimated", **common))
    for at, path in ((0.0, paths[0]), (1.0, paths[1])):
        module = Plain()
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        update_bn([batch[0]], module)
        with torch.no_grad():
            expected = torch.nn.functional.cross_entropy(module.eval()(batch[0]), batch[1])
        assert value(again, 8, "loss_along", gamma=at) == pytest.approx(expected.item(), rel=1e-5)


def test_a_backbone_under_the_head_of_the_reference(run, tmp_path):
    """As that of a network fine-tuned for another task: only what ``include`` names comes from the checkpoint."""
    folder, _, batch = run
    state = torch.load(folder / "step=8.ckpt", weights_only=True)["state_dict"]
    other = {n: t for n, t in state.items() if n.startswith("backbone.")} | {"head.weight": torch.zeros(7, 16)}
    torch.save({"state_dict": other, "global_step": 8}, tmp_path / "fine.ckpt")
    start = folder / "start.ckpt"
    common = {"quantities": ["distance", "direction", "sensitivity"], "gammas": [0.1], "draws": 2}
    with pytest.raises(UserError, match=r"does not fit Plain.*include='\^backbone', rest='reference'"):
        measure_checkpoints(Plain(), [tmp_path / "fine.ckpt"], [batch], MeasureOptions(**common), reference=start)
    options = MeasureOptions(include="^backbone", rest="reference", **common)
    records = measure_checkpoints(Plain(), [tmp_path / "fine.ckpt"], [batch], options, reference=start)
    module = Plain()
    module.load_state_dict(torch.load(start, weights_only=True)["state_dict"])
    module.backbone.load_state_dict({n.removeprefix("backbone."): t for n, t in state.items() if "backbone." in n})
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(module.eval()(batch[0]), batch[1])
    assert value(records, 8, "perturbed_loss", gamma=0) == pytest.approx(expected.item(), rel=1e-5)
    distances = {record.group for record in records if record.quantity == "param_distance"}
    assert distances == {"total", "relative", "cosine", "backbone"}


def test_the_distance_needs_no_batches(run):
    folder, _, _ = run
    options = MeasureOptions(quantities=["distance"])
    start, last = (torch.load(folder / name, weights_only=True)["state_dict"] for name in ("start.ckpt", "step=8.ckpt"))
    records = measure_checkpoints(Plain(), [folder / "step=8.ckpt"], options=options, reference=folder / "start.ckpt")
    squares = [float((last[n] - start[n]).square().sum()) for n, _ in Plain().named_parameters()]
    assert value(records, 8, "param_distance", "total") == pytest.approx(sum(squares) ** 0.5, rel=1e-5)


def test_each_file_is_read_once(run, monkeypatch):
    folder, _, batch = run
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: read.append(path.name) or load(path, **options))
    names = ["start.ckpt", "step=4.ckpt", "step=8.ckpt"]
    options = MeasureOptions(quantities=["distance", "sensitivity"], gammas=[0.1], draws=2)
    measure_checkpoints(Plain(), [folder / name for name in names], [batch], options, reference=folder / "step=4.ckpt")
    assert sorted(read) == names


def test_files_without_a_step_are_numbered(tmp_path):
    torch.manual_seed(0)
    for name in ("a.pt", "b.pt"):
        torch.save(Plain().state_dict(), tmp_path / name)
    records = measure_checkpoints(
        Plain(), [tmp_path / "b.pt", tmp_path / "a.pt"], options=MeasureOptions(quantities=["distance"])
    )
    assert [step for step, _ in series(records, "param_distance", "total")] == [0, 1]


def test_a_single_path_and_a_loader(run):
    """The first batches of a DataLoader, the same ones each time, whatever the global generators' state."""
    folder, _, _ = run
    options = MeasureOptions(quantities=["sensitivity"], gammas=[0.1], draws=2)
    loader = images()
    before = torch.get_rng_state()
    records = measure_checkpoints(Plain(), str(folder / "step=4.ckpt"), loader, options, loader_batches=2)
    module = Plain()
    module.load_state_dict(torch.load(folder / "step=4.ckpt", weights_only=True)["state_dict"])
    torch.manual_seed(0)
    iterator = iter(loader)
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(module.eval()(x), y) for x, y in (next(iterator), next(iterator))]
    assert value(records, 4, "perturbed_loss", gamma=0) == pytest.approx(sum(losses).item() / 2, rel=1e-5)
    torch.set_rng_state(before)
    measure_checkpoints(Plain(), folder / "step=4.ckpt", loader, MeasureOptions(quantities=["distance"]))


def test_a_network_without_a_training_step(tmp_path):
    """A criterion; a loss that the network returns itself, as Hugging Face's do; or an error."""
    net = torch.nn.Linear(4, 3)
    torch.save({"model": net.state_dict()}, tmp_path / "a.pt")
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    options = MeasureOptions(quantities=["sensitivity"], gammas=[0.1], draws=2)
    expected = torch.nn.functional.cross_entropy(net(x), y).item()
    records = measure_checkpoints(net, tmp_path / "a.pt", [(x, y)], options, loss_fn=loss_of(torch.nn.CrossEntropyLoss))
    assert value(records, 0, "perturbed_loss", gamma=0) == pytest.approx(expected, rel=1e-6)

    class Own(torch.nn.Linear):
        def forward(self, inputs, labels):
            return Namespace(loss=torch.nn.functional.cross_entropy(super().forward(inputs), labels))

    records = measure_checkpoints(Own(4, 3), tmp_path / "a.pt", [{"inputs": x, "labels": y}], options)
    assert value(records, 0, "perturbed_loss", gamma=0) == pytest.approx(expected, rel=1e-6)
    for batches, loss, message in [
        ([(x, y)], None, "Linear has no training_step, so its loss must be named"),
        ([(x, y, y)], loss_of(torch.nn.functional.cross_entropy), r"needs batches of \(inputs, targets\), not 3 parts"),
        (3, None, "batches is a int; pass a DataLoader"),
        (iter(()), None, "gives no batch"),
    ]:
        with pytest.raises(UserError, match=message):
            measure_checkpoints(net, tmp_path / "a.pt", batches, options, loss_fn=loss)


def test_what_cannot_be_measured(run, tmp_path):
    folder, _, batch = run
    path = folder / "start.ckpt"
    for paths, batches, options, message in [
        ([], [batch], {}, "no checkpoint to measure"),
        ([path], [], {}, "direction, prune, quantise, sensitivity, trace: needs batches to measure the loss on"),
        ([path], [batch], {"gammas": [0]}, "gammas must be above 0"),
        ([tmp_path / "no.ckpt"], [batch], {}, "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            measure_checkpoints(Plain(), paths, batches, MeasureOptions(**options))
    other = Plain()
    other.head = torch.nn.Linear(16, 4)
    message = r"does not fit Plain: it lacks, or has in another shape, head.weight, head.bias"
    with pytest.raises(UserError, match=message):
        measure_checkpoints(other, [path], [batch])
