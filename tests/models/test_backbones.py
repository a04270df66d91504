from __future__ import annotations

import pytest
import torch
import torchvision

from lightning_tl.errors import UserError
from lightning_tl.models import BACKBONES, build_backbone


def randomised(net, seed=0):
    """Also the buffers, or BatchNorm in eval mode would hide a wrong copy."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if value.dtype.is_floating_point:
            noise = torch.rand(value.shape, generator=generator) * 0.2
            value.copy_(1 + noise if "var" in name else value + noise - 0.1)
    return net.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_outputs_are_torchvisions(name):
    theirs = randomised(getattr(torchvision.models, name)(weights=None))
    ours = build_backbone(name).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 0.01

    back = getattr(torchvision.models, name)(weights=None).eval()
    ours = randomised(ours, seed=2)
    result = back.load_state_dict(ours.state_dict(), strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"]
    assert result.unexpected_keys == []
    back.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(back(images), ours(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_names_and_shapes_are_torchvisions(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
        ours = build_backbone(name)
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected
    assert ours.num_features == (512 if name == "resnet34" else 2048)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_the_small_one(in_chans):
    net = build_backbone("resnet10_w16", in_chans)
    images = torch.rand(2, in_chans, 32, 32)
    assert net(images).shape == (2, 128)
    assert net.num_features == 128
    assert net.forward_features(images).shape == (2, 128, 2, 2)
    assert net.conv1.weight.shape == (16, in_chans, 3, 3)
    sizes = [sum(p.numel() for p in build_backbone(f"resnet10_w{w}", 3).parameters()) / 1e6 for w in (8, 16, 32)]
    assert [round(size, 2) for size in sizes] == [0.08, 0.31, 1.23]
    assert {key.split(".")[0] for key in net.state_dict()} == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}


def test_the_smooth_one_differs_only_in_its_activations():
    smooth, plain = build_backbone("resnet10_w16_silu"), build_backbone("resnet10_w16")
    assert not [module for module in smooth.modules() if isinstance(module, torch.nn.ReLU)]
    assert sum(isinstance(module, torch.nn.SiLU) for module in smooth.modules()) == sum(
        isinstance(module, torch.nn.ReLU) for module in plain.modules()
    )
    assert {k: v.shape for k, v in smooth.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


def test_one_channel():
    assert build_backbone("resnet18", in_chans=1).conv1.weight.shape == (64, 1, 7, 7)


def test_random_weights_follow_the_seed():
    def first(seed):
        torch.manual_seed(seed)
        return build_backbone("resnet10_w16").layer3[0].conv1.weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_unknown_name():
    with pytest.raises(UserError, match=r"no backbone 'resnet51'; did you mean 'resnet"):
        build_backbone("resnet51")
    with pytest.raises(UserError, match=r"no backbone 'qqq'; valid: resnet101, resnet10_w16") as error:
        build_backbone("qqq")
    assert all(name in str(error.value) for name in BACKBONES)
