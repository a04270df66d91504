"""Bottleneck adapters: where they stand, what they compute, and which networks take them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from models.networks import randomised
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.models import build_backbone
from lightning_tl.tasks import Classification, SemanticSegmentation
from lightning_tl.transfer import Adapter

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "name,channels",
    [
        ("resnet10_w8", [8, 16, 32, 64]),
        ("resnet18", [64] * 2 + [128] * 2 + [256] * 2 + [512] * 2),
        ("resnet50", [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3),
    ],
)
def test_one_after_each_residual_block(name, channels):
    module = Classification(3, name, transfer=Adapter(5))
    added = {key: p for key, p in module.named_parameters() if p.requires_grad and key.startswith("backbone.")}
    own = build_backbone(name).state_dict()
    blocks = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in own if key.startswith("layer")))
    expected = {}
    for block, count in zip(blocks, channels, strict=True):
        place = f"backbone.{block}.adapter"
        expected |= {f"{place}.down.weight": (5, count, 1, 1), f"{place}.down.bias": (5,)}
        expected |= {f"{place}.up.weight": (count, 5, 1, 1), f"{place}.up.bias": (count,)}
    assert {key: tuple(p.shape) for key, p in added.items()} == expected
    assert [key for key in module.backbone.state_dict() if "adapter" not in key] == list(own)


@pytest.mark.parametrize("task", [Classification, SemanticSegmentation])
def test_before_the_first_step_it_is_the_pretrained_network_exactly(tmp_path, task):
    start = task(4, backbone="resnet10_w8")
    randomised(start.backbone)
    torch.save({"state_dict": start.state_dict()}, tmp_path / "start.ckpt")
    module = task(4, backbone="resnet10_w8", init_from=tmp_path / "start.ckpt", transfer=Adapter(4))
    assert module.key_report.fraction == 1
    expected = start.backbone.eval()(IMAGES)
    for mode in (True, False):
        module.train(mode)
        assert torch.equal(module.backbone(IMAGES), expected)
    module.train()
    assert all(block[0].adapter.training for block in (module.backbone.layer1, module.backbone.layer4))


def moved(transfer=None, **more):
    module = Classification(3, "resnet10_w8", transfer=transfer or Adapter(4), **more).eval()
    randomised(module.backbone)
    for name, parameter in module.named_parameters():
        if ".up." in name:
            nn.init.normal_(parameter, std=0.2)
    return module


def test_the_output_of_a_block_is_what_the_documentation_says():
    module = moved()
    block = module.backbone.layer2[0]
    plain = copy.deepcopy(block)
    plain._forward_hooks.clear()
    images = torch.rand(2, 8, 6, 6)
    x = plain(images)
    down, up = block.adapter.down, block.adapter.up
    hidden = torch.relu(torch.einsum("bchw,kc->bkhw", x, down.weight[:, :, 0, 0]) + down.bias[:, None, None])
    expected = x + F.conv2d(hidden, up.weight, up.bias)
    torch.testing.assert_close(block(images), expected)
    assert not torch.allclose(expected, x, rtol=0.1)


def test_copied_and_pickled():
    module = moved()
    expected = module(IMAGES)
    assert torch.equal(copy.deepcopy(module.backbone)(IMAGES), module.backbone(IMAGES))
    assert torch.equal(pickle.loads(pickle.dumps(module.backbone))(IMAGES), module.backbone(IMAGES))
    fresh = module.freshly_initialised()
    assert [name for name, _ in fresh.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert torch.equal(module(IMAGES), expected)


def test_only_a_network_with_the_same_adapters_goes_on_from_a_checkpoint(tmp_path):
    module, path = moved(), tmp_path / "a.ckpt"
    torch.save({"state_dict": module.state_dict(), "lightning_tl": {"backbone": "resnet10_w8"}}, path)
    again = Classification(3, "resnet10_w8", init_from=path, transfer=Adapter(4)).eval()
    assert torch.equal(again.backbone(IMAGES), module.backbone(IMAGES))
    message = (
        r"a.ckpt: its backbone has bottleneck adapters \(layer1.0.adapter.down.weight \[4, 8, 1, 1\], …\), which "
        r"cannot be merged into the weights; use the checkpoint that it was fine-tuned from, or the same adapters here"
    )
    for other in (None, Adapter(2), {"class_path": "LoRA", "init_args": {"rank": 2}}):
        with pytest.raises(UserError, match=message):
            Classification(3, "resnet10_w8", init_from=path, transfer=other)


class Plain(Classification):
    def configure_models(self):
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, self.num_classes)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: Adapter(0), "Adapter: width is 0; it must be a whole number of at least 1"),
        (lambda: Adapter(1.5), "Adapter: width is 1.5; it must be a whole number of at least 1"),
        (
            lambda: [Adapter(2), "WiSEFT"],
            "Adapter and WiSEFT cannot be combined: the backbone's own weights do not move, so",
        ),
        (lambda: [Adapter(2), "LinearProbe"], "Adapter and LinearProbe cannot be combined: both change the parameters"),
        (
            lambda: [Adapter(2), {"class_path": "LoRA", "init_args": {"rank": 2}}],
            "Adapter and LoRA cannot be combined: both change the parameters",
        ),
        (
            lambda: [Adapter(2), {"class_path": "L2SP", "init_args": {"strength": 1.0}}],
            "Adapter and L2SP cannot be combined: the backbone's own weights do not move, so there is nothing to pull",
        ),
    ],
)
def test_misuse(make, message):
    with pytest.raises(UserError, match=message):
        Classification(3, "resnet10_w8", transfer=make())


def test_a_backbone_without_residual_blocks():
    with pytest.raises(
        UserError, match=r"^Adapter: the backbone \(Sequential\) has no residual blocks of timm's ResNe"
    ):
        Plain(3, transfer=Adapter(2))
