"""Which part is inherited, what the rest begins from, and how the inherited part is held back."""

from __future__ import annotations

import pytest
import torch
from models.networks import randomised
from tasks.toy import Toy, trainer
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn
from training import equal, state

from lightning_tl.errors import UserError
from lightning_tl.models import build_backbone
from lightning_tl.models.filters import chosen_filters
from lightning_tl.tasks import Classification
from lightning_tl.transfer import Partial

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def network(block, width):
    """Return a ResNet of two blocks in some stages, with a stem of as many channels."""
    net = ResNet(block, (2, 1, 1, 2), num_classes=0, channels=tuple(width * 2**i for i in range(4)))
    net.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
    net.bn1 = nn.BatchNorm2d(width)
    stage = [block(width, width, downsample=None) for _ in range(2)] if block is BasicBlock else None
    if stage is None:
        down = nn.Sequential(nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))
        stage = [block(width, width, downsample=down), block(4 * width, width)]
    net.layer1 = nn.Sequential(*stage)
    return net


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_the_chosen_filters_are_a_network_of_their_own(block):
    """With all other entries 0, the chosen channels are the outputs of a network of half the width."""
    net = randomised(network(block, 8))
    masks = chosen_filters(net, 0.5, seed=3)
    full = net.state_dict()
    assert masks.keys() == full.keys()
    narrow = network(block, 4).eval()
    own = {name: full[name][masks[name]].view(value.shape) for name, value in narrow.state_dict().items()}
    narrow.load_state_dict(own)
    for name, value in full.items():
        value.mul_(masks[name])
    outputs = net(IMAGES)
    last = masks[f"layer4.1.bn{3 if block is Bottleneck else 2}.weight"]
    torch.testing.assert_close(outputs[:, last], narrow(IMAGES))
    assert bool(outputs[:, last].any())
    assert not bool(outputs[:, ~last].any())


def test_the_choice_follows_from_the_seed_and_smaller_shares_are_within_larger():
    net = build_backbone("resnet10_w8")
    small, large = (chosen_filters(net, share, 0) for share in (0.25, 0.6))
    assert all(bool((small[name] <= large[name]).all()) for name in small)
    sizes = [int(small[f"layer{stage}.0.bn2.weight"].sum()) for stage in range(1, 5)]
    assert sizes == [2, 4, 8, 16]
    assert [int(large[f"layer{stage}.0.bn1.weight"].sum()) for stage in range(1, 5)] == [5, 10, 19, 38]
    again, other = chosen_filters(net, 0.25, 0), chosen_filters(net, 0.25, 1)
    assert equal(small, again)
    assert not torch.equal(small["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(small["layer1.0.bn1.weight"], small["layer1.0.bn2.weight"])


def test_groups_of_a_convolution_read_their_own_channels():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
            block = Bottleneck(8, 2, cardinality=2, base_width=128)
            self.layer1 = nn.Sequential(block)

    net = Grouped()
    masks = chosen_filters(net, 0.5, 0)
    reads, writes = masks["layer1.0.bn1.weight"], masks["layer1.0.bn2.weight"]
    found = masks["layer1.0.conv2.weight"]
    out, width = found.shape[:2]
    assert out // net.layer1[0].conv2.groups == width > 1
    for filter_ in range(out):
        group = filter_ // (out // 2)
        for place in range(width):
            expected = bool(writes[filter_] and reads[group * width + place])
            assert bool(found[filter_, place].all()) == bool(found[filter_, place].any()) == expected


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    torch.manual_seed(4)
    module = Classification(3, "resnet10_w8")
    for name, parameter in module.backbone.named_parameters():
        if name.endswith("bn2.weight"):
            nn.init.ones_(parameter)
    randomised(module.backbone)
    path = tmp_path_factory.mktemp("start") / "start.ckpt"
    torch.save({"state_dict": module.state_dict()}, path)
    return path


PARTS = {
    "stem": ({"stages": 0}, ("conv1", "bn1")),
    "stages": ({"stages": 2}, ("conv1", "bn1", "layer1", "layer2")),
    "layers": ({"layers": r"layer4|^backbone\.bn1"}, ("bn1", "layer4")),
    "convolutions": ({"layers": r"conv\d\.weight"}, ()),
    "share": ({"share": 0.5}, None),
}


@pytest.mark.parametrize("part", PARTS)
def test_what_is_not_inherited_is_that_of_a_fresh_network(start, part, caplog):
    arguments, modules = PARTS[part]
    torch.manual_seed(7)
    module = Classification(3, "resnet10_w8", init_from=start, transfer=Partial(**arguments, seed=5))
    after = torch.rand(1)
    said = caplog.messages[-1]
    torch.manual_seed(7)
    Classification(3, "resnet10_w8")
    assert torch.equal(torch.rand(1), after)  # the global generator has drawn nothing more
    torch.manual_seed(5)
    fresh = build_backbone("resnet10_w8").state_dict()
    old = {k.removeprefix("backbone."): v for k, v in torch.load(start)["state_dict"].items() if "backbone" in k}
    masks = chosen_filters(module.backbone, 0.5, 5) if modules is None else None
    kinds, counts = set(), torch.zeros(2, dtype=torch.long)
    for name, value in module.backbone.state_dict().items():
        if masks is not None:
            expected = torch.where(masks[name], old[name], fresh[name])
        elif part == "convolutions":
            expected = (old if "conv" in name else fresh)[name]
        else:
            expected = (old if name.startswith(modules) else fresh)[name]
        assert torch.equal(value, expected), name
        if name in dict(module.backbone.named_parameters()):
            counts += torch.tensor([int((masks[name] if masks else expected == old[name]).sum()), value.numel()])
        kinds.add((torch.equal(value, old[name]), torch.equal(value, fresh[name])))
    assert len(kinds) > 1
    label, count, total = module.transfer.label(), *counts.tolist()
    assert said == f"transfer {label}: {count:,} of the backbone's {total:,} parameters are inherited"
    if masks is not None:
        new = ~masks["layer2.0.bn1.weight"]
        assert bool((module.backbone.layer2[0].bn1.running_var[new] == 1).all())
        assert bool((module.backbone.layer2[0].bn1.running_mean[new] == 0).all())


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, weight_decay=0.1, momentum=0.5),
    "lbfgs": lambda p: torch.optim.LBFGS([each for group in p for each in group["params"]], lr=0.1, max_iter=3),
}


def fitted(folder, start, method, optimizer, steps=3, kind=Classification, **settings):
    torch.manual_seed(0)
    module = kind(3, "resnet10_w8", init_from=start, transfer=method, optimizer=optimizer, channels_last=False)
    before = state(module)
    trainer(folder, max_steps=steps, limit_val_batches=0, **settings).fit(module, Toy("sinclass"))
    return module, before


@pytest.mark.parametrize("settings", [{}, {"gradient_clip_val": 0.1, "accumulate_grad_batches": 2}], ids=["", "clip"])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_frozen_entries_do_not_move_under_any_optimiser(start, tmp_path, optimizer, settings):
    method = Partial(share=0.5, inherited="frozen")
    module, before = fitted(tmp_path, start, method, OPTIMISERS[optimizer], **settings)
    masks = chosen_filters(module.backbone, 0.5, 0)
    held = 0
    for name, parameter in module.backbone.named_parameters():
        still = parameter == before[f"backbone.{name}"]
        assert bool(still[masks[name]].all()), name
        moved = ~still & ~masks[name]
        assert float(moved.sum()) > 0.2 * float((~masks[name]).sum()), name
        held += int(masks[name].sum())
        kept = module.optimizers().state.get(parameter, {})
        for key in {"momentum_buffer", "exp_avg"} & kept.keys():
            decays = optimizer != "adamw" and bool(parameter[masks[name]].any())  # a part of the gradient
            assert bool(kept[key][masks[name]].any()) == decays
    total = sum(p.numel() for p in module.parameters())
    assert module.transfer.parameter_counts(module) == (total - held, total)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_slowed_entries_move_by_the_factor(start, tmp_path, optimizer):
    ends = []
    for method in (Partial(share=0.5), Partial(share=0.5, inherited="slowed", factor=0.25)):
        module, before = fitted(tmp_path, start, method, OPTIMISERS[optimizer], steps=1)
        ends.append({k: p.detach() - before[f"backbone.{k}"] for k, p in module.backbone.named_parameters()})
    masks = chosen_filters(module.backbone, 0.5, 0)
    for name, whole in ends[0].items():
        expected = torch.where(masks[name], 0.25 * whole, whole)
        torch.testing.assert_close(ends[1][name], expected, rtol=1e-3, atol=2e-7)


def test_slowed_stages_are_those_of_a_lower_rate(start, tmp_path):
    class Grouped(Classification):
        def parameter_groups(self):
            stem = [p for n, p in self.named_parameters() if n.startswith(("backbone.conv1", "backbone.bn1"))]
            known = {id(p) for p in stem}
            rest = [p for p in self.parameters() if id(p) not in known]
            return [{"params": rest}, {"params": stem, "lr_factor": 0.1}]

    slowed, _ = fitted(tmp_path, start, Partial(stages=0, inherited="slowed"), OPTIMISERS["sgd"])
    grouped, _ = fitted(tmp_path, start, Partial(stages=0), OPTIMISERS["sgd"], kind=Grouped)
    for name, value in grouped.state_dict().items():
        torch.testing.assert_close(slowed.state_dict()[name], value, rtol=1e-4, atol=1e-6)


class Other(Classification):
    def configure_models(self):
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, self.num_classes)


class Squeezed(Classification):
    def configure_models(self):
        super().configure_models()
        self.backbone.layer2[0].se = nn.Conv2d(16, 16, 1)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: Partial(), "Partial: give exactly one of layers, stages and share"),
        (lambda: Partial(stages=1, share=0.5), "Partial: give exactly one of layers, stages and share"),
        (lambda: Partial(layers="["), r"Partial: layers is '\[', which is not a regular expression"),
        (lambda: Partial(layers="layer9"), r"Partial: no parameter is inherited \(layers is layer9\)"),
        (lambda: Partial(layers="."), r"Partial: everything is inherited \(layers is .\)"),
        (lambda: Partial(stages=-1), "Partial: stages is -1; it must be at least 0"),
        (lambda: Partial(stages=4), r"Partial: everything is inherited \(stages is 4\)"),
        (lambda: Partial(stages=5), "Partial: stages is 5, but the backbone has 4 in addition to its stem"),
        (lambda: Partial(share=0.0), "Partial: share is 0; it must be above 0 and below 1"),
        (lambda: Partial(share=1), "Partial: share is 1; it must be above 0 and below 1"),
        (lambda: Partial(share=0.001), r"Partial: no parameter is inherited \(share is 0.001\)"),
        (lambda: Partial(share=0.9999), r"Partial: everything is inherited \(share is 0.9999\)"),
        (lambda: Partial(stages=1, inherited="kept"), "inherited is 'kept'; it must be one of trained, slowed, frozen"),
        (lambda: Partial(stages=1, factor=0.1), "factor is given, but the inherited part is trained; it goes with sl"),
        (lambda: Partial(stages=1, inherited="slowed", factor=1.0), "factor is 1; it must be above 0 and below 1"),
        (lambda: Partial(stages=1, seed=-1), "Partial: seed is -1; it must be at least 0"),
        (lambda: [Partial(stages=1), "LinearProbe"], "Partial and LinearProbe cannot be combined: the new part of the"),
        (
            lambda: [{"class_path": "FreezeStages", "init_args": {"stages": 1}}, Partial(stages=1)],
            "FreezeStages and Partial cannot be combined: the new part of the backbone has to be trained from the firs",
        ),
        (lambda: [Partial(stages=1), "LPFT"], "Partial and LPFT cannot be combined: the new part"),
        (
            lambda: [Partial(stages=1), {"class_path": "L2SP", "init_args": {"strength": 1.0}}],
            "Partial and L2SP cannot be combined: the new part of the backbone has no pre-trained weights",
        ),
        (
            lambda: [Partial(stages=1), "WiSEFT"],
            "Partial and WiSEFT cannot be combined: the new part of the backbone has",
        ),
        (
            lambda: [Partial(stages=1), {"class_path": "LoRA", "init_args": {"rank": 2}}],
            "Partial and LoRA cannot be combined: the backbone's own weights do not move",
        ),
        (
            lambda: [Partial(stages=1), {"class_path": "Adapter", "init_args": {"width": 2}}],
            "Partial and Adapter cannot be combined: the backbone's own weights do not move",
        ),
    ],
)
def test_misuse(make, message):
    with pytest.raises(UserError, match=message):
        Classification(3, "resnet10_w8", transfer=make())


def test_networks_of_other_layers():
    with pytest.raises(UserError, match=r"a ResNet, and the backbone has 0\.weight; choose by layers"):
        Other(3, transfer=Partial(share=0.5))
    with pytest.raises(UserError, match=r"a ResNet, and the backbone has layer2\.0\.se\.weight; choose by layers"):
        Squeezed(3, transfer=Partial(share=0.5))


def test_a_training_from_no_pretrained_network(tmp_path):
    module = Classification(3, "resnet10_w8", transfer=Partial(stages=1))
    with pytest.raises(UserError, match="transfer Partial inherits a part of the pre-trained backbone: give a pre-tra"):
        trainer(tmp_path).fit(module, Toy("sinclass"))
