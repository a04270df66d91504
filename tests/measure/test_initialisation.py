"""The spread of the noise against that of many freshly built networks."""

import functools
import logging
import math

import pytest
import timm
import torch
import torchvision
from scipy import stats
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import noise_scales, select
from lightning_tl.measure.noise_scales import initialisation
from lightning_tl.measure.start_weights import start_spreads
from lightning_tl.models import build_backbone
from lightning_tl.tasks import (
    Classification,
    MultiLabelClassification,
    ObjectDetection,
    SemanticSegmentation,
    SurfaceNormals,
)

# From so many numbers the standard deviation of normal values has an error of 0.5 %, and 3 % are six of it.
ENOUGH = 20_000


def check_against_fresh_builds(known, build, most_builds=40):
    """Compare spreads with those of fresh builds, pooled over elements and builds.

    Large tensors: within 3 %. Those of fewer than 20,000 numbers in all builds (biases of a head): by the χ² bound of
    probability 1e-6 on the variance of normal values, which also holds for uniform ones, whose variance is less noisy.
    Constants: exactly 0.
    """
    count, mean, square = {}, {}, {}
    small = None
    for index in range(most_builds):
        torch.manual_seed(1_000 + index)
        for name, p in build().named_parameters():
            if small is not None and name not in small:
                continue
            values = p.detach().double().flatten()
            n, centre = len(values), values.mean()
            delta, total = centre - mean.get(name, 0.0), count.get(name, 0) + n
            old = count.get(name, 0)
            square[name] = square.get(name, 0.0) + (values - centre).square().sum() + delta**2 * old * n / total
            mean[name] = mean.get(name, 0.0) + delta * n / total
            count[name] = total
        small = {name for name, n in count.items() if n < ENOUGH}
    assert set(count) == set(known)
    exact = 0
    for name, n in count.items():
        spread = math.sqrt(float(square[name]) / n)
        if float(mean[name]) != 0 and spread < 1e-12 * abs(float(mean[name])):
            spread = 0.0  # the rounding of the mean of equal constants
        if spread == 0 or known[name] == 0:
            assert known[name] == spread == 0, name
        elif n >= ENOUGH:
            assert known[name] == pytest.approx(spread, rel=0.03), name
            exact += 1
        else:
            low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], n - 1) / (n - 1)
            assert low < (spread / known[name]) ** 2 < high, name
    assert exact > 2


def tiny_bert():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    return BertForSequenceClassification(BertConfig(vocab_size=300, initializer_range=0.05, **sizes))


def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, initializer_range=0.05, **sizes))


def narrow_resnet():
    return build_backbone("resnet10_w8")  # made of timm's class, without timm's create_model


class Mixture(nn.Module):
    """What a user writes: another's network under a head of one's own."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(64, 30))


NETWORKS = {
    "classification": lambda: Classification(3, "resnet50"),
    "labels": lambda: MultiLabelClassification(3, "resnet10_w32"),
    "detection": lambda: ObjectDetection(3, "resnet18", fpn_channels=64, representation_size=128),
    "segmentation": lambda: SemanticSegmentation(3, "resnet18"),
    "normals": lambda: SurfaceNormals(3, "resnet10_w16"),
    "resnet": functools.partial(timm.create_model, "resnet26d", num_classes=5, in_chans=1),
    "vit": functools.partial(timm.create_model, "vit_tiny_patch16_224", img_size=64, num_classes=5, global_pool="avg"),
    "vit, otherwise": functools.partial(timm.create_model, "vit_tiny_patch16_224", weight_init="jax"),
    "convnext": functools.partial(timm.create_model, "convnext_atto", num_classes=5),
    "efficientnet": functools.partial(timm.create_model, "efficientnet_b0", num_classes=5),
    "features": functools.partial(timm.create_model, "resnet18", features_only=True, in_chans=2),
    "timm's class": narrow_resnet,
    "timm's mixer": lambda: timm.models.mlp_mixer.MlpMixer(img_size=32, patch_size=8, num_blocks=2, embed_dim=64),
    "timm's transformer": lambda: timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=96, depth=2),
    "timm's windows": lambda: timm.models.SwinTransformer(
        img_size=56, window_size=7, depths=(1, 1), num_heads=(2, 4), embed_dim=48
    ),
    "bert": tiny_bert,
    "llama": tiny_llama,
    "mixture": lambda: Mixture(timm.create_model("convnext_atto", num_classes=0)),
    "mixture with bert": lambda: Mixture(tiny_bert()),
    "torch": lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.TransformerEncoderLayer(16, 2, 32)),
}


# large networks of kinds that smaller ones stand for
SLOW = ("classification", "detection", "segmentation", "efficientnet", "convnext")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NETWORKS]
)
def test_the_spread_is_that_of_freshly_built_networks(name):
    build = NETWORKS[name]
    torch.manual_seed(5)
    module = build()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(3).add_(1)  # training must not matter
    before = {key: (value.clone(), value.data_ptr()) for key, value in module.state_dict().items()}
    states, modes = torch.get_rng_state(), [m.training for m in module.modules()]
    init = initialisation(module, select(module))
    assert torch.equal(states, torch.get_rng_state())
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key][0]), key
        assert value.data_ptr() == before[key][1], key
    assert modes == [m.training for m in module.modules()]
    assert init.doubts == []
    assert set(init.sources) == set(init.spreads)
    check_against_fresh_builds(init.spreads, build)


class OwnWeights(nn.Module):
    """Initialises its layers in a function that its constructor calls."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(40, 30)
        self.apply(draw)


def draw(layer):
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.7)


class OwnWord(OwnWeights):
    def freshly_initialised(self):
        return OwnWord()


class Returns(nn.Linear):
    result = None

    def freshly_initialised(self):
        return self.result(self)


def refuse(module):
    raise ValueError("no file")


def test_a_module_with_a_method_that_returns_a_fresh_one():
    for module in (OwnWord(), nn.Sequential(OwnWord())):
        init = initialisation(module, select(module))
        assert {value for name, value in init.spreads.items() if name.endswith("weight")} == {0.7}
        assert set(init.sources.values()) == {"OwnWord.freshly_initialised()"}
        assert init.doubts == []


@pytest.mark.parametrize(
    "result, message",
    [
        (lambda module: 3, r"Returns.freshly_initialised\(\) must return a newly built module, not a int"),
        (lambda module: module, r"Returns.freshly_initialised\(\).*returned parameters of the module itself"),
        (refuse, r"Returns.freshly_initialised\(\) failed: ValueError: no file"),
    ],
)
def test_a_method_that_returns_something_else(monkeypatch, result, message):
    monkeypatch.setattr(Returns, "result", staticmethod(result))
    module = Returns(3, 4)
    with pytest.raises(UserError, match=message):
        noise_scales(module, select(module))


def test_a_warning_names_layers_whose_weights_a_constructor_writes(caplog):
    module = Mixture(OwnWeights())
    init = initialisation(module, select(module))
    (doubt,) = init.doubts
    assert "not certain how the weights of 1 layer are initialised: net.linear (Linear)" in doubt
    assert "the constructor of OwnWeights seems to initialise weights too" in doubt
    assert "freshly_initialised()" in doubt
    with caplog.at_level(logging.WARNING):
        noise_scales(module, select(module))
    assert caplog.messages == [doubt]


def test_layers_that_a_user_has_put_into_a_model():
    resnet = timm.create_model("resnet18")
    resnet.fc = nn.Linear(512, 7)  # the classifier: by its own initialisation
    init = initialisation(resnet, select(resnet))
    assert init.doubts == []
    assert init.sources["fc.weight"] == "reset_parameters()"
    assert init.spreads["fc.weight"] == pytest.approx(1 / math.sqrt(3 * 512))
    resnet.conv1 = nn.Conv2d(3, 64, 3)  # whether this was initialised by timm's function cannot be known
    (doubt,) = initialisation(resnet, select(resnet)).doubts
    assert "conv1 (Conv2d)" in doubt
    assert "timm builds such a model with other layers there" in doubt
    bert = tiny_bert()
    bert.classifier = nn.Linear(48, 5)
    init = initialisation(bert, select(bert))
    assert init.spreads["classifier.weight"] == pytest.approx(1 / math.sqrt(3 * 48))
    assert "classifier (Linear)" in init.doubts[0]


def test_a_subclass_of_a_hugging_face_model_with_other_arguments():
    from transformers import BertModel

    class Longer(BertModel):
        def __init__(self, config, length):
            super().__init__(config)
            self.length = nn.Parameter(torch.zeros(length))
            self.post_init()

    module = Longer(tiny_bert().config, 9)
    init = initialisation(module, select(module))
    assert init.spreads["length"] == 0
    (doubt,) = init.doubts
    assert "(top) (Longer)" in doubt
    init = initialisation(module, select(module, exclude="^length"))
    assert set(init.sources.values()) == {"BertModel(config)"}
    assert init.spreads["encoder.layer.0.output.dense.weight"] == 0.05


class Stranger(nn.Module):
    """Weights that no method of the module tells of: bare, computed, scaled in a constructor or from outside."""

    def __init__(self):
        super().__init__()
        self.place, self.gate = nn.Parameter(0.02 * torch.randn(100, 100)), nn.Parameter(torch.ones(30))
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, 30))
        self.written, self.outside = nn.Linear(30, 40), nn.Linear(40, 50)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 16, 3))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(50, 20))
        self.rms = CustomRMSNorm(20)
        self.apply(draw)


class CustomRMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0))


def stranger():
    module = Stranger()
    nn.init.normal_(module.outside.weight, std=0.003)
    return module


def train_a_little(module):
    """Move weights as training does: rows by different amounts."""
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(torch.linspace(0.3, 3, len(p)).view(-1, *(1,) * (p.dim() - 1))).add_(0.1)


def test_the_start_of_a_run_tells_what_a_module_does_not():
    torch.manual_seed(2)
    module = stranger()
    start = start_spreads(dict(module.named_parameters()))
    train_a_little(module)
    init = initialisation(module, select(module), start=start)
    assert init.doubts == []
    check_against_fresh_builds(
        {name: value for name, value in init.spreads.items() if name not in SMALL}, lambda: Without(stranger())
    )
    known = {name for name, source in init.sources.items() if source == "their values at the start of the run"}
    assert known >= {
        "place",
        "gate",
        "token",
        "written.weight",
        "outside.weight",
        "normed.parametrizations.weight.original1",
    }
    assert init.sources["rms.weight"] == "RMSNorm, a constant"
    assert init.spreads["gate"] == init.spreads["rms.weight"] == 0
    assert init.spreads["written.bias"] == pytest.approx(1 / math.sqrt(3 * 30))
    assert "reset_parameters() (" in init.summary()
    assert "their values at the start of the run (" in init.summary()


# few numbers, of which one draw does not tell the spread to 3 %
SMALL = ("token", "normed.parametrizations.weight.original0", "normed.parametrizations.weight.original1")
SMALL += ("spectral.parametrizations.weight.original",)


class Without:
    """Parameters without those few."""

    def __init__(self, module):
        self.module = module

    def named_parameters(self):
        return [(name, p) for name, p in self.module.named_parameters() if name not in SMALL]


def test_the_start_of_a_run_from_trained_weights_does_not_tell():
    """Neither does a module that is measured without its run: the doubts say what is used."""
    torch.manual_seed(2)
    module = stranger()
    train_a_little(module)
    trained = start_spreads(dict(module.named_parameters()))
    init = initialisation(module, select(module), start=trained)
    assert init.spreads["written.weight"] == pytest.approx(1 / math.sqrt(3 * 30))
    doubts = "\n".join(init.doubts)
    assert "written (Linear)" in doubts
    assert "(top) (Stranger)" in doubts
    assert "The spread of their values at the start of the run is used" in doubts
    init = initialisation(module, select(module))
    assert "The spread of their present values is used" in "\n".join(init.doubts)
    assert init.spreads["place"] == pytest.approx(float(module.place.detach().std(correction=0)), rel=1e-5)
    assert init.spreads.keys() == dict(module.named_parameters()).keys()


@pytest.mark.parametrize("name", ["resnet", "vit", "bert", "llama", "torchvision"])
def test_fresh_and_trained_weights_are_told_apart(name):
    build = {**NETWORKS, "torchvision": lambda: torchvision.models.resnet18(num_classes=5)}[name]
    for seed in range(3):
        torch.manual_seed(seed)
        module = build()
        fresh = start_spreads(dict(module.named_parameters()))
        told = [found.drawn for found in fresh.values() if found.drawn is not None and found.spread]
        assert len(told) > 5
        assert sum(told) > 0.95 * len(told)  # timm's cut-off normal distribution has one value of -100 σ at times
        train_a_little(module)
        trained = start_spreads(dict(module.named_parameters()))
        told = [found.drawn for found in trained.values() if found.drawn is not None and found.spread]
        assert len(told) > 5
        assert sum(told) < 0.05 * len(told)


def test_torchvisions_networks_at_the_start_of_a_run():
    """Their constructors write weights, which is not seen from outside."""
    torch.manual_seed(0)
    module = torchvision.models.resnet18(num_classes=5)
    start = start_spreads(dict(module.named_parameters()))
    init = initialisation(module, select(module), start=start)
    assert init.doubts == []
    weight = module.layer1[0].conv1.weight
    assert init.spreads["layer1.0.conv1.weight"] == pytest.approx(math.sqrt(2 / (weight.shape[0] * 9)), rel=0.02)
    assert init.spreads["bn1.weight"] == 0
    assert len(initialisation(module, select(module)).doubts) == 1
