"""Which parameters each method trains, and that all others, with BatchNorm's statistics, stay as they are."""

from __future__ import annotations

import re

import pytest
import torch
from tasks.toy import Toy, trainer
from torch import nn
from transferred import only_these_moved

from lightning_tl.data import Digits
from lightning_tl.data.batch_transform import BatchTransform
from lightning_tl.errors import UserError
from lightning_tl.tasks import Classification, SemanticSegmentation
from lightning_tl.transfer import LPFT, BitFit, BNOnly, FreezeStages, Full, Layerwise, LinearProbe, Unfreeze

TASKS = {"sinclass": (Classification, 3), "semseg": (SemanticSegmentation, 4)}

# what the documentation says, as patterns of the names of the trained parameters
TRAINED = {
    "full": (lambda: Full(), r".*"),
    "probe": (lambda: LinearProbe(), r"head\..*"),
    "stem": (lambda: FreezeStages(0), r"head\..*|backbone\.layer[1-4]\..*"),
    "stages": (lambda: FreezeStages(2), r"head\..*|backbone\.layer[34]\..*"),
    "bitfit": (lambda: BitFit(), r"head\..*|backbone\..*bias"),
    "batchnorm": (lambda: BNOnly(), r"head\..*|backbone\.(.*\.)?(bn\d|downsample\.1)\.(weight|bias)"),
    "lpft": (lambda: LPFT(probe_steps=1), r".*"),
    "unfreeze": (lambda: Unfreeze([1, 2]), r"head\..*|backbone\.layer[34]\..*"),
}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01)


def fitted(folder, task, method, steps=4, **more):
    kind, classes = TASKS[task]
    torch.manual_seed(0)
    module = kind(classes, backbone="resnet10_w8", transfer=method, optimizer=sgd, **more)
    for name, parameter in module.backbone.named_parameters():
        if name.endswith("bn2.weight"):  # zeros at first, which keep the block's other layers from learning
            nn.init.ones_(parameter)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer(folder, max_steps=steps).fit(module, Toy(task, batch_size=8))
    return module, before


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", TRAINED)
def test_only_the_documented_parameters_move(tmp_path, task, name):
    method, pattern = TRAINED[name]
    module, before = fitted(tmp_path, task, method())
    only_these_moved(module, before, pattern)


def test_a_frozen_backbone_is_in_eval_mode_whenever_the_task_trains():
    module = Classification(3, backbone="resnet10_w8", transfer=LinearProbe())
    images = torch.randn(4, 3, 32, 32)
    module.eval()
    expected = module.backbone(images)
    for _ in range(2):
        assert module.train() is module
        assert torch.equal(module.backbone(images), expected)
        assert module.training
        assert module.head.training
    counter = module.backbone.bn1.num_batches_tracked
    assert int(counter) == 0
    module.eval()
    assert not module.head.training


def test_no_gradient_is_computed_below_what_is_trained():
    module = Classification(3, backbone="resnet10_w8", transfer=FreezeStages(3)).train()
    seen = {}
    for name in ("layer3", "layer4"):
        getattr(module.backbone, name).register_forward_hook(
            lambda layer, inputs, output, name=name: seen.update({name: output.requires_grad})
        )
    module.backbone(torch.randn(2, 3, 32, 32))
    assert seen == {"layer3": False, "layer4": True}


def test_rates_fall_with_depth(tmp_path):
    module, _ = fitted(tmp_path, "semseg", Layerwise(0.5), steps=1)
    found = {}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for group in module.optimizers().param_groups:
        found |= {names[id(parameter)]: group["lr"] for parameter in group["params"]}
    for name, rate in found.items():
        stage = re.match(r"backbone\.layer(\d)", name)
        below = 0 if name.startswith("head") else 5 - int(stage[1]) if stage else 5
        own = 10 if "aux_classifier" in name else 1
        assert rate == pytest.approx(0.05 * own * 0.5**below), name


def test_the_stages_of_any_network_are_its_children(tmp_path):
    class Plain(Classification):
        def configure_models(self):
            self.backbone = nn.Sequential(
                nn.Conv2d(3, 4, 3),
                nn.ReLU(),
                nn.Conv2d(4, 4, 3),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 8),
            )
            self.head = nn.Linear(8, self.num_classes)

    module = Plain(3, transfer=FreezeStages(1), optimizer=sgd)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == {"head.weight", "head.bias", "backbone.5.weight", "backbone.5.bias"}
    with pytest.raises(UserError, match="FreezeStages: stages is 3, but the backbone has 2 in addition to its stem"):
        Plain(3, transfer=FreezeStages(3))
    with pytest.raises(UserError, match="BNOnly: the backbone has no BatchNorm; BitFit trains the biases"):
        Plain(3, transfer=BNOnly())


def test_a_probe_scores_as_logistic_regression_on_the_same_features(tmp_path):
    from sklearn.linear_model import LogisticRegression

    def adam(parameters):  # decay of 1 / (C·N) is scikit-learn's regularisation with C = 1, for N = 100 images
        return torch.optim.Adam(parameters, lr=0.02, weight_decay=0.01)

    torch.manual_seed(0)
    transform = BatchTransform(size=16, grayscale=True, crop_scale=(1.0, 1.0))
    trained = Classification(10, "resnet10_w8", 1, optimizer=adam)
    trainer(tmp_path, max_steps=30).fit(trained, Digits(shots=30, draw=1, batch_size=100, transform=transform))
    torch.save(trained.state_dict(), tmp_path / "start.ckpt")
    module = Classification(10, "resnet10_w8", 1, tmp_path / "start.ckpt", transfer=LinearProbe(), optimizer=adam)
    run, data = trainer(tmp_path, max_steps=200), Digits(shots=10, batch_size=100, transform=transform)
    run.fit(module, data)
    ours = 1 - run.test(module, data, verbose=False)[0]["test/error"]
    module.eval()
    with torch.no_grad():
        (train, labels), *unseen = (
            data.splits[name][list(range(len(data.splits[name])))] for name in ("train", "test")
        )
        features, tested = module.backbone(train), module.backbone(unseen[0][0])
    theirs = LogisticRegression(C=1.0, max_iter=5000).fit(features, labels).score(tested, unseen[0][1])
    assert theirs > 0.5  # chance is 0.1
    assert ours == pytest.approx(theirs, abs=2 * (theirs * (1 - theirs) / 3500) ** 0.5)
