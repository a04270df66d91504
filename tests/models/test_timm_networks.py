"""Networks of timm against timm's own pooled features, feature maps and weights; what is refused, in one message."""

from __future__ import annotations

import pytest
import timm
import torch
from models.networks import randomised
from safetensors.torch import save_file
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.models import (
    build_backbone,
    feature_maps,
    feature_width,
    load_backbone,
    map_channels,
    map_strides,
    pooled_features,
)
from lightning_tl.models.feature_pyramid import SimpleFeaturePyramid
from lightning_tl.models.pretrained import load_pretrained
from lightning_tl.models.stages import stage_count, stage_of

SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
#: name → (options, number of stages with the stem, width of the pooled features)
FAMILIES = {
    "test_convnext": ({}, 5, 64),
    "test_vit": ({}, 7, 64),
    "test_efficientnet": ({}, 6, 256),
    "mobilenetv3_small_050": ({}, 8, 1024),
    "swin_tiny_patch4_window7_224": (SWIN, 5, 64),
    "regnetx_002": ({}, 5, 368),
}
MAPS = ["test_convnext", "test_efficientnet", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]


def images(side=64, channels=3):
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(1))


def theirs_of(ours: nn.Module, name: str, **more) -> nn.Module:
    net = timm.create_model(name, pretrained=False, **more).eval()
    state = ours.state_dict()
    own = net.state_dict()
    (prefix,) = {key.split(".", 1)[0] + "." for key in own} if next(iter(own)).startswith("model.") else {""}
    net.load_state_dict({f"{prefix}{key}": value for key, value in state.items()})
    return net


@pytest.mark.parametrize("name", FAMILIES)
def test_pooled_features_and_stages_are_timms(name):
    options, stages, width = FAMILIES[name]
    ours = randomised(build_backbone(name, options=options))
    dynamic = {"dynamic_img_size": True} if name.startswith(("test_vit", "swin")) else {}
    theirs = theirs_of(ours, name, num_classes=0, **options, **dynamic)
    with torch.no_grad():
        expected = theirs(images())
        assert torch.equal(pooled_features(ours, images(), name), expected)
    assert expected.shape == (2, width)
    assert feature_width(ours) == width
    assert stage_count(ours) == stages
    found = stage_of(ours)
    assert found.keys() == dict(ours.named_parameters()).keys()
    numbers = list(found.values())
    assert numbers[0] == 0
    assert numbers[-1] == max(numbers)


def test_stages_of_a_vit_are_its_blocks():
    found = stage_of(build_backbone("test_vit"))
    assert {found["cls_token"], found["pos_embed"], found["patch_embed.proj.weight"]} == {0}
    assert [found[f"blocks.{number}.attn.qkv.weight"] for number in range(6)] == [1, 2, 3, 4, 5, 6]
    assert found["norm.weight"] == 6  # it belongs to the last block


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_those_of_timms_features_only(name):
    options = FAMILIES[name][0]
    ours = randomised(build_backbone(name, maps=True, options=options))
    dynamic = {"dynamic_img_size": True} if name.startswith("swin") else {}
    theirs = timm.create_model(name, features_only=True, out_indices=(-4, -3, -2, -1), **options, **dynamic).eval()
    for key, value in theirs.state_dict().items():
        short = key.removeprefix("model.")
        for old, new in (("stages_", "stages."), ("blocks_", "blocks."), ("layers_", "layers."), ("stem_", "stem.")):
            short = short.replace(old, new, 1) if short.startswith(old) else short
        value.copy_(ours.state_dict()[short])
    with torch.no_grad():
        expected = [each.movedim(3, 1) if name.startswith("swin") else each for each in theirs(images())]
        found = feature_maps(ours, images(), name)
    torch.testing.assert_close(found, expected)
    assert [each.shape[1] for each in found] == map_channels(ours)
    assert [64 // each.shape[2] for each in found] == map_strides(ours) == [4, 8, 16, 32]
    found[-1].sum()


def test_dilated_maps_share_the_weights():
    plain, dilated = (build_backbone("test_convnext", output_stride=stride, maps=True) for stride in (32, 8))
    dilated.load_state_dict(plain.state_dict())
    assert [64 // each.shape[2] for each in feature_maps(dilated, images())] == map_strides(dilated) == [4, 8, 8, 8]
    torch.testing.assert_close(feature_maps(dilated, images())[:2], feature_maps(plain, images())[:2])


def test_a_networks_maps_from_hooks():
    """timm's MetaFormers do not return their maps."""
    net = build_backbone("poolformer_s12", maps=True).eval()
    with torch.no_grad():
        found = feature_maps(net, images())
        x = net.stem(images())
        for stage, each in zip(net.stages, found, strict=True):
            x = stage(x)
            assert torch.equal(each, x)


def test_all_parameters_of_maps_are_used():
    """Also by several processes, which wait for every gradient."""
    for name in ("test_vit", "test_convnext", "test_efficientnet"):
        net = build_backbone(name, maps=True)
        sum(each.sum() for each in feature_maps(net, images())).backward()
        assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []


def test_weights_pass_between_a_classifier_and_maps(tmp_path):
    whole, part = randomised(build_backbone("test_convnext")), build_backbone("test_convnext", maps=True)
    checkpoint = {"state_dict": {f"backbone.{key}": value for key, value in whole.state_dict().items()}}
    checkpoint["state_dict"]["head.weight"] = torch.zeros(2, 2)
    report = load_backbone(checkpoint, part)
    assert (report.missing, report.unexpected) == ([], [])
    assert report.head == ["backbone.head.norm.weight", "backbone.head.norm.bias", "head.weight"]
    with torch.no_grad():
        torch.testing.assert_close(whole.forward_features(images()), feature_maps(part, images())[-1])
    back = load_backbone(checkpoint | {"state_dict": part.state_dict()}, build_backbone("test_convnext"))
    assert back.missing == ["head.norm.weight", "head.norm.bias"]
    assert load_backbone(whole.state_dict(), build_backbone("test_convnext")).fraction == 1
    classifier = timm.create_model("test_convnext", num_classes=5)
    report = load_backbone(classifier.state_dict(), build_backbone("test_convnext"))
    assert (report.missing, report.head) == ([], ["head.fc.weight", "head.fc.bias"])


def test_a_vit_takes_images_of_many_sizes():
    net = build_backbone("test_vit").eval()
    with torch.no_grad():
        assert [net(images(side)).shape for side in (16, 64, 160)] == [(2, 64)] * 3
    assert build_backbone("test_vit", in_chans=1)(images(32, 1)).shape == (2, 64)


MISUSE = [
    (lambda: build_backbone("convnext_tinny"), "no backbone 'convnext_tinny'; did you mean 'convnext_tiny'?"),
    (lambda: build_backbone("qqq"), "no backbone 'qqq'; valid: resnet101, "),
    (
        lambda: build_backbone("convnext_tiny.fb_in22k"),
        "model.backbone is 'convnext_tiny.fb_in22k': give the network as model.backbone (convnext_tiny), and the "
        "weights as model.pretrained (fb_in22k)",
    ),
    (
        lambda: build_backbone("test_vit", options={"drop_pathh_rate": 1}),
        "model.backbone test_vit cannot be made with model.backbone_options {'drop_pathh_rate': 1} (TypeError",
    ),
    (
        lambda: build_backbone("test_vit", options={"in_chans": 1}),
        "model.backbone_options has in_chans: leave it out there; set model.in_chans",
    ),
    (
        lambda: build_backbone("resnet18", options={"drop_path_rate": 0.1}),
        "model.backbone_options is for networks of timm; resnet18 has no options: leave out drop_path_rate",
    ),
    (
        lambda: build_backbone("mobilenetv3_small_050", output_stride=8),
        "model.output_stride is 8, but mobilenetv3_small_050 cannot be dilated",
    ),
    (
        lambda: build_backbone("levit_128s", maps=True),
        "model.backbone levit_128s has maps of strides 16, 32, 64; detection and dense tasks need 4, 8, 16, 32",
    ),
    (
        lambda: build_backbone("test_vit", maps=True, options={"patch_size": 14}),
        "model.backbone test_vit has one map of stride 14, from which no maps of strides 4, 8, 16, 32 can be made; "
        "choose a network with patches of 8, 16 or 32 px",
    ),
    (
        lambda: pooled_features(build_backbone("test_vit"), images(50), "test_vit"),
        "model.backbone test_vit cannot take images of [3, 50, 50] (Input height (50) should be divisible by patch "
        "size (16).): give images of other sizes (data.transform)",
    ),
    (
        lambda: pooled_features(build_backbone("mixer_s32_224"), images(), "mixer_s32_224"),
        "model.backbone mixer_s32_224 cannot take images of [3, 64, 64] (Input height (64) doesn't match model "
        "(224).): give images of other sizes (data.transform), or tell the network their size: "
        "model.backbone_options={img_size: SIZE}",
    ),
    (
        lambda: pooled_features(build_backbone("test_convnext", in_chans=1), images(), "test_convnext"),
        "model.backbone test_convnext cannot take images of [3, 64, 64] (Given groups=1, weight of size",
    ),
    (
        lambda: load_pretrained(build_backbone("resnet10_w8"), "resnet10_w8", True),
        "model.pretrained: timm has no weights of resnet10_w8; leave it out, or give model.init_from",
    ),
    (
        lambda: load_pretrained(build_backbone("test_vit"), "test_vit", "r160_in1"),
        "model.pretrained: timm has no weights 'r160_in1' of test_vit; did you mean 'r160_in1k'?",
    ),
]


@pytest.mark.parametrize("make, message", MISUSE)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(message)


def test_the_size_of_images_can_be_given():
    net = build_backbone("mixer_s32_224", options={"img_size": 64})
    assert pooled_features(net, images()).shape == (2, 512)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache of the Hugging Face Hub that holds timm's weights of a small ViT with a classifier; no network."""
    from huggingface_hub import constants

    net = randomised(timm.create_model("test_vit", num_classes=1000))
    folder = tmp_path / "models--timm--test_vit.r160_in1k"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    save_file(net.state_dict(), folder / "snapshots" / commit / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return net


@pytest.mark.parametrize("pretrained", [True, "r160_in1k"])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_pretrained_weights_are_timms(cached, pretrained, in_chans):
    net = build_backbone("test_vit", in_chans).eval()
    report = load_pretrained(net, "test_vit", pretrained, in_chans)
    assert report.fraction == 1
    assert str(report).startswith("backbone from timm's test_vit.r160_in1k: 78 matched, 0 missing")
    cached.reset_classifier(0)
    if in_chans == 1:  # a grey image as a colour one
        inputs = images(160, 1)
        bias = cached.patch_embed.proj.bias
        whole = cached.patch_embed.proj.weight.sum(1, keepdim=True)
        torch.testing.assert_close(net.patch_embed.proj(inputs), torch.conv2d(inputs, whole, bias, 16))
    else:
        with torch.no_grad():
            torch.testing.assert_close(net(images(160)), cached(images(160)))


def test_pretrained_weights_without_a_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"model.pretrained: the weights of test_vit cannot be had .*give the file as"):
        load_pretrained(build_backbone("test_vit"), "test_vit", True)


def layer_norm(x, norm):
    """The norm over channels at each place, by its definition."""
    mean, spread = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (spread + norm.eps).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def test_a_simple_feature_pyramid():
    """Against its description: Li et al. 2022, section 3."""
    net = randomised(SimpleFeaturePyramid(8, 16, (4, 8, 16, 32), out_channels=5))
    features = torch.rand(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    found = net(features)
    assert [tuple(each.shape) for each in found] == [(2, 5, 16, 16), (2, 5, 8, 8), (2, 5, 4, 4), (2, 5, 2, 2)]

    def finer(x, layer):
        """Each value spreads over a square of 2 x 2."""
        spread = torch.einsum("bihw,ioyx->bohywx", x, layer.weight)
        size = (len(x), layer.weight.shape[1], 2 * x.shape[2], 2 * x.shape[3])
        return spread.reshape(size) + layer.bias.view(1, -1, 1, 1)

    def out(x, layers):
        point, norm, wide, last = layers
        x = layer_norm(torch.einsum("bihw,oi->bohw", x, point.weight[:, :, 0, 0]), norm)
        return layer_norm(torch.conv2d(x, wide.weight, padding=1), last)

    four, eight, sixteen, thirty_two = (list(level) for level in net.levels)
    twice = finer(nn.functional.gelu(layer_norm(finer(features, four[0]), four[1])), four[3])
    expected = [
        out(twice, four[4:]),
        out(finer(features, eight[0]), eight[1:]),
        out(features, sixteen),
        out(features.unflatten(3, (2, 2)).unflatten(2, (2, 2)).amax((3, 5)), thirty_two[1:]),
    ]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert SimpleFeaturePyramid(8, 16).channels == [2, 4, 8, 8]
    assert [tuple(each.shape[1:]) for each in SimpleFeaturePyramid(8, 32, (16, 8))(features)] == [
        (4, 8, 8),
        (2, 16, 16),
    ]
    for stride, channels in ((14, 8), (16, 9)):
        with pytest.raises(UserError, match=f"a map of .*stride {stride} gives none of stride"):
            SimpleFeaturePyramid(channels, stride)
