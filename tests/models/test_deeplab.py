from __future__ import annotations

import pytest
import torch
from models.networks import backbone_and_head, randomised
from torchvision.models.segmentation import deeplabv3_resnet50

from lightning_tl.models import build_backbone
from lightning_tl.tasks import SemanticSegmentation

MOVES = {"backbone.": "backbone.", "classifier.": "head.classifier.", "aux_classifier.": "head.aux_classifier."}


def test_outputs_are_torchvisions():
    theirs = randomised(deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)).double()
    ours = SemanticSegmentation(5, backbone="resnet50").double().eval()
    ours.load_state_dict(backbone_and_head(theirs.state_dict(), MOVES), strict=True)
    images = torch.randn(2, 3, 72, 80, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        expected = theirs(images)
        main, aux = ours.outputs_and_aux(images)
        torch.testing.assert_close(ours(images), expected["out"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(main, expected["out"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(aux, expected["aux"], rtol=1e-9, atol=1e-9)
    assert expected["out"].std() > 0.01
    assert expected["aux"].std() > 0.01


def test_state_dict_goes_back_to_torchvision():
    ours = SemanticSegmentation(5, backbone="resnet50")
    back = {new: old for old, new in MOVES.items()}
    with torch.device("meta"):
        theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    result = theirs.load_state_dict(backbone_and_head(ours.state_dict(), back), assign=True, strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])


@pytest.mark.parametrize("name", ["resnet10_w16", "resnet18"])
def test_dilated_and_plain_weights_are_interchangeable(name):
    dilated, plain = build_backbone(name, output_stride=8), build_backbone(name)
    plain.load_state_dict(dilated.state_dict(), strict=True)
    dilated.load_state_dict(plain.state_dict(), strict=True)
    assert sum(module.dilation != (1, 1) for module in dilated.modules() if isinstance(module, torch.nn.Conv2d)) > 2
