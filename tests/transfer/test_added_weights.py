"""Methods that change the network or its start, in trainings: what moves, resumed, accumulated, measured, saved."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
from lightning.pytorch import seed_everything
from models.networks import randomised
from tasks.toy import Toy, trainer
from torch import nn
from training import equal, state
from transferred import every_step, only_these_moved

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.models.filters import chosen_filters
from lightning_tl.models.low_rank import merge_updates
from lightning_tl.tasks import Classification, ObjectDetection, SemanticSegmentation
from lightning_tl.transfer import SAM, Adapter, Average, Layerwise, LoRA, Partial

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's remarks on short runs

TASKS = {"sinclass": (Classification, 3), "semseg": (SemanticSegmentation, 4)}
METHODS = {
    "lora": lambda: LoRA(2, alpha=8),
    "lora with dropout": lambda: LoRA(2, targets=r"layer[34]", dropout=0.2),
    "adapter": lambda: Adapter(4),
    "stages frozen": lambda: Partial(stages=2, inherited="frozen"),
    "layers frozen": lambda: Partial(layers=r"conv1\.weight$|layer4", inherited="frozen"),
    "share slowed": lambda: Partial(share=0.5, inherited="slowed", factor=0.2),
}
# what the documentation says, as patterns of the names of the trained parameters
LAYER = r"backbone\.(.*\.)?(conv\d|downsample\.0)"
TRAINED = {
    "lora": rf"head\..*|{LAYER}\.lora_[AB]",
    "lora with dropout": r"head\..*|backbone\.layer[34]\..*(conv\d|downsample\.0)\.lora_[AB]",
    "adapter": r"head\..*|backbone\.layer\d\.0\.adapter\.(up|down)\.(weight|bias)",
    "stages frozen": r"head\..*|backbone\.layer[34]\..*",
    "layers frozen": r"head\..*|backbone\.(bn1\.|layer[123]\.0\.(bn|conv2|downsample)).*",
    "share slowed": r".*",
}

SLOW = {(method, "semseg") for method in METHODS if method != "lora"}
EACH = pytest.mark.parametrize(
    "method,task",
    [pytest.param(*each, marks=[pytest.mark.slow] * (each in SLOW)) for each in product(METHODS, TASKS)],
)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01)


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """Checkpoints of a pre-trained network by task; its BatchNorm layers have seen something."""
    folder = tmp_path_factory.mktemp("starts")
    for task, (kind, classes) in TASKS.items():
        seed_everything(5, verbose=False)
        module = kind(classes, backbone="resnet10_w8")
        for name, parameter in module.backbone.named_parameters():
            if name.endswith("bn2.weight"):  # zeros at first, which keep the block's other layers from learning
                nn.init.ones_(parameter)
        randomised(module.backbone)
        torch.save({"state_dict": module.state_dict()}, folder / f"{task}.ckpt")
    return folder


def made(starts, task, method, **more):
    kind, classes = TASKS[task]
    seed_everything(0, verbose=False)
    given = {"backbone": "resnet10_w8", "init_from": starts / f"{task}.ckpt", "optimizer": sgd} | more
    return kind(classes, transfer=METHODS[method](), **given)


def fitted(folder, module, task, steps=4, batch_size=8, resume=None, **settings):
    seed_everything(0, verbose=False)
    trainer(folder, max_steps=steps, limit_val_batches=0, **settings).fit(
        module, Toy(task, batch_size=batch_size), ckpt_path=resume
    )
    return module


@EACH
def test_only_the_documented_parameters_move(starts, tmp_path, task, method):
    module = made(starts, task, method)
    before = state(module)
    fitted(tmp_path, module, task)
    only_these_moved(module, before, TRAINED[method])
    for key, layer in module.backbone.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            names = [f"backbone.{key}.{each}" for each in ("weight", "bias")]
            assert layer.training == any(re.fullmatch(TRAINED[method], name) for name in names), key


@EACH
def test_resumed_equals_uninterrupted(starts, tmp_path, task, method):
    steps = every_step(tmp_path / "steps")
    whole = fitted(tmp_path, made(starts, task, method), task, callbacks=[steps], enable_checkpointing=True)
    kind, classes = TASKS[task]
    seed_everything(8, verbose=False)
    again = kind(classes, backbone="resnet10_w8", optimizer=sgd, transfer=METHODS[method]())
    fitted(tmp_path, again, task, resume=tmp_path / "steps/step=2.ckpt")
    assert equal(state(again), state(whole))
    frozen = [[p.requires_grad for p in each.parameters()] for each in (whole, again)]
    assert frozen[0] == frozen[1]
    again = kind.load_from_checkpoint(tmp_path / "steps/step=4.ckpt")
    assert equal(state(again), state(whole))


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_accumulated_batches_are_one(starts, tmp_path, method):
    whole = fitted(tmp_path, made(starts, "sinclass", method), "sinclass", batch_size=16)
    parts = fitted(tmp_path, made(starts, "sinclass", method), "sinclass", batch_size=4, accumulate_grad_batches=4)
    for name, value in state(whole).items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "method,task",
    [
        ("lora", "sinclass"),
        ("adapter", "sinclass"),
        ("share slowed", "sinclass"),
        pytest.param("lora", "semseg", marks=pytest.mark.slow),
        pytest.param("adapter", "semseg", marks=pytest.mark.slow),
    ],
)
def test_measuring_changes_nothing(starts, tmp_path, task, method):
    plain = fitted(tmp_path, made(starts, task, method), task, steps=3)
    often = {"every_n_steps": 1}
    noise = {"noise": "relative"}
    callbacks = [
        ParameterDistance(**often),
        HessianTrace(products=2, **often),
        PerturbationSensitivity([0.1], draws=2, **noise, **often),
    ]
    measured = fitted(tmp_path, made(starts, task, method), task, steps=3, callbacks=callbacks)
    assert all(len(callback.measured_steps) >= 3 for callback in callbacks)
    assert equal(state(plain), state(measured))


@pytest.mark.parametrize("task", TASKS)
def test_the_distance_is_that_of_the_merged_weights(starts, tmp_path, task):
    module = made(starts, task, "lora")
    before = merge_updates(module.state_dict())[0]
    callback = ParameterDistance(every_n_steps=1)
    fitted(tmp_path, module, task, steps=3, callbacks=[callback])
    after, layers = merge_updates(module.state_dict())
    squares = {
        name: (after[f"{name}.weight"].double() - before[f"{name}.weight"].double()).square().sum() for name in layers
    }
    logged = module.trainer.callback_metrics
    for name, square in squares.items():
        assert float(logged[f"param_distance/merged/{name}"]) == pytest.approx(float(square.sqrt()), rel=1e-4)
    assert float(logged["param_distance/merged"]) == pytest.approx(float(sum(squares.values()).sqrt()), rel=1e-4)


COMBINED = {
    "lora and rates": lambda: [LoRA(2), Layerwise(0.5)],
    "rates and adapter": lambda: [Layerwise(0.5), Adapter(2)],
    "share and rates": lambda: [Partial(share=0.5, inherited="frozen"), Layerwise(0.5)],
    "lora and sam": lambda: [LoRA(2), SAM()],
    "sam and share": lambda: [SAM(), Partial(share=0.5, inherited="frozen")],
    "share and sam": lambda: [Partial(share=0.5, inherited="frozen"), SAM()],
    "adapter and average": lambda: [Adapter(2), Average(ema=0.9)],
    "share and average": lambda: [Partial(share=0.5, inherited="frozen"), Average(ema=0.9)],
}


@pytest.mark.parametrize("name", COMBINED)
def test_combined_with_other_methods(starts, tmp_path, name):
    """What is frozen stays exactly, and rates fall with depth."""
    seed_everything(0, verbose=False)
    module = Classification(
        3, "resnet10_w8", init_from=starts / "sinclass.ckpt", optimizer=sgd, transfer=COMBINED[name]()
    )
    before = state(module)
    fitted(tmp_path, module, "sinclass")
    moved = {key for key, p in module.named_parameters() if not torch.equal(p, before[key])}
    if "share" in name:
        masks = chosen_filters(module.backbone, 0.5, 0)
        for key, parameter in module.backbone.named_parameters():
            assert torch.equal(parameter[masks[key]], before[f"backbone.{key}"][masks[key]])
        assert moved == {key for key, _ in module.named_parameters()}
    else:
        assert moved == {key for key, p in module.named_parameters() if p.requires_grad}
        assert len(moved) < len(list(module.parameters()))
    if "rates" in name:
        names = {id(p): key for key, p in module.named_parameters()}
        rates = {names[id(p)]: group["lr"] for group in module.optimizers().param_groups for p in group["params"]}
        for key, rate in rates.items():
            stage = re.match(r"backbone\.layer(\d)", key)
            below = 0 if key.startswith("head") else 5 - int(stage[1]) if stage else 5
            assert rate == pytest.approx(0.05 * 0.5**below), key


@pytest.mark.parametrize("method", ["lora", "adapter", "share slowed"])
def test_a_detector_trains(starts, tmp_path, method):
    seed_everything(0, verbose=False)
    module = ObjectDetection(
        3, backbone="resnet10_w8", init_from=starts / "sinclass.ckpt", optimizer=sgd, transfer=METHODS[method]()
    )
    before = state(module)
    fitted(tmp_path, module, "objdet", steps=1, batch_size=2)
    moved = {key for key, p in module.named_parameters() if not torch.equal(p, before[key])}
    assert {key for key in moved if key.startswith("head")}
    names = {key for key, _ in module.named_parameters() if key.startswith("backbone.")}
    assert moved & names == {key for key in names if re.fullmatch(TRAINED[method], key)}
