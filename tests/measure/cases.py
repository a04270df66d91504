"""Small networks in float64 and their Hessians, computed densely by torch.func as an independent reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from lightning_tl.measure import Objective, TraceEstimate, hessian_trace, noise_scales


class ConvBN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, stride=2)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        return self.head(F.relu(self.conv2(x) + x).mean((2, 3)))


class Attention(nn.Module):
    """A causal language model of one block: embedding, LayerNorm, softmax attention, GELU, tied to no library."""

    def __init__(self, vocabulary: int = 7, width: int = 8, heads: int = 2, tied: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, d))
        return self.head(x + self.mlp(x))


@dataclass
class Case:
    objective: Objective
    hessian: Tensor
    names: list[str]

    @property
    def trace(self) -> float:
        return float(self.hessian.trace())

    def group_trace(self, prefix: str) -> float:
        total, at = 0.0, 0
        for name, p in self.objective.params.items():
            if name.startswith(prefix):
                total += float(self.hessian.diagonal()[at : at + p.numel()].sum())
            at += p.numel()
        return total


def cross_entropy(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(module(x), y)


def mse(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.mse_loss(module(x), y)


def bce(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.binary_cross_entropy_with_logits(module(x), y)


def language(module: nn.Module, ids: Tensor) -> Tensor:
    logits = module(ids)[:, :-1]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def smoothed(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(module(x), y, label_smoothing=0.1)


def build(name: str, steps: int = 0, seed: int = 0) -> Objective:
    """Build a case's module and batches; ``steps`` of training make its Hessian that of a trained network."""
    torch.manual_seed(seed)
    x, image = torch.randn(12, 6).double(), torch.randn(10, 1, 6, 6).double()
    ids = torch.randint(0, 7, (4, 6))
    labels = torch.randint(0, 3, (12,))
    modules: dict[str, tuple[nn.Module, Any, list[Any]]] = {
        "cross_entropy": (_mlp(nn.ReLU(), 3), cross_entropy, [(x[:8], labels[:8]), (x[8:], labels[8:])]),
        "tanh": (_mlp(nn.Tanh(), 3), cross_entropy, [(x, labels)]),
        "mse": (_mlp(nn.GELU(), 2), mse, [(x, torch.randn(12, 2).double())]),
        "bce": (_mlp(nn.ReLU(), 2), bce, [(x, torch.rand(12, 2).double())]),
        "smoothed": (_mlp(nn.Tanh(), 3), smoothed, [(x, labels)]),
        "conv_bn": (ConvBN(), cross_entropy, [(image, labels[:10])]),
        "attention": (Attention(), language, [ids]),
        "tied": (Attention(tied=True), language, [ids]),
    }
    module, loss_fn, batches = modules[name]
    module.double().train()
    for _ in range(2 if name == "conv_bn" else 0):
        module(image)  # running statistics of its own
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    module.eval()
    for _ in range(steps):
        optimizer.zero_grad()
        sum(loss_fn(module, batch) for batch in batches).backward()
        optimizer.step()
    optimizer.zero_grad()
    module.train()
    return Objective(module, loss_fn, batches, weights=[8, 4] if len(batches) == 2 else None)


def exact(objective: Objective) -> Case:
    """Compute the dense Hessian in eval mode by torch.func, over the objective's parameters."""
    module, params = objective.module, {n: p.detach().clone() for n, p in objective.params.items()}
    names, shapes = list(params), [p.shape for p in params.values()]
    training = module.training
    module.eval()

    def loss(flat: Tensor) -> Tensor:
        pieces = flat.split([s.numel() for s in shapes])
        values = {n: piece.view(s) for n, piece, s in zip(names, pieces, shapes, strict=True)}

        def call(*inputs: Any) -> Tensor:
            return torch.func.functional_call(module, values, inputs, tie_weights=True)

        return sum(
            w * objective.loss_fn(call, batch) for w, batch in zip(objective.weights, objective.batches, strict=True)
        )

    flat = torch.cat([p.reshape(-1) for p in params.values()])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = torch.autograd.functional.hessian(loss, flat)
    module.train(training)
    return Case(objective, dense, names)


def estimates(objective: Objective, seeds: int = 200, **options: Any) -> list[TraceEstimate]:
    return [hessian_trace(objective, seed=seed, **options) for seed in range(seeds)]


def check_unbiased_and_honest(results: list[TraceEstimate], trace: float) -> None:
    """Mean within 4 standard errors; the 95 % interval covers 90 to 99 %, widened by the counting error."""
    values = torch.tensor([result.value for result in results], dtype=torch.float64)
    assert abs(float(values.mean()) - trace) < 4 * float(values.std()) / len(values) ** 0.5 + 1e-9 * abs(trace)
    covered = sum(result.interval()[0] <= trace <= result.interval()[1] for result in results)
    low, high = stats.binom.ppf([0.001, 0.999], len(results), [0.90, 0.99])
    assert low <= covered <= high


def scales_of(objective: Objective, kind: str, seed: int = 0) -> dict[str, Tensor]:
    """Return scales by parameter: as noise_scales finds them, or random ones, some 0, by tensor or by row."""
    if kind in ("init", "relative", "isotropic"):
        return noise_scales(objective.module, objective.params, kind)
    generator = torch.Generator().manual_seed(seed)
    scales = {}
    for index, (name, p) in enumerate(objective.params.items()):
        shape = (p.shape[0], *(1,) * (p.dim() - 1)) if kind == "rows" else ()
        scales[name] = (index % 4 != 3) * torch.rand(shape, generator=generator, dtype=torch.float64)
    return scales


def weighted(case: Case, scales: dict[str, Tensor], prefix: str = "") -> float:
    """Return Tr(ΣH) of a dense Hessian over the parameters whose names start with a prefix."""
    total, at = 0.0, 0
    for name, p in case.objective.params.items():
        diagonal = case.hessian.diagonal()[at : at + p.numel()].view(p.shape)
        total += float((scales[name] ** 2 * diagonal).sum()) if name.startswith(prefix) else 0.0
        at += p.numel()
    return total


def _mlp(activation: nn.Module, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), activation, nn.Linear(7, 5), activation, nn.Linear(5, outputs))
