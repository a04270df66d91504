from __future__ import annotations

import numpy as np
import pytest
import torch
from tasks.toy import Toy, trainer, whole

from lightning_tl.errors import UserError
from lightning_tl.tasks import SemanticSegmentation


def masks(seed, shape=(3, 8, 9), classes=4):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < 0.2] = 255
    return target


def test_score_is_the_mean_over_classes_of_all_pixels():
    task = SemanticSegmentation(6, backbone="resnet10_w16")  # class 4 is only predicted, class 5 is nowhere
    metric = task.build_metric()
    rows = []
    for seed in range(3):
        target = masks(seed)
        logits = torch.randn(3, 6, 8, 9, generator=torch.Generator().manual_seed(seed + 10))
        logits[:, 5] = -100
        metric.update(logits, target)
        rows.append((logits.argmax(1).numpy()[target != 255], target.numpy()[target != 255]))
    found, true = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    ratios = [((found == k) & (true == k)).sum() / ((found == k) | (true == k)).sum() for k in range(5)]
    assert float(metric.compute()) == pytest.approx(np.mean(ratios), rel=1e-6)
    assert ratios[4] == 0


def test_loss_is_the_mean_over_pixels_that_count():
    task, target = SemanticSegmentation(4, backbone="resnet10_w16"), masks(0)
    logits = torch.randn(3, 4, 8, 9, generator=torch.Generator().manual_seed(1))
    chances = np.exp(logits.double().numpy())
    chances /= chances.sum(1, keepdims=True)
    kept = target.numpy() != 255
    index = np.where(kept, target.numpy(), 0)
    expected = -np.log(np.take_along_axis(chances, index[:, None], 1)[:, 0][kept]).mean()
    assert float(task.loss(logits, target)) == pytest.approx(expected, rel=1e-5)
    nothing = task.loss(logits.requires_grad_(), torch.full_like(target, 255))
    nothing.backward()
    assert float(nothing) == 0
    assert logits.grad.abs().sum() == 0


def test_training_adds_half_the_auxiliary_loss():
    torch.manual_seed(0)
    task = SemanticSegmentation(4, backbone="resnet10_w16").eval()
    images, target = torch.rand(2, 3, 64, 64), masks(0, (2, 64, 64))
    main, aux = task.outputs_and_aux(images)
    outputs, loss = task.outputs_and_loss(images, target, "train")
    torch.testing.assert_close(outputs, main)
    torch.testing.assert_close(loss, task.loss(main, target) + 0.5 * task.loss(aux, target))
    assert not torch.allclose(main, aux)
    assert outputs.shape == (2, 4, 64, 64)


def test_the_auxiliary_head_has_ten_times_the_learning_rate(tmp_path):
    task = SemanticSegmentation(4, backbone="resnet10_w16", optimizer=lambda p: torch.optim.SGD(p, lr=0.02))
    rest, aux = task.configure_optimizers().param_groups
    assert (rest["lr"], aux["lr"]) == pytest.approx((0.02, 0.2))
    assert {id(p) for p in aux["params"]} == {id(p) for p in task.head.aux_classifier.parameters()}
    both = rest["params"] + aux["params"]
    assert sorted(map(id, both)) == sorted(map(id, task.parameters()))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"aux_weight": -1.0}, r"model.aux_weight is -1.0; it must be at least 0"),
        ({"aux_lr_factor": -1.0}, r"model.aux_lr_factor is -1.0; it must be at least 0"),
        ({"output_stride": 4}, r"model.output_stride is 4; it must be one of \(8, 16, 32\)"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(UserError, match=message):
        SemanticSegmentation(4, backbone="resnet10_w16", **options)


def test_evaluation_images_may_differ_in_size(tmp_path):
    task = SemanticSegmentation(4, backbone="resnet10_w16")
    data = [(torch.rand(1, 3, *size), masks(0, (1, *size))) for size in ((40, 64), (56, 40))]
    (result,) = trainer(tmp_path).test(task, whole(data), verbose=False)
    assert 0 <= result["test/score"] == pytest.approx(1 - result["test/error"])


def test_one_image_at_a_time_cannot_train(tmp_path):
    task = SemanticSegmentation(4, backbone="resnet10_w16")
    with pytest.raises(UserError, match=r"cannot train on batches of one image .*set data.batch_size to at least 2"):
        trainer(tmp_path).fit(task, Toy("semseg", batch_size=1))
