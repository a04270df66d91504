"""Interpolated networks: at the ends, between them, and what the run leaves."""

from __future__ import annotations

import csv
from itertools import islice

import pytest
import torch
from torch.optim.swa_utils import update_bn
from transferred import data, different, every_step, fit, resumed_differs, state, task

from lightning_tl.data.batched_module import Loader
from lightning_tl.data.sample_order import EvalBatches
from lightning_tl.errors import UserError
from lightning_tl.transfer import FreezeStages, WiSEFT, evaluation

pytestmark = pytest.mark.filterwarnings("ignore")


IMAGES = 32


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(evaluation, "IMAGES", IMAGES)


@pytest.mark.parametrize("target", ["mulclass", "semseg"])
def test_every_error_is_that_of_a_network_put_together_by_hand(start, renders, tmp_path, target):
    plain = task(start, target=target)
    fit(plain, data(renders, target), tmp_path / "plain")
    tuned = state(plain)
    method = WiSEFT([1, 0, 0.3])
    module = task(start, method, target)
    images = data(renders, target)
    fit(module, images, tmp_path / "run")
    assert not different(state(module), tuned)  # the fine-tuned network is left, bit for bit

    before = torch.load(start, weights_only=True)["state_dict"]
    by_hand = task(None, target=target)
    batches = [list(batch) for batch in islice(images.training_batches(), IMAGES // images.batch_size)]
    for row in method.rows:
        weights = dict(tuned)
        for name, _ in by_hand.backbone.named_parameters():
            key = f"backbone.{name}"
            weights[key] = (1 - row["alpha"]) * before[key] + row["alpha"] * tuned[key]
        by_hand.load_state_dict(weights)
        for module in by_hand.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if target == "semseg":  # the auxiliary head has statistics too
            by_hand.forward = lambda x: by_hand.outputs_and_aux(x)[0]
        update_bn([x for x, _ in batches], by_hand)
        by_hand.eval()
        metric = by_hand.build_metric()
        with torch.no_grad():
            for x, y in images.val_dataloader():
                metric.update(by_hand(x), y)
        assert row["val_error"] == pytest.approx(1 - float(metric.compute()), abs=1e-6)
    with (tmp_path / "run/interpolations.csv").open() as file:
        assert [float(row["alpha"]) for row in csv.DictReader(file)] == [1, 0, 0.3]


def test_validation_images_are_read_once_for_all_networks(start, renders, tmp_path, monkeypatch):
    read = []
    original = Loader.__iter__
    monkeypatch.setattr(Loader, "__iter__", lambda self: read.append(type(self.sampler)) or original(self))
    fit(task(start), data(renders), tmp_path / "plain")
    plain = read.count(EvalBatches)
    read.clear()
    fit(task(start, WiSEFT()), data(renders), tmp_path / "run")
    assert read.count(EvalBatches) == plain + 1


def test_statistics_are_estimated_without_a_draw_on_the_gpu(start, renders, tmp_path, monkeypatch):
    """Generators of GPUs would have to be put back."""
    module = task(start)
    made = fit(module, data(renders), tmp_path)
    before = torch.get_rng_state()
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("seeded"))
    evaluation.reestimate_statistics(made, module.train())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_ends_are_exact(start, renders, tmp_path):
    method = WiSEFT()
    module = task(start, method)
    fit(module, data(renders), tmp_path)
    tuned, before = state(module), torch.load(start, weights_only=True)["state_dict"]
    for alpha, expected in ((0.0, before), (1.0, tuned)):
        with method.network(module, alpha):
            found = state(module)
        for name, _ in module.backbone.named_parameters():
            assert torch.equal(found[f"backbone.{name}"], expected[f"backbone.{name}"])
        assert torch.equal(found["head.weight"], tuned["head.weight"])
    assert not different(state(module), tuned)


def test_the_network_that_is_taken_is_validated_and_saved(start, renders, tmp_path):
    method = WiSEFT([0, 1], take=0.5)
    module = task(start, method)
    made = fit(module, data(renders), tmp_path, callbacks=[every_step(tmp_path / "kept")], enable_checkpointing=True)
    saved = torch.load(tmp_path / "kept/step=4.ckpt", weights_only=True)["state_dict"]
    assert not different(state(module), saved)
    taken = state(module)
    with method.network(module, 0.5):
        assert not different(state(module), taken)
    error = float(made.callback_metrics["val/error"])
    assert made.validate(module, data(renders), verbose=False)[0]["val/error"] == pytest.approx(error)
    assert len(method.rows) == 2


def test_a_frozen_stage_keeps_its_statistics(start, renders, tmp_path):
    module = task(start, [FreezeStages(1), WiSEFT([0.5], take=0.5)])
    fit(module, data(renders), tmp_path)
    before, after = torch.load(start, weights_only=True)["state_dict"], state(module)
    changed = {
        name.split(".")[1] for name in before if "running" in name and not torch.equal(before[name], after[name])
    }
    assert changed == {"layer2", "layer3", "layer4"}


def test_resumed_equals_uninterrupted(start, renders, tmp_path):
    rows = []

    def make():
        method = WiSEFT([0, 0.5], take=0.5)
        rows.append(method)
        # a resumed training reads no other file
        return task(start if len(rows) == 1 else None, method)

    assert not resumed_differs(make, renders, tmp_path)
    assert rows[0].rows == rows[1].rows


def test_a_longer_training_goes_on_from_the_last_step(start, renders, tmp_path):
    plain = task(start)
    fit(plain, data(renders), tmp_path / "plain", max_steps=6)
    settings = {"callbacks": [every_step(tmp_path / "kept")], "enable_checkpointing": True}
    fit(task(start, WiSEFT([0], take=0)), data(renders), tmp_path / "short", **settings)
    module = task(start, WiSEFT([0], take=1))
    fit(module, data(renders), tmp_path / "long", tmp_path / "kept/step=4.ckpt", max_steps=6)
    parameters = [name for name, _ in plain.named_parameters()]
    assert not different({n: state(plain)[n] for n in parameters}, {n: state(module)[n] for n in parameters})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"alphas": []}, "WiSEFT: alphas is empty"),
        ({"alphas": [0, 1.5]}, "WiSEFT: alphas has 1.5; each must be from 0 to 1"),
        ({"alphas": [0.5, 0.5]}, "WiSEFT: alphas has a value twice"),
        ({"take": -1}, "WiSEFT: take has -1; each must be from 0 to 1"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        WiSEFT(**arguments)


def test_what_it_needs(start, renders, tmp_path):
    with pytest.raises(UserError, match="WiSEFT interpolates with the pre-trained weights: give a pre-trained"):
        fit(task(None, WiSEFT()), data(renders), tmp_path)
    with pytest.raises(UserError, match="on validation images, and there are none: check the data"):
        fit(task(start, WiSEFT()), data(renders), tmp_path, limit_val_batches=0)
    with pytest.raises(UserError, match="WiSEFT and LinearProbe cannot be combined: the backbone does not move"):
        task(start, ["WiSEFT", "LinearProbe"])
