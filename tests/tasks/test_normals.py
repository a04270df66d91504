from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_tl.tasks import SurfaceNormals
from lightning_tl.tasks.normals import AngularErrors


def normals(seed, shape=(3, 10, 12), holes=0.3):
    """Unit vectors with some missing, float64."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((shape[0], 3, *shape[1:]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    missing = rng.random(shape) < holes
    vectors[np.broadcast_to(missing[:, None], vectors.shape)] = 0
    return vectors, ~missing


def angles(predicted, true, valid):
    unit = predicted / np.linalg.norm(predicted, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip((unit * true).sum(1)[valid], -1, 1)))


def test_loss_is_its_formula():
    true, valid = normals(0)
    rng = np.random.default_rng(1)
    predicted = 3 * rng.standard_normal(true.shape)
    unit = predicted / np.linalg.norm(predicted, axis=1, keepdims=True)
    expected = (1 - (unit * true).sum(1))[valid].mean()
    task = SurfaceNormals(3, backbone="resnet10_w16")
    loss = task.loss(torch.tensor(predicted, dtype=torch.float32), torch.tensor(true, dtype=torch.float32))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_no_valid_pixel_is_no_loss_and_no_gradient():
    task = SurfaceNormals(3, backbone="resnet10_w16")
    outputs = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = task.loss(outputs, torch.zeros(2, 3, 4, 4))
    loss.backward()
    assert float(loss) == 0
    assert outputs.grad.abs().sum() == 0


@pytest.mark.parametrize("spread", [0.05, 0.4, 5.0])
def test_angular_errors_are_numpys(spread):
    metric, found = AngularErrors(), []
    for seed in range(3):
        true, valid = normals(seed)
        predicted = true + spread * np.random.default_rng(seed + 10).standard_normal(true.shape)
        metric.update(torch.tensor(predicted, dtype=torch.float32), torch.tensor(true, dtype=torch.float32))
        found.append(angles(predicted, true, valid))
    found = np.concatenate(found)
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values["mean_angle"] == pytest.approx(found.mean(), rel=1e-4)
    assert values["score"] == pytest.approx(1 - found.mean() / 180, rel=1e-4)
    ranked = np.sort(found)
    assert values["median_angle"] == pytest.approx(ranked[(len(ranked) + 1) // 2 - 1], abs=0.011)
    for threshold in (11.25, 22.5, 30):
        assert values[f"within_{threshold:g}"] == pytest.approx((found < threshold).mean(), abs=1e-6)


def test_small_angles_are_exact():
    true = torch.zeros(1, 3, 1, 2)
    true[:, 2] = 1
    predicted = true.clone()
    predicted[0, 0] = np.tan(np.radians(0.02))
    metric = AngularErrors()
    metric.update(predicted, true)
    assert float(metric.compute()["mean_angle"]) == pytest.approx(0.02, rel=1e-4)


def test_outputs_are_unit_vectors():
    task = SurfaceNormals(3, backbone="resnet10_w16").eval()
    with torch.no_grad():
        outputs = task(torch.rand(2, 3, 64, 48))
    assert outputs.shape == (2, 3, 64, 48)
    torch.testing.assert_close(outputs.norm(dim=1), torch.ones(2, 64, 48))
