from __future__ import annotations

import pytest
import torch
from models.networks import backbone_and_head, randomised
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from lightning_tl.errors import UserError
from lightning_tl.tasks import ObjectDetection

MOVES = {
    "backbone.body.": "backbone.",
    "backbone.fpn.": "head.fpn.",
    "rpn.": "head.rpn.",
    "roi_heads.": "head.roi_heads.",
}
SIZE = (96, 128)


def torchvisions(**more):
    """Without resizing and standardising, which is the data module's part, and with batch norm that is trained."""
    return fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        trainable_backbone_layers=5,
        min_size=SIZE[0],
        max_size=SIZE[1],
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        **more,
    )


def data():
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(3, *SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    targets = [
        {"boxes": torch.tensor([[10.0, 12, 60, 70], [50, 5, 120, 50]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return images, targets


@pytest.fixture(scope="module")
def both():
    """Both networks in double precision: a rounding error may let another region survive, or be drawn."""
    theirs = randomised(torchvisions(box_score_thresh=0.0, box_batch_size_per_image=32))
    ours = ObjectDetection(
        3, backbone="resnet50", detector={"box_score_thresh": 0.0, "box_batch_size_per_image": 32}
    ).eval()
    ours.load_state_dict(backbone_and_head(theirs.state_dict(), MOVES), strict=True)
    return ours.double(), theirs.double()


def test_detections_are_torchvisions(both):
    ours, theirs = both
    images, _ = data()
    with torch.no_grad():
        detections, expected = ours(images), theirs(images)
    for a, b in zip(detections, expected, strict=True):
        assert len(b["boxes"]) == 100
        assert torch.equal(a["labels"], b["labels"])
        torch.testing.assert_close(a["boxes"], b["boxes"], rtol=1e-6, atol=1e-6)  # px
        torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-6, atol=1e-9)


def test_losses_and_gradients_are_torchvisions(both):
    ours, theirs = (net.train() for net in both)
    images, targets = data()
    try:
        batch, scaled = theirs.transform(images, targets)  # draws a size, even where there is one alone
        torch.manual_seed(0)
        maps = theirs.backbone(batch.tensors)
        proposals, rpn_losses = theirs.rpn(batch, maps, scaled)
        expected = rpn_losses | theirs.roi_heads(maps, proposals, batch.image_sizes, scaled)[1]
        torch.manual_seed(0)
        batch, pyramid = ours.pyramid(images)
        found = ours.head.losses(pyramid, batch, targets)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)
            assert value > 0
        sum(found.values()).backward()
        sum(expected.values()).backward()
        theirs_grads = {n: p.grad for n, p in theirs.named_parameters()}
        assert all(gradient is not None for gradient in theirs_grads.values())
        named = backbone_and_head(theirs_grads, MOVES)
        for name, parameter in ours.named_parameters():  # every layer is trained
            torch.testing.assert_close(parameter.grad, named[name], rtol=1e-6, atol=1e-9)
    finally:
        ours.eval(), theirs.eval()


def test_images_of_other_sizes_are_padded(both):
    ours, _ = both
    images = [torch.rand(3, 40, 70, dtype=torch.float64), torch.rand(3, 64, 50, dtype=torch.float64)]
    batch = ours.head.image_list(images)
    assert batch.tensors.shape == (2, 3, 64, 96)
    assert batch.image_sizes == [(40, 70), (64, 50)]
    assert torch.equal(batch.tensors[0, :, :40, :70], images[0])
    assert batch.tensors[0, :, 40:].abs().sum() == 0
    with torch.no_grad():
        detections = ours(images)
    assert (detections[0]["boxes"].amax(0) <= torch.tensor([70.0, 40, 70, 40])).all()


@pytest.mark.parametrize(
    "options,message",
    [
        ({"anchor_sizes": (8, 16)}, r"model.anchor_sizes is \[8, 16\]; it must be five sizes in px, one per level"),
        ({"anchor_sizes": (0, 1, 2, 3, 4)}, r"model.anchor_sizes is \[0, 1, 2, 3, 4\]"),
        ({"fpn_channels": 0}, r"model.fpn_channels is 0; it must be at least 1"),
        ({"representation_size": 0}, r"model.representation_size is 0; it must be at least 1"),
        ({"detector": {"box_nms_tresh": 0.4}}, r"no option 'box_nms_tresh'; did you mean 'box_nms_thresh'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        ObjectDetection(3, backbone="resnet10_w16", **options)
