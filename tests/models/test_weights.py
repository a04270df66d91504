from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.models import build_backbone, load_backbone
from lightning_tl.models.weights import read_checkpoint

HEAD = {"weight": torch.zeros(5, 128), "bias": torch.zeros(5)}


def net(seed=0, name="resnet10_w16", in_chans=1):
    torch.manual_seed(seed)
    module = build_backbone(name, in_chans)
    for value in module.buffers():
        if value.dtype.is_floating_point:
            value.uniform_(0.5, 1.5)
    return module


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.state_dict().items())


SOURCE = net(1)
COUNT = len(SOURCE.state_dict())


@pytest.mark.parametrize(
    "prefix,head",
    [
        ("", "fc."),
        ("", "head."),
        ("", "classifier."),
        ("_orig_mod.", "_orig_mod.fc."),
        ("module.", "module.fc."),
        ("model.", "model.fc."),
        ("net.", "net.head."),
        ("encoder.", "fc."),
        ("backbone.", "head."),
        ("module._orig_mod.model.", "module._orig_mod.model.fc."),
        ("_orig_mod.backbone.", "_orig_mod.head."),
        ("backbone._orig_mod.", "head."),
        ("model.backbone.", "model.decoder."),
        ("model._orig_mod.backbone.", "model._orig_mod.roi_heads."),
    ],
)
def test_prefixes(prefix, head):
    state = {prefix + key: value for key, value in SOURCE.state_dict().items()}
    state |= {head + key: value for key, value in HEAD.items()}
    target = net(2)
    assert not same(SOURCE, target)
    report = load_backbone(state, target)
    assert same(SOURCE, target)
    assert len(report.matched) == COUNT
    assert report.fraction == 1
    assert report.head == [head + "weight", head + "bias"]
    assert report.missing == report.unexpected == []
    assert report.mismatched == {}


def test_a_backbone_elsewhere_in_a_name_is_no_prefix():
    state = {**SOURCE.state_dict(), "old_backbone.conv1.weight": torch.zeros(1)}
    target = net(2)
    report = load_backbone(state, target)
    assert same(SOURCE, target)
    assert report.unexpected == ["old_backbone.conv1.weight"]


def test_lightning_checkpoint_from_a_file(tmp_path):
    state = {f"backbone.{key}": value for key, value in SOURCE.state_dict().items()} | {"head.weight": HEAD["weight"]}
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": []}, tmp_path / "a.ckpt")
    target = net(2)
    report = load_backbone(tmp_path / "a.ckpt", target)
    assert same(SOURCE, target)
    assert report.source == str(tmp_path / "a.ckpt")
    assert str(report) == (
        f"backbone from {tmp_path / 'a.ckpt'}: {COUNT} matched, 0 missing, 0 unexpected, 0 of another shape, "
        "1 of the head"
    )


def test_a_compiled_modules_state_dict():
    state = torch.compile(net(1)).state_dict()
    assert next(iter(state)).startswith("_orig_mod.")
    target = net(2)
    load_backbone(state, target)
    assert same(net(1), target)


def test_files_without_batchnorms_counters():
    """As torchvision's older ones."""
    state = {key: value for key, value in SOURCE.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert len(state) < 0.9 * COUNT
    target = net(2)
    report = load_backbone(state, target)
    assert report.fraction == 1
    assert torch.equal(target.layer4[0].bn1.running_var, SOURCE.layer4[0].bn1.running_var)


def test_memory_format_stays():
    target = net(2).to(memory_format=torch.channels_last)
    load_backbone(SOURCE.state_dict(), target)
    assert target.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_few_missing_are_told_not_refused():
    state = {key: value for key, value in SOURCE.state_dict().items() if not key.startswith("bn1.")}
    target = net(2)
    report = load_backbone(state, target)
    assert report.missing == ["bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"]
    assert "4 missing" in str(report)
    assert "  missing: bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var" in str(report)
    with pytest.raises(UserError, match="100% are needed"):
        load_backbone(state, target, min_fraction=1)


def test_another_backbone_is_one_error_and_copies_nothing():
    target = net(2)
    content = {
        "state_dict": {f"backbone.{key}": value for key, value in net(1, "resnet18").state_dict().items()},
        "lightning_tl": {"backbone": "resnet18"},
    }
    with pytest.raises(UserError, match=r"is a checkpoint of another backbone \(it holds a 'resnet18'\)") as error:
        load_backbone(content, target)
    assert same(net(2), target)
    message = str(error.value)
    assert "90% are needed" in message
    assert "conv1.weight: (64, 1, 7, 7) there, (16, 1, 3, 3) here" in message
    assert len(message.splitlines()) <= 5


def test_other_channels_are_one_error_and_copy_nothing():
    target = net(2, in_chans=1)
    with pytest.raises(UserError, match=r"conv1.weight is \(16, 3, 3, 3\) there and .* has in_chans=3"):
        load_backbone(net(1, in_chans=3).state_dict(), target)
    assert same(net(2), target)


def test_another_shape_inside():
    state = SOURCE.state_dict() | {"layer1.0.conv1.weight": torch.zeros(4, 4)}
    with pytest.raises(UserError, match=r"layer1.0.conv1.weight is \(4, 4\) there and \(16, 16, 3, 3\) here\."):
        load_backbone(state, net(2))


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, {"state_dict": {}}])
def test_a_checkpoint_without_a_network(content):
    with pytest.raises(UserError, match=r"holds no weights of a network; it has (epoch|nothing|state_dict)\. Give a"):
        load_backbone(content, net(2))


@pytest.mark.parametrize("key", ["model", "teacher", "student", "model_state_dict", "ema_weights"])
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_weights_under_a_key(key, prefix):
    """As in the checkpoints of other projects; other entries with tensors inside are left alone."""
    state = {prefix + name: value for name, value in SOURCE.state_dict().items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    target = net(2)
    report = load_backbone({"epoch": 1, "optimizer": optimizer, key: state}, target)
    assert same(SOURCE, target)
    assert report.source == f"a state dict (under '{key}')"


def test_of_teacher_and_student_the_teacher_is_taken():
    states = [{f"module.{name}": value for name, value in net(seed).state_dict().items()} for seed in (3, 1)]
    target = net(2)
    load_backbone({"student": states[0], "teacher": states[1]}, target)
    assert same(SOURCE, target)


def test_torchvisions_detector_and_segmenter():
    plain = build_backbone("resnet50")
    for network in (
        torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None),
        torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True),
    ):
        report = load_backbone(network.state_dict(), plain)
        assert (report.fraction, report.unexpected) == (1, [])
        body = getattr(network.backbone, "body", network.backbone)
        assert torch.equal(plain.layer4[2].conv3.weight, body["layer4"][2].conv3.weight)
        assert any("classifier" in name or "roi_heads" in name for name in report.head)
        assert not any("layer" in name and "fpn" not in name for name in report.head)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint .*none\.ckpt: no such file"):
        load_backbone(tmp_path / "none.ckpt", net())


def test_more_than_plain_types_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "owned", "x"))

    torch.save({"state_dict": SOURCE.state_dict(), "config": Evil()}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt: holds more than plain types .*write its weights into another"):
        load_backbone(tmp_path / "a.ckpt", net())
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_file(tmp_path, damage):
    path = tmp_path / "a.ckpt"
    torch.save(SOURCE.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello there"}[damage])
    with pytest.raises(UserError, match=r"checkpoint .*a\.ckpt: (damaged or not a checkpoint|cannot be read)"):
        read_checkpoint(path)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="a folder, not a file"):
        read_checkpoint(tmp_path)


def test_not_a_state_dict(tmp_path):
    torch.save([1, 2], tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt: holds a list, not a state dict"):
        read_checkpoint(tmp_path / "a.ckpt")
