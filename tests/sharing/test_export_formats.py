"""Each format is read by the project that it is for, and gives our outputs."""

from __future__ import annotations

import json
import sys

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from sharing.checkpoints import CLASSES, checkpoint, close, images
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from lightning_tl.cli.main import main
from lightning_tl.tasks import (
    Classification,
    MultiLabelClassification,
    ObjectDetection,
    SemanticSegmentation,
    SurfaceNormals,
)
from lightning_tl.transfer import Adapter, LoRA

pytestmark = pytest.mark.filterwarnings("ignore")


def exported(at, form, *more):
    out = at / "out" / form
    assert main(["export", str(at / "a.ckpt"), f"--out={out}", f"--format={form}", *more]) == 0
    return out


@torch.no_grad()
def test_torchvision_classifier_with_updates(tmp_path):
    ours = checkpoint(tmp_path / "a.ckpt", Classification, "resnet18", transfer=LoRA(2))
    theirs = torchvision.models.resnet18(num_classes=3).eval()
    theirs.load_state_dict(torch.load(exported(tmp_path, "torchvision"), weights_only=True))
    assert close(theirs(images()), ours(images()))


@pytest.mark.slow
@torch.no_grad()
def test_torchvision_detector(tmp_path):
    ours = checkpoint(tmp_path / "a.ckpt", ObjectDetection, "resnet18")
    with torch.no_grad():
        ours.head.roi_heads.box_predictor.cls_score.bias[1] = 3.0  # so that something is detected
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    torch.save(content | {"state_dict": ours.state_dict()}, tmp_path / "a.ckpt")
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d)
    theirs = torchvision.models.detection.FasterRCNN(body, num_classes=4).eval()
    theirs.load_state_dict(torch.load(exported(tmp_path, "torchvision"), weights_only=True))
    theirs.transform.min_size, theirs.transform.max_size = (64,), 64
    theirs.transform.image_mean, theirs.transform.image_std = [0.0] * 3, [1.0] * 3
    for found, expected in zip(theirs(list(images())), ours(list(images())), strict=True):
        assert len(expected["boxes"]) > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_torchvision_deeplab(tmp_path):
    ours = checkpoint(tmp_path / "a.ckpt", SemanticSegmentation, "resnet50")
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=3, aux_loss=True
    ).eval()
    theirs.load_state_dict(torch.load(exported(tmp_path, "torchvision"), weights_only=True))
    assert close(theirs(images())["out"], ours(images()))


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "resnet18"])
@torch.no_grad()
def test_timm_reads_the_folder(tmp_path, name):
    ours = checkpoint(tmp_path / "a.ckpt", MultiLabelClassification, name)
    folder = exported(tmp_path, "timm")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert close(theirs(images()), ours(images()))
    assert sorted(each.name for each in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "transfer_card.json",
    ]
    steps = timm.data.resolve_data_config(model=theirs)
    assert tuple(steps["input_size"]) == (3, 64, 64)
    assert steps["crop_pct"] == 64 / 80
    assert tuple(round(value, 3) for value in steps["mean"]) == (0.485, 0.456, 0.406)
    assert json.loads((folder / "config.json").read_text())["label_names"] == CLASSES


def test_a_backbone_of_maps_keeps_its_own_names(tmp_path, capsys):
    ours = checkpoint(tmp_path / "a.ckpt", Classification, "test_convnext")
    state = torch.load(exported(tmp_path, "backbone"), weights_only=True)
    assert state.keys() == ours.backbone.state_dict().keys()  # head.norm.weight among them
    checkpoint(tmp_path / "maps/a.ckpt", SemanticSegmentation, "test_convnext")
    assert main(["export", str(tmp_path / "maps/a.ckpt"), f"--out={tmp_path}/x", "--format=timm"]) == 2
    assert (
        "lacks head.norm.weight of timm's test_convnext, as it was trained for feature maps" in capsys.readouterr().err
    )


def test_safetensors_start_another_training(tmp_path):
    ours = checkpoint(tmp_path / "a.ckpt", Classification, "resnet10_w8", transfer=LoRA(2))
    out = exported(tmp_path, "safetensors")
    task = Classification(5, "resnet10_w8", init_from=out).eval()
    assert task.key_report.fraction == 1
    with torch.no_grad():
        assert close(task.backbone(images()), ours.backbone(images()))
    assert load_file(out)["head.weight"].equal(ours.head.weight)
    assert sorted(each.name for each in out.parent.iterdir()) == [
        "safetensors",
        "safetensors.transfer_card.json",
        "safetensors.transfer_card.md",
    ]


def onnx_outputs(path, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert entry.name == "images"
    assert entry.shape[1:] == list(inputs.shape[1:])
    return torch.from_numpy(session.run(["outputs"], {"images": inputs.numpy()})[0])


GRAPHS = [
    (Classification, "resnet10_w8", {"transfer": LoRA(2)}),
    (MultiLabelClassification, "test_vit", {}),
    (Classification, "test_efficientnet", {}),
    (Classification, "resnet10_w8", {"transfer": Adapter(2)}),
    (SemanticSegmentation, "resnet10_w8", {}),
    (SemanticSegmentation, "test_vit", {}),
    (SurfaceNormals, "test_convnext", {}),
]
_QUICK = 1


@pytest.mark.parametrize(
    "kind, backbone, more",
    [each if place < _QUICK else pytest.param(*each, marks=pytest.mark.slow) for place, each in enumerate(GRAPHS)],
)
@torch.no_grad()
def test_graphs_give_our_outputs(tmp_path, capsys, kind, backbone, more):
    ours = checkpoint(tmp_path / "a.ckpt", kind, backbone, **more)
    path = exported(tmp_path, "onnx")
    printed = capsys.readouterr().out
    assert "images [batch, 3, 64, 64]; outputs differ by at most " in printed
    assert "by onnxruntime" in printed
    script = torch.jit.load(exported(tmp_path, "torchscript"))
    for number in (1, 4):
        expected = ours(images(number=number))
        assert close(onnx_outputs(path, images(number=number)), expected)
        assert close(script(images(number=number)), expected)


def said(capsys, *arguments):
    assert main(["export", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_exported(tmp_path, capsys, monkeypatch):
    a, out = tmp_path / "a.ckpt", f"--out={tmp_path}/o"
    checkpoint(a, ObjectDetection, "test_vit")
    for form in ("onnx", "torchscript"):
        assert "is not for detection, whose number of boxes varies; use" in said(capsys, a, out, f"--format={form}")
    assert "is for ResNet-18 to -152, and the backbone is test_vit; use --format timm" in said(
        capsys, a, out, "--format=torchvision"
    )
    checkpoint(a, Classification, "resnet10_w8")
    assert "timm has no network 'resnet10_w8'" in said(capsys, a, out, "--format=timm")
    assert "--size is 4; it must be at least 8 px" in said(capsys, a, out, "--format=onnx", "--size=4")
    assert "--size is for the formats onnx and torchscript" in said(capsys, a, out, "--size=64")
    assert "give --out, a new file or folder, or --push hf:USER/NAME" in said(capsys, a)
    assert "--license is 'a b'; give an identifier" in said(capsys, a, out, "--license=a b")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "needs the package onnxscript; install it with: pip install 'lightning-tl[onnx]'" in said(
        capsys, a, out, "--format=onnx"
    )
    checkpoint(a, SemanticSegmentation, "resnet18", 16)
    assert "ResNet-50 or -101 with output stride 8, and this network a resnet18 with 16" in said(
        capsys, a, out, "--format=torchvision"
    )
    checkpoint(a, Classification, "resnet10_w8", transfer=Adapter(2))
    for form in ("torchvision", "timm"):
        assert "has bottleneck adapters, which cannot be merged" in said(capsys, a, out, f"--format={form}")
    checkpoint(a, SemanticSegmentation, "resnet18", 16)
    content = torch.load(a, weights_only=True)
    for change, message in (
        ({"lightning_tl": None}, "needs a checkpoint of this library, which says what its network is"),
        ({"lightning_tl": {"task": "SemanticSegmentatio"}}, "did you mean 'SemanticSegmentation'?"),
        ({"lightning_tl": {"task": "CausalLanguageModel"}}, "is for networks of images"),
        ({"hyper_parameters": {"num_classes": 3, "x": 1}}, "cannot be made with the arguments of checkpoint"),
        ({"hyper_parameters": {"num_classes": 4, "backbone": "resnet18"}}, "does not fit its own Semantic"),
    ):
        torch.save(content | change, a)
        assert message in said(capsys, a, out, "--format=torchscript")
    torch.save(content | {"lightning_tl": {"task": "SemanticSegmentation"}}, a)
    assert "the checkpoint does not say how large its images are: give --size" in said(
        capsys, a, out, "--format=torchscript"
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.ckpt"]


def test_a_damaged_file_of_safetensors(tmp_path):
    from lightning_tl.checkpoint_files import read_checkpoint
    from lightning_tl.errors import UserError

    path = tmp_path / "a.safetensors"
    path.write_bytes((20).to_bytes(8, "little") + b'{"a": {"dtype": "F32"' + b"0" * 30)
    with pytest.raises(UserError, match="damaged, or no file of safetensors"):
        read_checkpoint(path)
