"""Tr H = Tr G + Tr R where the loss on the outputs is known: the Gauss-Newton part, and a remainder.

Tr G = E‖Jₙᵀ v‖² summed over samples, E[v vᵀ] = Λ: per-sample gradient norms, one backward pass per draw; unit
directions instead of draws make it exact. Tr R is estimated by Hutchinson's method on products of ⟨∂L/∂f, f(θ)⟩, over
the parameters in which the outputs are not piecewise affine; if there are none, Tr R = 0.

Tr ΣH, for a diagonal Σ, is the trace in the coordinates Σ^-½θ: the norms are those of Σ^½Jₙᵀv, from the same backward
pass, and the products are those of Σ^½RΣ^½, in addition to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_tl.measure.affine import nonaffine
from lightning_tl.measure.estimate import Samples
from lightning_tl.measure.hvp import check_twice_differentiable
from lightning_tl.measure.loss_outputs import Outputs, find_outputs
from lightning_tl.measure.norm_check import wrong_norms
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.params import Layout
from lightning_tl.measure.sample_norms import SampleNorms
from lightning_tl.measure.sign_probes import SignProbes

# The price of one backward pass with norms, in Hessian-vector products.
PASS_COST = 0.6
# Odd and even layers are probed separately if that has less than this share of the variance, at equal work.
APART_BELOW = 0.85
# From this budget on each part has at least three estimates, as two hardly give a standard error; and only with so many
# probes are the layers probed separately, two probes for each estimate.
_FOR_THREE = 6
# From this budget on it is divided by the variances of the measurement before.
_FOR_PRIOR = 12

T = TypeVar("T", Tensor, Tensor | None)


class Remainder(NamedTuple):
    """One estimate of Tr R.

    Attributes:
        value: zᵀRz by group, [groups]; R without the blocks between odd and even layers, if these were probed apart.
        probe: z by curved parameter.
        image: Rz by curved parameter, None for zeros.
        ratio: The variance of probing separately over that of probing together.
    """

    value: Tensor
    probe: list[Tensor]
    image: list[Tensor | None]
    ratio: float


class GaussNewtonTrace:
    """Both parts for one micro-batch; its graph is kept as long as the object.

    Args:
        objective: Inside its ``measuring()`` context.
        index: The micro-batch.
        layout: The groups.
        generator: Draws directions and probes; on the parameters' device.
        scales: √Σ by parameter, from :func:`~lightning_tl.measure.noise_scales.check_scales`: also estimate Tr ΣH.

    Attributes:
        outputs: The outputs behind the loss; None if the loss is not one of those known: then nothing can be estimated.
        curved: Indices of the parameters in which the outputs are not piecewise affine.
        others: Indices of the parameters without per-sample norms; they increase the variance, without bias.
    """

    def __init__(
        self,
        objective: Objective,
        index: int,
        layout: Layout,
        generator: torch.Generator,
        scales: list[Tensor] | None = None,
    ) -> None:
        self.layout, self.generator, self.scales = layout, generator, scales
        # a generator of its own, so that Tr H has the same draws with and without scales
        self._weighted = torch.Generator(generator.device).manual_seed(generator.initial_seed() + 15_485_863)
        self.tensors: list[Tensor] = list(objective.tensors)
        self.norms = SampleNorms(objective.module, objective.params)
        loss = self._recorded_loss(objective, index)
        self.outputs: Outputs | None = find_outputs(loss)
        self.curved: list[int] = []
        self.others: list[int] = []
        self.samples: int | None = None
        self._first: list[Tensor | None] | None = None
        self._sides: list[int] = []
        if self.outputs is None:
            return
        names = nonaffine(self.outputs.edge, objective.params)
        self.curved = [i for i, name in enumerate(objective.params) if name in names]
        rows = self.outputs.shape[0] if len(self.outputs.shape) else 1
        samples = self.norms.samples
        self.samples = samples if samples and rows % samples == 0 else None
        if self.samples is None:
            self.norms.dropped = set(range(len(self.tensors)))
        else:
            self.norms.dropped = wrong_norms(self.norms, self.outputs, self.tensors, self.samples, generator)
        covered = self.norms.covered
        self.others = [i for i in range(len(self.tensors)) if i not in covered]

    @property
    def rank(self) -> int | None:
        """How many unit directions make Tr G exact; None unless samples have one row of outputs, and all have norms."""
        one_row = self.outputs is not None and self.samples is not None and self.outputs.shape[0] == self.samples
        return self.outputs.rank if self.outputs is not None and one_row and not self.others else None

    def exact_within(self, products: float) -> bool:
        """Return whether a budget makes Tr H exact."""
        return not self.curved and self.rank is not None and self.rank * PASS_COST <= products

    @property
    def measures(self) -> int:
        """How many traces are estimated: Tr H, and Tr ΣH with scales."""
        return 1 if self.scales is None else 2

    def has_remainder(self, weighted: bool) -> bool:
        """Return whether Tr R, or Tr ΣR, needs products."""
        if not weighted or self.scales is None:
            return bool(self.curved)
        return any(float(self.scales[i].max()) > 0 for i in self.curved)

    def gauss_newton(self, direction: Tensor) -> list[Tensor]:
        """Return ‖Jᵀv‖² summed over samples, by group [groups], for one direction v of the outputs' shape.

        With scales, a second tensor: ‖Σ^½Jᵀv‖².
        """
        return [self._grouped(part) for part in self._squared(direction, self.others, weighted=True)]

    def remainder(self, apart: bool = False, weighted: bool = False) -> Remainder:
        """Return zᵀRz by group, [groups], for one random z over the curved parameters.

        Successive layers multiply each other, so that most of ‖R‖² is in the blocks between them, which contribute
        nothing to the trace. Probing odd and even layers separately, z₁ᵀRz₁ + z₂ᵀRz₂, avoids that noise at the price of
        two products.

        Args:
            apart: Probe the two halves separately.
            weighted: Of Σ^½RΣ^½ instead.

        Returns:
            The estimate with its probe and product, and the variance of probing separately over that of probing
            together, at equal work (1 unless ``apart``).
        """
        self.prepare_remainder()
        scales = [self.scales[i] for i in self.curved] if weighted and self.scales is not None else None
        generator = self.generator if scales is None else self._weighted
        probe = [_signs(self.tensors[i], generator) for i in self.curved]
        if not apart:
            image = _times(self._images(_times(probe, scales)), scales)
            return Remainder(self._grouped(self._dots(probe, image)), probe, image, 1.0)
        joined: list[Tensor | None] = [None] * len(probe)
        within, between = 0.0, 0.0
        for half in (0, 1):
            part = [z if side == half else torch.zeros_like(z) for z, side in zip(probe, self._sides, strict=True)]
            image = _times(self._images(_times(part, scales)), scales)
            for i, (piece, side) in enumerate(zip(image, self._sides, strict=True)):
                energy = _energy(piece)
                within, between = (within + energy, between) if side == half else (within, between + energy)
                if side == half:
                    joined[i] = piece
        ratio = 2 * within / max(within + between, 1e-300)
        return Remainder(self._grouped(self._dots(probe, joined)), probe, joined, ratio)

    def prepare_remainder(self) -> None:
        """Build the graph of ∇⟨∂L/∂f, f(θ)⟩, once.

        Raises:
            RuntimeError: An operation has no double backward.
        """
        assert self.outputs is not None
        if self._first is None:
            curved = [self.tensors[i] for i in self.curved]
            at, by = [self.outputs.edge], [self.outputs.residual]
            self._first = list(torch.autograd.grad(at, curved, by, create_graph=True, allow_unused=True))
            check_twice_differentiable(self._first)
            matrices = 0
            for p in curved:
                matrices += p.dim() > 1
                self._sides.append(max(matrices - 1, 0) % 2)  # vectors go with the matrix before them

    def _images(self, probes: list[Tensor]) -> list[Tensor | None]:
        assert self._first is not None
        pairs = [(g, z) for g, z in zip(self._first, probes, strict=True) if g is not None and g.requires_grad]
        if not pairs:
            return [None] * len(probes)
        curved = [self.tensors[i] for i in self.curved]
        grads, directions = [g for g, _ in pairs], [z for _, z in pairs]
        return list(torch.autograd.grad(grads, curved, directions, retain_graph=True, allow_unused=True))

    def _dots(self, probes: list[Tensor], images: list[Tensor | None]) -> Tensor:
        total = torch.zeros(len(self.tensors), dtype=torch.float64)
        for index, probe, image in zip(self.curved, probes, images, strict=True):
            if image is not None:
                total[index] = (probe * image).sum(dtype=torch.float64).item()
        return total

    def _squared(self, direction: Tensor, whole: list[int], weighted: bool = False) -> list[Tensor]:
        """Return Σ_n ‖g_n‖² by covered parameter and ‖Σ_n g_n‖² by those in ``whole``; then the same of Σ^½g."""
        assert self.outputs is not None
        edges = self.norms.edges if self.samples else []
        inputs: list[Any] = [*edges, *(self.tensors[i] for i in whole)]
        grads: tuple[Tensor | None, ...] = ()
        if inputs:
            grads = torch.autograd.grad([self.outputs.edge], inputs, [direction], retain_graph=True, allow_unused=True)
        at_edges, of_whole = list(grads[: len(edges)]), dict(zip(whole, grads[len(edges) :], strict=True))
        energies = torch.zeros(len(self.tensors), dtype=torch.float64)
        if self.samples:
            energies = self.norms.norms(at_edges, self.samples)
        for index, grad in of_whole.items():
            energies[index] = _energy(grad)
        if not weighted or self.scales is None:
            return [energies]
        rows = {i: scale for i, scale in enumerate(self.scales) if scale.dim()}
        scaled = energies * torch.tensor([0.0 if s.dim() else float(s) ** 2 for s in self.scales], dtype=torch.float64)
        if self.samples and rows:
            scaled += self.norms.norms(at_edges, self.samples, rows)
        for index in rows.keys() & of_whole.keys():
            grad = of_whole[index]
            scaled[index] = 0.0 if grad is None else _energy(grad * rows[index])
        return [energies, scaled]

    def _recorded_loss(self, objective: Objective, index: int) -> Tensor:
        """Return the loss of a batch from a recorded forward pass."""
        try:
            with self.norms.recording():
                loss = objective.batch_loss(index)
            if not self.norms.expanded or _close(loss, objective.batch_loss(index, graph=False)):
                return loss
        except Exception:  # a repeated output has a shape that the module may refuse with any error
            if not self.norms.expanded:
                raise
        with self.norms.recording(expand=False):
            return objective.batch_loss(index)

    def _grouped(self, by_parameter: Tensor) -> Tensor:
        return torch.tensor(list(self.layout.by_group(by_parameter).values()), dtype=torch.float64)


class GaussNewtonResult:
    """The result of :func:`run_gauss_newton` for one micro-batch, of Tr H or of Tr ΣH.

    Attributes:
        gauss_newton: Estimates of Tr G by group.
        remainder: Estimates of Tr R by group; empty where Tr R = 0.
        exact: Tr G by group where it was computed exactly, else None.
        products: The work, in products.
    """

    def __init__(self) -> None:
        self.gauss_newton, self.remainder = Samples(), SignProbes()
        self.exact: Tensor | None = None
        self.products = 0.0
        self.probes = 0

    def mean(self) -> Tensor:
        """Return the estimate by group, [groups]."""
        first = self.gauss_newton.mean() if self.exact is None else self.exact
        return first + self.remainder.mean() if len(self.remainder) else first

    def parts(self) -> list[tuple[float, int]]:
        """Return variance and number of estimates of the parts that are not exact."""
        sampled = [self.remainder] if self.exact is not None else [self.remainder, self.gauss_newton]
        return [(samples.total_variance(), len(samples)) for samples in sampled]

    def group_variance(self) -> Tensor:
        """Return the variance of the mean by group, [groups]."""
        total = torch.zeros_like(self.mean())
        for samples in (self.remainder, self.gauss_newton):
            if len(samples) > 1 and not (samples is self.gauss_newton and self.exact is not None):
                total = total + samples.group_variance() / len(samples)
        return total


def run_gauss_newton(
    trace: GaussNewtonTrace, products: float, enough: Callable[[GaussNewtonResult], bool], prior: Mapping[str, float]
) -> list[GaussNewtonResult]:
    """Estimate Tr G and Tr R with a budget; with scales also Tr ΣG, from the same draws, and Tr ΣR, by more products.

    Args:
        trace: With known outputs.
        products: The budget in products; a pass for G costs :data:`PASS_COST`.
        enough: Called with each result; True for all of them stops early.
        prior: ``gauss_newton`` and ``remainder``: variances of single estimates in the previous measurement, by which
            the work is divided between the two.

    Returns:
        The result of Tr H, and with scales that of Tr ΣH.
    """
    assert trace.outputs is not None
    results, rank = [GaussNewtonResult() for _ in range(trace.measures)], trace.rank
    share = products if not trace.curved else min(0.7 * products, products - 4)
    if rank is not None and rank * PASS_COST <= share:
        units = [trace.gauss_newton(trace.outputs.unit_direction(c, trace.generator)) for c in range(rank)]
        for result, unit in zip(results, zip(*units, strict=True), strict=True):
            result.exact = torch.stack(unit).sum(0)
        results[0].products += rank * PASS_COST
        if not trace.curved:
            return results
    exact = results[0].exact is not None
    draws, probes = _allocation(products - results[0].products, bool(trace.curved), prior, exact=exact)
    budgets = [probes if trace.has_remainder(weighted=index == 1) else 0 for index in range(len(results))]
    apart, turn = [budget >= _FOR_THREE for budget in budgets], 0
    while True:
        wants_draw = len(results[0].gauss_newton) < draws
        wants_probe = [
            r.probes < budget or len(r.remainder) < 2 * bool(budget) for r, budget in zip(results, budgets, strict=True)
        ]
        if not wants_draw and not any(wants_probe):
            break
        if wants_draw:
            direction = trace.outputs.random_direction(trace.generator)
            for result, value in zip(results, trace.gauss_newton(direction), strict=True):
                result.gauss_newton.add(value)
        for index, result in enumerate(results):
            if not wants_probe[index]:
                continue
            # the first pair decides which way is better, by energies that hardly depend on the probe
            found = trace.remainder(apart[index], weighted=index == 1)
            result.remainder.add_probe(found.value, found.probe, found.image)
            result.probes += 2 if apart[index] else 1
            if turn == 0:
                apart[index] = found.ratio < APART_BELOW
        turn += 1
        if turn > 2 and all(enough(result) for result in results):
            break
    for result in results:
        result.products += result.probes
    results[0].products += PASS_COST * len(results[0].gauss_newton)
    return results


def _allocation(products: float, curved: bool, prior: Mapping[str, float], exact: bool) -> tuple[int, int]:
    """Return how many draws for G and probes for R the budget pays for.

    The best share is proportional to √variance · √price. The variances are those of the previous measurement: counts
    that depend on the samples themselves bias the mean of skewed samples (by a third of the error, in a trial). A small
    budget is halved, as the variances of few samples say little.
    """
    fewest = 3 if products >= _FOR_THREE else 2
    if not curved:
        return max(fewest, round(products / PASS_COST)), 0
    if exact:
        return 0, max(fewest, round(products))
    share = 0.5
    if products >= _FOR_PRIOR and prior.get("gauss_newton", 0) > 0 and prior.get("remainder", 0) > 0:
        of_g, of_r = (prior["gauss_newton"] * PASS_COST) ** 0.5, prior["remainder"] ** 0.5
        share = min(max(of_g / (of_g + of_r), 0.15), 0.85)
    return max(fewest, round(share * products / PASS_COST)), max(fewest, round((1 - share) * products))


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator, device=like.device, dtype=torch.int8)
    return bits.to(like.dtype).mul_(2).sub_(1)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.detach(), b, rtol=1e-4, atol=1e-9)


def _energy(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.square().sum(dtype=torch.float64).item()


def _times(tensors: Sequence[T], scales: Sequence[Tensor] | None) -> list[T]:
    if scales is None:
        return list(tensors)
    return [t if t is None else t * scale for t, scale in zip(tensors, scales, strict=True)]
