"""Low-rank updates against peft's, layer by layer; what peft does not do; merged weights."""

from __future__ import annotations

import copy
import pickle

import peft
import pytest
import torch
from lightning.pytorch import seed_everything
from models.networks import randomised
from peft.tuners.lora import layer as peft_layers
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.models import build_backbone, load_backbone
from lightning_tl.models.low_rank import merge_updates
from lightning_tl.tasks import Classification, SemanticSegmentation
from lightning_tl.transfer import LoRA
from lightning_tl.transfer.lora import add_update

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (4, 6)),
    "linear of tokens": (lambda: nn.Linear(6, 5, bias=False), (4, 3, 6)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (2, 4, 9, 9)),
    "point": (lambda: nn.Conv2d(4, 6, 1, stride=2), (2, 4, 9, 9)),
    "oblong": (lambda: nn.Conv2d(4, 6, (3, 5), padding=(1, 0)), (2, 4, 9, 9)),
    "one-dimensional": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "three-dimensional": (lambda: nn.Conv3d(2, 3, 3), (2, 2, 5, 5, 5)),
}
# of which peft has no counterpart that can be merged: the merged weight is the reference
OTHERS = {
    "dilated": (lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2), (2, 4, 9, 9)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9, 9)),
    "same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 9, 9)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 9, 9)),
}


def updated(make, rank=2, alpha=6.0, dropout=0.0):
    """Return a layer with an update that is not 0."""
    layer = make()
    add_update(layer, rank, alpha, dropout)
    with torch.no_grad():
        layer.lora_B.normal_()
    return layer


def gradients(layer, inputs, names):
    inputs = inputs.clone().requires_grad_()
    outputs = layer(inputs)
    outputs.square().sum().backward()
    found = dict(layer.named_parameters())
    return [outputs, inputs.grad, *(found[name].grad for name in names)]


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_peft(name):
    make, shape = LAYERS[name]
    layer = updated(make).double()
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"])
    theirs = peft.get_peft_model(nn.Sequential(make()), config).double()
    (adapted,) = [each for each in theirs.modules() if isinstance(each, peft_layers.LoraLayer)]
    with torch.no_grad():
        adapted.base_layer.weight.copy_(layer.weight)
        adapted.lora_A["default"].weight.copy_(layer.lora_A)
        adapted.lora_B["default"].weight.copy_(layer.lora_B)
        if layer.bias is not None:
            adapted.base_layer.bias.copy_(layer.bias)
    layer.weight.requires_grad_(False)
    images = torch.randn(shape, dtype=torch.float64)
    ours = gradients(layer, images, ["lora_A", "lora_B"])
    expected = gradients(adapted, images, ["lora_A.default.weight", "lora_B.default.weight"])
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    assert layer.weight.grad is None


@pytest.mark.parametrize("name", [*LAYERS, *OTHERS])
def test_outputs_and_gradients_are_those_of_the_merged_weight(name):
    make, shape = (LAYERS | OTHERS)[name]
    layer, plain = updated(make).double(), make().double()
    plain.load_state_dict(merge_updates(layer.state_dict())[0])
    matrix = layer.weight.flatten(1) + 3 * layer.lora_B.flatten(1) @ layer.lora_A.flatten(1)  # 6 / 2 = 3
    torch.testing.assert_close(plain.weight.flatten(1), matrix, rtol=1e-14, atol=1e-14)
    images = torch.randn(shape, dtype=torch.float64)
    ours = gradients(layer, images, ["lora_A", "lora_B"])
    outputs, of_inputs, of_weight = gradients(plain, images, ["weight"])
    a, b = layer.lora_A.flatten(1), layer.lora_B.flatten(1)
    expected = [outputs, of_inputs, 3 * b.T @ of_weight.flatten(1), 3 * of_weight.flatten(1) @ a.T]
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine.reshape(other.shape), other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["linear", "convolution", "grouped"])
def test_dropout_is_of_the_updates_inputs_and_off_in_evaluation(name):
    make, shape = (LAYERS | OTHERS)[name]
    layer = updated(make, dropout=0.5).double()
    images = torch.randn(shape, dtype=torch.float64)
    plain = make().double()
    state = layer.state_dict()
    plain.load_state_dict(merge_updates(state)[0])
    torch.testing.assert_close(layer.eval()(images), plain(images))
    plain.load_state_dict({key: value for key, value in state.items() if "lora" not in key})
    without = plain(images)
    update = updated(make, dropout=0.0).double()
    update.load_state_dict({k: torch.zeros_like(v) if k in ("weight", "bias") else v for k, v in state.items()})
    layer.train()
    torch.manual_seed(3)
    outputs = layer(images)
    torch.manual_seed(3)
    dropped = nn.functional.dropout(images, 0.5)
    torch.testing.assert_close(outputs, without + update(dropped))


@pytest.mark.parametrize("task", [Classification, SemanticSegmentation])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_before_the_first_step_it_is_the_pretrained_network_exactly(tmp_path, task, mode):
    """Also in training: BatchNorm normalises as it was pre-trained to, and not by the batch."""
    seed_everything(0)
    start = task(4, backbone="resnet10_w8")
    randomised(start.backbone)
    torch.save({"state_dict": start.state_dict()}, tmp_path / "start.ckpt")
    module = task(4, backbone="resnet10_w8", init_from=tmp_path / "start.ckpt", transfer=LoRA(4, dropout=0.5))
    assert module.key_report.fraction == 1
    images = torch.randn(2, 3, 32, 32)
    expected = start.backbone.eval()(images)
    before = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    module.train(mode == "train")
    assert torch.equal(module.backbone(images), expected)
    assert all(torch.equal(value, before[name]) for name, value in module.backbone.state_dict().items())
    layers = [layer for layer in module.backbone.modules() if hasattr(layer, "lora_A")]
    assert len(layers) == 1 + 4 * 2 + 3
    assert all(layer.training == (mode == "train") for layer in layers)


def test_a_network_survives_what_is_done_to_networks():
    """Copied, pickled, saved with BatchNorm's statistics, in channels-last, in half precision, compiled."""
    seed_everything(0)
    net = build_backbone("resnet10_w8")
    randomised(net)
    for layer in [each for each in net.modules() if isinstance(each, nn.Conv2d)]:
        add_update(layer, 3, 3.0)
        nn.init.normal_(layer.lora_B, std=0.05)
    images = torch.randn(4, 3, 32, 32)
    expected = net.eval()(images)
    same = {"rtol": 1e-5, "atol": 1e-5}
    assert torch.equal(copy.deepcopy(net)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(net))(images), expected)
    fresh = build_backbone("resnet10_w8")
    for layer in [each for each in fresh.modules() if isinstance(each, nn.Conv2d)]:
        add_update(layer, 3, 1.0)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh.eval()(images), expected)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert last.layer1[0].conv1.lora_A.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last(images.contiguous(memory_format=torch.channels_last)), expected, **same)
    torch.testing.assert_close(torch.compile(net, backend="eager")(images), expected, **same)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(images)
    assert half.dtype == torch.bfloat16
    assert float(((half - expected).norm() / expected.norm()).detach()) < 0.05


def test_a_grouped_update_is_added_in_full_precision():
    layer = updated(OTHERS["grouped"][0])
    with torch.no_grad():
        layer.weight.fill_(1.0), layer.bias.zero_()
        layer.lora_A.fill_(2**-6), layer.lora_B.fill_(2**-5)  # 3 · 2 · 2⁻¹¹: lost where 1 + it is rounded to bfloat16
    seen = []
    layer._conv_forward = lambda inputs, weight, bias: seen.append(weight) or inputs
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(2, 4, 5, 5))
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], torch.full_like(seen[0], 1 + 6 * 2**-11))


def checkpoint(path, transfer, seed=0):
    """Write the checkpoint of a network that has been trained in some way; return the task."""
    seed_everything(seed)
    module = Classification(3, "resnet10_w8", transfer=transfer)
    randomised(module.backbone)
    for name, parameter in module.named_parameters():
        if name.endswith("lora_B"):
            nn.init.normal_(parameter, std=0.05)
    torch.save({"state_dict": module.state_dict(), "lightning_tl": {"backbone": "resnet10_w8"}}, path)
    return module.eval()


@pytest.mark.parametrize("onto", [None, LoRA(2)], ids=["plain", "updated"])
def test_a_checkpoint_with_updates_starts_others_from_the_merged_weights(tmp_path, onto):
    source = checkpoint(tmp_path / "a.ckpt", LoRA(4, alpha=2))
    module = Classification(3, "resnet10_w8", init_from=tmp_path / "a.ckpt", transfer=onto).eval()
    images = torch.randn(4, 3, 32, 32)
    plain = {name: value for name, value in source.backbone.state_dict().items() if "lora" not in name}
    torch.testing.assert_close(module.backbone(images), source.backbone(images), rtol=1e-5, atol=1e-5)
    unmerged = build_backbone("resnet10_w8").eval()
    unmerged.load_state_dict(plain)
    assert not torch.allclose(unmerged(images), source.backbone(images), rtol=1e-2)
    assert module.key_report.fraction == 1
    assert len(module.key_report.merged) == 12
    assert "low-rank updates (LoRA) added to the weights of 12 layers" in str(module.key_report)


def test_a_checkpoint_rebuilds_the_task(tmp_path):
    method = LoRA(4, alpha=2, targets=r"layer[34]\..*conv", dropout=0.1)
    assert method.label() == r"lora(rank=4, alpha=2, targets=layer[34]\..*conv, dropout=0.1)"
    module = checkpoint(tmp_path / "a.ckpt", method)
    content = torch.load(tmp_path / "a.ckpt", weights_only=True) | {
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(content, tmp_path / "a.ckpt")
    again = Classification.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    (found,) = again.transfer.methods
    assert found.arguments() == method.arguments()
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(again(images), module(images))
    assert [name for name, p in again.named_parameters() if p.requires_grad] == [
        name for name, p in module.named_parameters() if p.requires_grad
    ]


def test_targets_choose_layers_and_types_of_others_are_left_alone():
    class Other(nn.Conv2d):
        pass

    class Plain(Classification):
        def configure_models(self):
            self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), Other(8, 8, 3), nn.Flatten(), nn.Linear(800, 8))
            self.head = nn.Linear(8, self.num_classes)

    names = {name for name, _ in Plain(3, transfer=LoRA(2)).named_parameters() if "lora" in name}
    assert names == {f"backbone.{place}.lora_{factor}" for place in (0, 3) for factor in "AB"}
    names = {name for name, _ in Plain(3, transfer=LoRA(2, targets=r"\.3$")).named_parameters() if "lora" in name}
    assert names == {"backbone.3.lora_A", "backbone.3.lora_B"}

    class Bare(Classification):
        def configure_models(self):
            self.backbone, self.head = nn.Flatten(), nn.Linear(300, 3)

    with pytest.raises(UserError, match=r"^LoRA: the backbone has no linear layer or convolution of PyTorch's own"):
        Bare(3, transfer=LoRA(2))


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda state: state.pop("conv1.lora_A"), r"of conv1 is incomplete: lora_A is missing"),
        (
            lambda state: [state.pop(f"conv1.{k}") for k in ("weight", "lora_B")],
            r"incomplete: weight and lora_B are mi",
        ),
        (
            lambda state: state.update({"conv1.lora_B": torch.zeros(8, 3, 1, 1)}),
            r"of conv1 does not fit its weight \(weight \[8, 3, 3, 3\], lora_A \[4, 3, 3, 3\], lora_B \[8, 3, 1, 1\], ",
        ),
        (lambda state: state.update({"conv1.lora_B": torch.zeros(32)}), r"does not fit its weight"),
        (
            lambda state: state.update({"conv1.lora_A": torch.zeros(4, 3, 3, 3).to_sparse()}),
            r"of conv1 is damaged: lora_A is no plain tensor of numbers",
        ),
        (lambda state: state["conv1.lora_A"].fill_(torch.inf), r"conv1.weight has \d+ of 216 values that are not fin"),
    ],
)
def test_damaged_updates(tmp_path, change, message):
    state = dict(checkpoint(tmp_path / "a.ckpt", LoRA(4)).backbone.state_dict())
    change(state)
    net = build_backbone("resnet10_w8")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_backbone(state, net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: LoRA(0), "LoRA: rank is 0; it must be a whole number of at least 1"),
        (lambda: LoRA(2.5), "LoRA: rank is 2.5; it must be a whole number"),
        (lambda: LoRA(2, alpha=0), "LoRA: alpha is 0; it must be above 0"),
        (lambda: LoRA(2, alpha=float("nan")), "LoRA: alpha is nan; it must be above 0"),
        (lambda: LoRA(2, dropout=1.0), "LoRA: dropout is 1; it must be at least 0 and below 1"),
        (lambda: LoRA(2, targets="("), r"LoRA: targets is '\(', which is not a regular expression"),
        (
            lambda: LoRA(2, targets="layer9"),
            r"targets is 'layer9', which no layer matches; layers are backbone.conv1, b",
        ),
        (lambda: LoRA(64), "LoRA: rank is 64, but the largest of the layers has rank 64; choose less"),
        (lambda: [LoRA(2), LoRA(4)], "LoRA and LoRA cannot be combined: both change the parameters"),
        (lambda: ["LinearProbe", LoRA(2)], "LinearProbe and LoRA cannot be combined: both change the parameters"),
        (
            lambda: [{"class_path": "L2SP", "init_args": {"strength": 1.0}}, LoRA(2)],
            "L2SP and LoRA cannot be combined: the backbone's own weights do not move, so there is nothing to pull",
        ),
        (
            lambda: [LoRA(2), {"class_path": "EWC", "init_args": {"strength": 1.0}}],
            "LoRA and EWC cannot be combined: the b",
        ),
        (
            lambda: [LoRA(2), "WiSEFT"],
            "LoRA and WiSEFT cannot be combined: the backbone's own weights do not move, and bet",
        ),
        (
            lambda: [LoRA(2), {"class_path": "Replay", "init_args": {"share": 0.2}}],
            "LoRA and Replay cannot be combined",
        ),
        (lambda: {"class_path": "LoRA"}, "model.transfer LoRA: .* missing 1 required positional argument: 'rank'"),
    ],
)
def test_misuse(make, message):
    with pytest.raises(UserError, match=message):
        Classification(3, "resnet10_w8", transfer=make())
