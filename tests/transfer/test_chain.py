"""Methods by name, from checkpoints and in combination; and what is refused."""

from __future__ import annotations

import copy
import csv

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tasks.toy import Toy, trainer

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.errors import UserError
from lightning_tl.tasks import Classification
from lightning_tl.transfer import (
    L2SP,
    LPFT,
    BitFit,
    FreezeStages,
    Full,
    Layerwise,
    LinearProbe,
    TransferChain,
    TransferMethod,
    Unfreeze,
)

SMALL = {"backbone": "resnet10_w8"}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


@pytest.mark.parametrize(
    ("given", "label"),
    [
        (None, "full"),
        ("LinearProbe", "linear_probe"),
        (L2SP(0.01), "l2sp(strength=0.01)"),
        (L2SP(0.12345678), "l2sp(strength=0.12345678)"),
        (L2SP(1e-5, decoupled=True), "l2sp(strength=1e-05, decoupled=True)"),
        (LPFT(), "lpft(share=0.2)"),
        (Unfreeze([0.1, 0.5]), "unfreeze(schedule=[0.1 0.5])"),
        ({"class_path": "lightning_tl.transfer.FreezeStages", "init_args": {"stages": 2}}, "freeze_stages(stages=2)"),
        ([LPFT(0.5), L2SP(0.1), Layerwise(0.7)], "lpft(share=0.5) + l2sp(strength=0.1) + layerwise(decay=0.7)"),
    ],
)
def test_labels_and_specifications(given, label):
    chain = TransferChain(given)
    assert chain.label() == label
    assert TransferChain(chain.specification() or None).label() == label


def test_a_checkpoint_rebuilds_the_task(tmp_path):
    module = Classification(3, transfer=[FreezeStages(1), Layerwise(0.5)], optimizer=sgd, **SMALL)
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, Toy("sinclass"))
    run.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["lightning_tl"]["transfer"] == module.transfer.label()
    again = Classification.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert again.transfer.label() == "freeze_stages(stages=1) + layerwise(decay=0.5)"
    assert not again.backbone.conv1.weight.requires_grad
    assert again.backbone.layer2[0].conv1.weight.requires_grad


def test_a_method_of_ones_own(tmp_path):
    class OnlyBiases(TransferMethod):
        name = "only_biases"

        def __init__(self, head: bool = True) -> None:
            self.head = head

        def trains(self, task):
            return lambda name: name.endswith("bias") and (self.head or not name.startswith("head"))

    module = Classification(3, transfer=OnlyBiases(head=False), optimizer=sgd, **SMALL)
    trainer(tmp_path, max_steps=1).fit(module, Toy("sinclass"))
    assert {name.rsplit(".")[-1] for name, p in module.named_parameters() if p.requires_grad} == {"bias"}
    assert not module.head.bias.requires_grad
    assert module.transfer.label() == "only_biases(head=False)"


def test_an_argument_that_is_not_kept_is_named():
    class Forgets(TransferMethod):
        def __init__(self, k: int) -> None:
            pass

    with pytest.raises(UserError, match="transfer Forgets: keep the argument k as an attribute of the same name"):
        Classification(3, transfer=Forgets(2), **SMALL)


class TowardsZero(TransferMethod):
    name = "towards_zero"

    def penalty(self, task):
        return 0.5 * 0.3 * task.head.weight.square().sum()


def test_the_penalty_is_in_the_gradient_and_logged(tmp_path):
    """With SGD and no gradient of the loss, each step multiplies the head's weights by 1 - lr * 0.3."""

    class NoLoss(Classification):
        def loss(self, outputs, targets):
            return 0 * outputs.sum()

    module = NoLoss(3, transfer=TowardsZero(), optimizer=sgd, **SMALL)
    before = module.head.weight.detach().double().clone()
    logger = CSVLogger(tmp_path, name="", version="")
    trainer(tmp_path, max_steps=3, logger=logger, log_every_n_steps=1).fit(module, Toy("sinclass"))
    shrunk = (1 - 0.05 * 0.3) ** 3
    torch.testing.assert_close(module.head.weight.detach().double(), shrunk * before, rtol=1e-5, atol=1e-7)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/towards_zero"]]
    expected = [0.15 * float(before.square().sum()) * (1 - 0.05 * 0.3) ** (2 * step) for step in range(3)]
    assert [float(row["train/towards_zero"]) for row in rows] == pytest.approx(expected, rel=1e-5)
    assert [float(row["train/loss"]) for row in rows] == [0, 0, 0]  # that of the data


def test_a_training_of_nothing_is_refused():
    class Nothing(TransferMethod):
        name = "nothing"

        def trains(self, task):
            return lambda name: False

    with pytest.raises(UserError, match="transfer nothing: no parameter is trained"):
        Classification(3, transfer=Nothing(), **SMALL)


def test_how_much_is_trained_is_logged(tmp_path, caplog):
    module = Classification(3, transfer=LinearProbe(), optimizer=sgd, **SMALL)
    logger = CSVLogger(tmp_path, name="", version="")
    run = trainer(tmp_path, max_steps=1, logger=logger, log_every_n_steps=1)
    with caplog.at_level("INFO"):
        run.fit(module, Toy("sinclass"))
    trained, total = 3 * 65, sum(p.numel() for p in module.parameters())
    assert f"transfer linear_probe: {trained} of {total:,} parameters are trained" in caplog.text
    header, first = (tmp_path / "metrics.csv").read_text().splitlines()[:2]
    values = dict(zip(header.split(","), first.split(","), strict=True))
    assert int(values["transfer/trainable_parameters"]) == trained
    assert int(values["transfer/parameters"]) == total


@pytest.mark.parametrize(
    "method",
    [LinearProbe(), FreezeStages(2), BitFit(), LPFT(probe_steps=2), [Unfreeze([1, 2]), Layerwise(0.5)]],
    ids=lambda method: TransferChain(copy.deepcopy(method)).label(),
)
def test_measuring_leaves_the_training_as_it_is(tmp_path, method):
    def fitted(callbacks):
        torch.manual_seed(0)
        module = Classification(3, transfer=copy.deepcopy(method), optimizer=sgd, **SMALL)
        trainer(tmp_path, max_steps=4, callbacks=callbacks).fit(module, Toy("sinclass"))
        return module

    measuring = [
        ParameterDistance(every_n_steps=1),
        HessianTrace(every_n_steps=2, products=2),
        PerturbationSensitivity(gammas=[0.01], every_n_steps=2, draws=2),
    ]
    ours, plain = fitted(measuring).state_dict(), fitted([]).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in plain.items())
    assert all(callback.history for callback in measuring)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TransferChain("LinearProb"), r"model\.transfer: no method 'LinearProb'; did you mean 'LinearProbe'\?"),
        (
            lambda: TransferChain({"class_path": "os.system"}),
            "no method .system.; valid: .*; one of your own must be imported",
        ),
        (lambda: TransferChain({"class_path": "L2SP"}), r"model\.transfer L2SP: .*missing 1 required .*'strength'"),
        (lambda: TransferChain({"init_args": {}}), "no method 'None'"),
        (lambda: TransferChain([3]), "no method '3'"),
        (lambda: TransferChain([LinearProbe(), BitFit()]), "LinearProbe and BitFit cannot be combined: both change"),
        (lambda: TransferChain([L2SP(1.0), L2SP(2.0)]), "L2SP and L2SP cannot be combined: both change the pull"),
        (
            lambda: TransferChain([Full(), L2SP(1.0)]),
            "Full and L2SP: Full means that there is no other method; leave it out",
        ),
        (lambda: FreezeStages(-1), "FreezeStages: stages is -1; it must be at least 0"),
        (lambda: Layerwise(0.0), "Layerwise: decay is 0; it must be above 0 and at most 1"),
        (lambda: LPFT(share=1.0), "LPFT: share is 1; it must be above 0 and below 1"),
        (lambda: LPFT(probe_steps=0), "LPFT: probe_steps is 0; it must be at least 1"),
        (lambda: LPFT(share=0.5, probe_steps=3), "LPFT: give the length of the first phase once"),
        (lambda: Unfreeze([]), "Unfreeze: schedule is empty; LinearProbe trains only the head"),
        (lambda: Unfreeze([0.5, 0.2]), r"Unfreeze: schedule is \[0\.5, 0\.2\]; its entries must be at least 0 and not"),
        (lambda: Unfreeze([-1]), "Unfreeze: schedule is .*; its entries must be at least 0"),
        (lambda: TransferChain([]), "model.transfer: the list is empty; leave it out, or name a method"),
        (
            lambda: trainer(".", callbacks=[LinearProbe()]).fit(Classification(3, **SMALL), Toy("sinclass")),
            "LinearProbe is not a callback: give it to the task, as --model.transfer=LinearProbe",
        ),
    ],
)
def test_misuse(make, message):
    with pytest.raises(UserError, match=message):
        make()
