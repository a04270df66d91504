"""The trace of the Hessian, by an estimator that is chosen by what is known about the loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.difference_trace import trace_by_differences
from lightning_tl.measure.estimate import TraceEstimate, combine
from lightning_tl.measure.gauss_newton_trace import GaussNewtonResult, GaussNewtonTrace, run_gauss_newton
from lightning_tl.measure.hvp import Hessian, lacks_double_backward
from lightning_tl.measure.matvec_trace import SKETCH_PRODUCTS, MatvecTrace
from lightning_tl.measure.modify import with_fallback
from lightning_tl.measure.noise_scales import check_scales
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.params import Groups, Layout

TraceMethod = Literal["auto", "gauss-newton", "matvec", "hutchinson"]
METHODS: tuple[TraceMethod, ...] = get_args(TraceMethod)

# The default budgets: where it makes the trace exact, and elsewhere. In small transformers and U-Nets on a CPU eight
# products take 8 to 20 training steps.
EXACT_PRODUCTS, PRODUCTS = 24, 8

Enough = Callable[[float, float], bool]
"""Value and standard error so far → whether that is precise enough to stop."""


def hessian_trace(
    objective: Objective,
    products: int | None = None,
    *,
    scales: Mapping[str, Tensor] | None = None,
    tolerance: float = 0.0,
    max_seconds: float | None = None,
    groups: Groups = None,
    method: TraceMethod = "auto",
    seed: int = 0,
    memory_limit: float = 2.0,
    keep: int = 4,
    memory: Mapping[str, Any] | None = None,
) -> TraceEstimate:
    """Estimate Tr H of an objective's loss, with a standard error, in all and by parameter group.

    Where the loss ends in ``F.cross_entropy``, ``F.mse_loss`` or ``F.binary_cross_entropy_with_logits`` (seen in
    autograd's graph), Tr H is the sum of its Gauss-Newton part and a remainder, and each is estimated by itself
    (:mod:`~lightning_tl.measure.gauss_newton_trace`): exact for piecewise affine networks of few classes (ResNets with
    ReLU). In other networks the error at equal cost is usually smaller than from products of H once the network is
    trained, and about the same near initialisation. Any other loss: Hutchinson or XTrace, depending on the spectrum
    (:mod:`~lightning_tl.measure.matvec_trace`).

    Args:
        objective: Loss, batches and parameters.
        products: The budget, in Hessian-vector products over all batches. Default: 24 where that makes the trace exact,
            else 8.
        scales: √Σ by parameter, as from :func:`~lightning_tl.measure.noise_scales.noise_scales`: one number, or one for
            each index of the first dimension. Also estimate Tr ΣH, the rise of the loss under noise of scale γ over
            ½γ² to second order. It is exact where Tr H is, at no further backward pass; elsewhere it costs as many
            products again. Tr H has the same value with and without it, unless ``tolerance`` or ``max_seconds`` end it.
        tolerance: Stop early once the standard error is below this share of the estimate; 0: spend the budget.
        max_seconds: Stop early after this time (then the result depends on the machine).
        groups: As in :func:`~lightning_tl.measure.params.group_names`.
        method: ``gauss-newton``: by that part and the remainder, an error if the loss is not known; ``matvec``: by
            products of H only; ``hutchinson``: by Hutchinson's estimator only; ``auto``: ``gauss-newton`` if the loss
            is known, else ``matvec``.
        seed: Seed of the probes; equal seeds give equal probes at every measurement of a run.
        memory_limit: GiB that XTrace may hold in vectors.
        keep: With fewer than 12 products: how many vectors to keep for the next measurement to deflate by.
        memory: ``memory`` of the previous estimate of this run.

    Of an objective that substitutes weights (FSDP2, half precision), Hutchinson's estimator by differences of gradients
    (:mod:`~lightning_tl.measure.difference_trace`).

    Raises:
        UserError: An argument is out of range, the scales do not fit the parameters, or the module cannot be
            differentiated (the message says why).

    Sources: Hutchinson 1990; Epperly, Tropp and Webber 2024 (arXiv 2301.07825); Schraudolph 2002 for the
    Gauss-Newton part.
    """
    if products is not None and products < 2:
        raise UserError(f"products={products}: an estimate with a standard error needs at least 2 products")
    if method not in METHODS:
        raise UserError(f"method={method!r} is unknown{nearest(method, METHODS)}")
    start = time.perf_counter()
    memory = dict(memory or {})
    layout = Layout(objective.params, groups)
    sigma = None if scales is None else check_scales(scales, objective.params)

    def enough(value: float, stderr: float) -> bool:
        late = max_seconds is not None and time.perf_counter() - start > max_seconds
        return late or (tolerance > 0 and stderr <= tolerance * abs(value))

    if objective.substitute:
        if method not in ("auto", "hutchinson"):
            raise UserError(
                f"method={method!r} needs weights that can be written, not those of fully_shard, half precision or "
                "substitute=True; use method='auto'"
            )

        def differences() -> dict[str, Any]:
            return trace_by_differences(objective, layout, products or PRODUCTS, enough, seed, sigma)

        by_differences = with_fallback(objective, differences)
        if objective.substitute:
            return TraceEstimate(**{**by_differences, "seconds": time.perf_counter() - start})
    with objective.measuring():
        estimate = None
        if method in ("auto", "gauss-newton"):
            estimate = _gauss_newton(objective, layout, products, enough, seed, memory, sigma)
            if estimate is None and method == "gauss-newton":
                raise UserError(
                    "method='gauss-newton' needs a loss that ends in F.cross_entropy (without label smoothing), "
                    "F.mse_loss or F.binary_cross_entropy_with_logits, with no terms added to it; use method='auto', "
                    "or pass a loss_fn(module, batch) of that form"
                )
        if estimate is None:
            budget = PRODUCTS if products is None else products
            estimate = _matvec(objective, layout, budget, enough, seed, memory, keep, memory_limit, method, sigma)
    return TraceEstimate(**{**estimate, "seconds": time.perf_counter() - start})


def _gauss_newton(
    objective: Objective,
    layout: Layout,
    products: int | None,
    enough: Enough,
    seed: int,
    memory: dict[str, Any],
    scales: list[Tensor] | None,
) -> dict[str, Any] | None:
    """Estimate both parts over all batches; None if the loss of a batch, of any process, is not known."""
    rank, _ = objective.process
    generator = torch.Generator(layout.device).manual_seed(seed + 7919 * rank)
    results: list[list[GaussNewtonResult]] = []
    for index in range(len(objective.batches)):
        trace: GaussNewtonTrace | None = None
        try:
            trace = GaussNewtonTrace(objective, index, layout, generator, scales)
            if trace.outputs is not None and trace.curved and not memory.get("twice_differentiable"):
                trace.remainder()  # raises without a double backward, here, where all processes can still agree
        except RuntimeError as error:
            if not lacks_double_backward(error):
                raise
            trace = None
        known = 1.0 if trace is not None and trace.outputs is not None else 0.0
        if float(objective.reduce(torch.tensor(known, device=layout.device))) < 1.0 or trace is None:
            return None
        generator.manual_seed(seed + 7919 * rank + 104729 * (index + 1))

        def stop(result: GaussNewtonResult) -> bool:
            return enough(float(result.mean().sum()), combine(result.parts())[0])

        budget = products or (EXACT_PRODUCTS if trace.exact_within(EXACT_PRODUCTS) else PRODUCTS)
        results.append(run_gauss_newton(trace, budget, stop, memory.get("variances", {})))
    plain = [first for first, *_ in results]
    variances = {"gauss_newton": plain[0].gauss_newton, "remainder": plain[0].remainder}
    return {
        **_combined(objective, layout, plain),
        "weighted": TraceEstimate(**_combined(objective, layout, [r[1] for r in results])) if scales else None,
        "memory": {
            "twice_differentiable": True,
            "variances": {kind: v for kind, samples in variances.items() if (v := samples.total_variance()) > 0},
        },
    }


def _combined(objective: Objective, layout: Layout, results: list[GaussNewtonResult]) -> dict[str, Any]:
    """Average the results of the batches, over all processes."""
    weights, (_, world) = objective.weights, objective.process
    mean = torch.stack([w * r.mean() for w, r in zip(weights, results, strict=True)]).sum(0)
    parts = [(w * w * v, n) for w, r in zip(weights, results, strict=True) for v, n in r.parts()]
    stderr, degrees = combine(parts)
    by_group = torch.stack([w * w * r.group_variance() for w, r in zip(weights, results, strict=True)]).sum(0)
    # the mean over W independent processes has 1/W of their mean variance
    shared = objective.reduce(torch.cat([mean, by_group / world, torch.tensor([stderr**2 / world])]).to(layout.device))
    shared = shared.cpu()
    mean, by_group, stderr = shared[: len(mean)], shared[len(mean) : -1], float(shared[-1]) ** 0.5
    exact = all(r.exact is not None and not len(r.remainder) for r in results)
    names = list(layout.groups)
    return {
        "value": float(mean.sum()),
        "stderr": stderr,
        "method": "exact" if exact else "gauss-newton",
        "products": sum(w * r.products for w, r in zip(weights, results, strict=True)),
        "degrees": degrees,
        "groups": dict(zip(names, mean.tolist(), strict=True)),
        "group_stderr": dict(zip(names, by_group.sqrt().tolist(), strict=True)),
    }


def _matvec(
    objective: Objective,
    layout: Layout,
    products: int,
    enough: Enough,
    seed: int,
    memory: dict[str, Any],
    keep: int,
    memory_limit: float,
    method: TraceMethod,
    scales: list[Tensor] | None,
) -> dict[str, Any]:
    """Estimate the trace from products of H.

    With few products the subspace of the last measurement is used, so that the probes must be other ones than its.
    """
    count = int(memory.get("measurements", 0))
    if products < SKETCH_PRODUCTS:
        seed += 10_007 * count
    # XTrace holds basis and products in full and probes in one byte
    vectors = int(memory_limit * 2**30 / (layout.size * (2 * layout.dtype.itemsize + 1)))
    with Hessian(objective, differences=bool(memory.get("differences"))) as hessian:

        def estimate(sigma: list[Tensor] | None, memory: dict[str, Any]) -> dict[str, Any]:
            def product(vector: Tensor) -> Tensor:
                tensors = layout.unflatten(vector)
                if sigma is None:
                    return layout.flatten(hessian(tensors))
                image = hessian([v * s for v, s in zip(tensors, sigma, strict=True)])
                return layout.flatten([v * s for v, s in zip(image, sigma, strict=True)])

            before = hessian.products
            generator = torch.Generator(layout.device).manual_seed(seed)
            trace = MatvecTrace(product, layout, generator, products, enough, vectors, memory, keep)
            result = trace.hutchinson() if method == "hutchinson" else trace.run()
            names = list(layout.groups)
            return {
                "value": float(result.groups.sum()),
                "stderr": result.stderr,
                "method": result.method,
                "products": float(hessian.products - before),
                "degrees": result.degrees,
                "groups": dict(zip(names, result.groups.tolist(), strict=True)),
                "group_stderr": dict(zip(names, result.group_stderr.tolist(), strict=True)),
                "memory": result.memory,
            }

        result = estimate(None, memory)
        if scales is not None:
            result["weighted"] = TraceEstimate(**estimate(scales, memory.get("weighted", {})))
            result["memory"] = {**result["memory"], "weighted": result["weighted"].memory}
        result["memory"] |= {"differences": hessian.differences, "measurements": count + 1}
        return result
