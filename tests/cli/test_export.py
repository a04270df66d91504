"""`lightning-tl export`: files that networks of torchvision and timm take; one message for what cannot be written."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from models.networks import randomised
from torch import nn

from lightning_tl.cli.main import main
from lightning_tl.models import build_backbone, load_backbone
from lightning_tl.models.low_rank import own_size
from lightning_tl.tasks import Classification, SemanticSegmentation
from lightning_tl.transfer import Adapter, LoRA, Partial

EYE = torch.eye(2)
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def checkpoint(path, kind=Classification, name="resnet18", transfer=None):
    """Write the checkpoint of a network that has been trained in some way; return the task."""
    module = kind(3, name, transfer=transfer)
    randomised(module.backbone, scale=0.05)
    for key, parameter in module.named_parameters():
        if key.endswith("lora_B"):
            nn.init.normal_(parameter, std=0.01)
    torch.save({"state_dict": module.state_dict(), "lightning_tl": {"backbone": name}}, path)
    return module.eval()


def close(a, b):
    return float((a - b).detach().abs().max()) <= 1e-5 * float(b.detach().abs().max())


@pytest.mark.parametrize("transfer", [None, LoRA(4, alpha=8), Partial(share=0.5)], ids=["full", "lora", "partial"])
@pytest.mark.parametrize("kind", [Classification, SemanticSegmentation])
def test_the_file_is_a_network_of_torchvision_and_timm(tmp_path, capsys, kind, transfer):
    path, out = tmp_path / "a.ckpt", tmp_path / "new/backbone.pt"
    source = checkpoint(path, kind, transfer=transfer)
    assert main(["export", str(path), "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    state = torch.load(out, weights_only=True)
    size = sum(value.numel() for value in state.values())
    head = len(source.state_dict()) - len(source.backbone.state_dict())
    first = f"backbone of {path}: {len(state)} entries, {size:,} numbers; {head} of the head left out"
    lines = ["  low-rank updates (LoRA) added to the weights of 20 layers"] if "lora" in source.transfer.label() else []
    assert printed == [first, *lines, str(out)]
    names = ["backbone.pt", "backbone.transfer_card.json", "backbone.transfer_card.md"]
    assert sorted(file.name for file in out.parent.iterdir()) == names

    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.fc = nn.Identity()
    assert state.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(state)
    if kind is Classification:
        with torch.no_grad():
            expected = source.backbone(IMAGES)
            assert close(theirs(IMAGES), expected)
            other = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
            other.load_state_dict(state)
            assert close(other(IMAGES), expected)
    else:  # the dilated network, whose weights they are
        plain = build_backbone("resnet18", output_stride=8).eval()
        plain.load_state_dict(state)
        with torch.no_grad():
            assert close(plain(IMAGES), source.backbone(IMAGES))
    assert sum(p.numel() for p in theirs.parameters()) == own_size(source.backbone)
    assert load_backbone(out, build_backbone("resnet18")).fraction == 1  # and another training begins from it


def test_of_a_network_of_ones_own_and_of_half_precision(tmp_path):
    """Updates are added in full precision, and the weights keep their type."""

    class Plain(Classification):
        def configure_models(self):
            self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4))
            self.head = nn.Linear(8, self.num_classes)

    module = Plain(3, transfer=LoRA(2)).bfloat16()
    nn.init.normal_(module.backbone[2].lora_B)
    torch.save(module.state_dict(), tmp_path / "a.ckpt")
    assert main(["export", str(tmp_path / "a.ckpt"), f"--out={tmp_path}/b.pt", "--format=backbone"]) == 0
    state = torch.load(tmp_path / "b.pt", weights_only=True)
    assert list(state) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    layer = module.backbone[2]
    update = layer.lora_B.double().flatten(1) @ layer.lora_A.double().flatten(1)
    expected = layer.weight.double() + update.view(layer.weight.shape)
    assert torch.equal(state["2.weight"], expected.bfloat16())


def written(path, content):
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda at: [str(at / "none.ckpt"), f"--out={at}/o.pt"], "checkpoint {at}/none.ckpt: no such file"),
        (lambda at: [str(at), f"--out={at}/o.pt"], "checkpoint {at}: "),
        (lambda at: [f"--out={at}/o.pt"], "checkpoint"),
        (lambda at: [str(at / "a.ckpt")], "out"),
        (
            lambda at: [str(at / "a.ckpt"), f"--out={at}/a.ckpt"],
            "--out {at}/a.ckpt exists already; give another name, o",
        ),
        (lambda at: [str(at / "a.ckpt"), f"--out={at}"], "--out {at} exists already"),
        (
            lambda at: [str(at / "a.ckpt"), f"--out={at}/o.pt", "--format=backbon"],
            "no format 'backbon'; did you mean 'backbone'?",
        ),
        (
            lambda at: [str(at / "b.ckpt"), f"--out={at}/o.pt"],
            "b.ckpt has bottleneck adapters (layer1.0.adapter.down.weight, …), which cannot be merged into its "
            "weights; export the checkpoint that it was fine-tuned from",
        ),
        (
            lambda at: [written(at / "c.pt", {"fc.weight": torch.zeros(2, 2)}), f"--out={at}/o.pt"],
            "checkpoint {at}/c.pt holds no weights of a backbone",
        ),
        (lambda at: [written(at / "c.pt", {"a": 1}), f"--out={at}/o.pt"], "{at}/c.pt holds no weights of a backbone"),
        (
            lambda at: [written(at / "c.pt", {"conv.weight": torch.tensor([1.0, torch.nan])}), f"--out={at}/o.pt"],
            "c.pt: conv.weight has 1 of 2 values that are not finite: its training diverged; use another checkpoint",
        ),
        (
            lambda at: [written(at / "c.pt", {"conv.weight": EYE, "conv.lora_A": EYE}), f"--out={at}/o.pt"],
            "c.pt: the low-rank update of conv is incomplete: lora_B and lora_scaling are missing",
        ),
        (lambda at: [written(at / "c.pt", [1]), f"--out={at}/o.pt"], "c.pt: holds a list, not a state dict"),
    ],
)
def test_misuse(tmp_path, capsys, make, message):
    checkpoint(tmp_path / "a.ckpt", name="resnet10_w8")
    checkpoint(tmp_path / "b.ckpt", name="resnet10_w8", transfer=Adapter(2))
    capsys.readouterr()
    before = (tmp_path / "a.ckpt").read_bytes()
    assert main(["export", *make(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message.format(at=tmp_path) in error
    assert "Traceback" not in error
    assert (tmp_path / "a.ckpt").read_bytes() == before
    assert not (tmp_path / "o.pt").exists()


def test_a_file_that_cannot_be_written(tmp_path, capsys):
    checkpoint(tmp_path / "a.ckpt", name="resnet10_w8")
    assert main(["export", str(tmp_path / "a.ckpt"), f"--out={tmp_path}/a.ckpt/o.pt"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}/a.ckpt")
