"""Tr H where the loss on the outputs is known: Gauss-Newton part and remainder, each by what suits it.

Tr G = E‖Jₙᵀ v‖² summed over samples, E[v vᵀ] = Λ: per-sample gradient norms, one backward pass a draw; unit directions
instead of draws make it exact. Tr R by Hutchinson on products of ⟨∂L/∂f, f(θ)⟩, over the parameters in which the
outputs are not piecewise affine; where there are none, Tr R = 0.

Tr ΣH, for a diagonal Σ, is the trace in the coordinates Σ^-½θ: the norms are those of Σ^½Jₙᵀv, in the same backward
pass, and the products those of Σ^½RΣ^½, which are apart from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_tl.measure.affine import nonaffine
from lightning_tl.measure.estimate import Samples
from lightning_tl.measure.hvp import check_twice_differentiable
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.outputs import Outputs, find_outputs
from lightning_tl.measure.params import Layout
from lightning_tl.measure.samplenorms import SampleNorms

# The price of one backward pass with norms, in Hessian-vector products.
PASS_COST = 0.6
_CHECK_TOLERANCE = 1e-3
# Odd and even layers are probed apart where that has less than this share of the variance, at equal work.
APART_BELOW = 0.85

T = TypeVar("T", Tensor, Tensor | None)


class SplitTrace:
    """The split for one micro-batch; its graph is kept as long as the object.

    Args:
        objective: Inside its ``measuring()`` context.
        index: The micro-batch.
        layout: The groups.
        generator: Draws directions and probes; on the parameters' device.
        dropped: Indices of parameters whose per-sample norms proved wrong in an earlier check; None checks now.
        scales: √Σ by parameter, from :func:`~lightning_tl.measure.noise.check_scales`: also estimate Tr ΣH.

    Attributes:
        outputs: The outputs behind the loss; None where the loss is not known, and the split not possible.
        curved: Indices of the parameters in which the outputs are not piecewise affine.
        others: Indices of the parameters whose per-sample norms are not to be had; they cost variance, not bias.
    """

    def __init__(
        self,
        objective: Objective,
        index: int,
        layout: Layout,
        generator: torch.Generator,
        dropped: set[int] | None = None,
        scales: list[Tensor] | None = None,
    ) -> None:
        self.layout, self.generator, self.scales = layout, generator, scales
        # of its own, so that Tr H has the same draws with and without it
        self._weighted = torch.Generator(generator.device).manual_seed(generator.initial_seed() + 15_485_863)
        self.tensors = objective.tensors
        self.norms = SampleNorms(objective.module, objective.params)
        with self.norms.recording():
            loss = objective.batch_loss(index)
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
            self.norms.dropped = self._wrong_norms(self.samples) if dropped is None else set(dropped)
        covered = self.norms.covered
        self.others = [i for i in range(len(self.tensors)) if i not in covered]

    @property
    def rank(self) -> int | None:
        """How many unit directions make Tr G exact: one row of outputs a sample, and norms for every parameter."""
        one_row = self.outputs is not None and self.samples is not None and self.outputs.shape[0] == self.samples
        return self.outputs.rank if self.outputs is not None and one_row and not self.others else None

    @property
    def measures(self) -> int:
        """How many traces are estimated: Tr H, and Tr ΣH where scales are given."""
        return 1 if self.scales is None else 2

    def has_remainder(self, weighted: bool) -> bool:
        """Say whether Tr R, or Tr ΣR, needs products."""
        if not weighted or self.scales is None:
            return bool(self.curved)
        return any(float(self.scales[i].max()) > 0 for i in self.curved)

    def gauss_newton(self, direction: Tensor) -> list[Tensor]:
        """Return ‖Jᵀv‖² summed over samples, by group [groups], for one direction v of the outputs' shape.

        With scales, a second tensor: ‖Σ^½Jᵀv‖².
        """
        return [self._grouped(part) for part in self._squared(direction, self.others, weighted=True)]

    def remainder(self, apart: bool = False, weighted: bool = False) -> tuple[Tensor, float]:
        """Return zᵀRz by group, [groups], for one random z over the curved parameters.

        Successive layers multiply each other, so that most of ‖R‖² lies between them and none of it in the trace.
        Probing odd and even layers apart, z₁ᵀRz₁ + z₂ᵀRz₂, leaves that noise out at the price of two products.

        Args:
            apart: Probe the two halves apart.
            weighted: Of Σ^½RΣ^½ instead.

        Returns:
            The estimate, and the variance of probing apart over that of probing together, at equal work (1 unless
            ``apart``).
        """
        self.prepare_remainder()
        scales = [self.scales[i] for i in self.curved] if weighted and self.scales is not None else None
        generator = self.generator if scales is None else self._weighted
        probes = [_signs(self.tensors[i], generator) for i in self.curved]
        probes = _times(probes, scales)
        if not apart:
            return self._grouped(self._dots(probes, self._images(probes))), 1.0
        total, within, between = torch.zeros(len(self.tensors), dtype=torch.float64), 0.0, 0.0
        for half in (0, 1):
            part = [z if side == half else torch.zeros_like(z) for z, side in zip(probes, self._sides, strict=True)]
            images = self._images(part)
            total += self._dots(part, images)
            for image, side in zip(_times(images, scales), self._sides, strict=True):
                energy = 0.0 if image is None else image.square().sum(dtype=torch.float64).item()
                within, between = (within + energy, between) if side == half else (within, between + energy)
        return self._grouped(total), 2 * within / max(within + between, 1e-300)

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
        found = torch.zeros(len(self.tensors), dtype=torch.float64)
        if self.samples:
            found = self.norms.norms(at_edges, self.samples)
        for index, grad in of_whole.items():
            found[index] = _energy(grad)
        if not weighted or self.scales is None:
            return [found]
        rows = {i: scale for i, scale in enumerate(self.scales) if scale.dim()}
        scaled = found * torch.tensor([0.0 if s.dim() else float(s) ** 2 for s in self.scales], dtype=torch.float64)
        if self.samples and rows:
            scaled += self.norms.norms(at_edges, self.samples, rows)
        for index in rows.keys() & of_whole.keys():
            grad = of_whole[index]
            scaled[index] = 0.0 if grad is None else _energy(grad * rows[index])
        return [found, scaled]

    def _wrong_norms(self, samples: int) -> set[int]:
        """Return the parameters whose norms differ from the gradient's, for a direction in a single sample.

        What fails: layers whose leading dimension is not the sample, weights that are used twice, statistics over the
        batch, subclasses that compute something else.
        """
        assert self.outputs is not None
        direction = self.outputs.random_direction(self.generator)
        by_sample = direction.reshape(samples, -1)
        one = int(by_sample.square().sum(1).argmax())
        masked = torch.zeros_like(by_sample)
        masked[one] = by_sample[one]
        masked = masked.view_as(direction)
        (claimed,) = self._squared(masked, [])
        everything = list(range(len(self.tensors)))
        true = torch.zeros_like(claimed)
        grads = torch.autograd.grad([self.outputs.edge], self.tensors, [masked], retain_graph=True, allow_unused=True)
        for index, grad in zip(everything, grads, strict=True):
            true[index] = _energy(grad)
        slack = _CHECK_TOLERANCE * torch.maximum(claimed, true) + 1e-9 * true.sum()
        return set(torch.nonzero((claimed - true).abs() > slack).flatten().tolist())

    def _grouped(self, by_parameter: Tensor) -> Tensor:
        return torch.tensor(list(self.layout.by_group(by_parameter).values()), dtype=torch.float64)


class SplitResult:
    """What :func:`run_split` gathered for one micro-batch, of Tr H or of Tr ΣH.

    Attributes:
        gauss_newton: Estimates of Tr G by group.
        remainder: Estimates of Tr R by group; empty where Tr R = 0.
        exact: Tr G by group where it was computed exactly, else None.
        products: The work, in products.
    """

    def __init__(self) -> None:
        self.gauss_newton, self.remainder = Samples(), Samples()
        self.exact: Tensor | None = None
        self.products = 0.0
        self.probes = 0

    def mean(self) -> Tensor:
        """Return the estimate by group, [groups]."""
        first = self.gauss_newton.mean() if self.exact is None else self.exact
        return first + self.remainder.mean() if len(self.remainder) else first

    def parts(self) -> list[tuple[float, int]]:
        """Return variance and number of estimates of the two parts."""
        parts = [(self.remainder.total_variance(), len(self.remainder))]
        return (
            parts if self.exact is not None else [*parts, (self.gauss_newton.total_variance(), len(self.gauss_newton))]
        )

    def group_variance(self) -> Tensor:
        """Return the variance of the mean by group, [groups]."""
        total = torch.zeros_like(self.mean())
        for samples in (self.remainder, self.gauss_newton):
            if len(samples) > 1 and not (samples is self.gauss_newton and self.exact is not None):
                total = total + samples.group_variance() / len(samples)
        return total


def run_split(
    split: SplitTrace, products: float, enough: Callable[[SplitResult], bool], prior: Mapping[str, float]
) -> list[SplitResult]:
    """Estimate Tr G and Tr R with a budget; with scales, with the same draws Tr ΣG, and by as many products Tr ΣR.

    Args:
        split: With known outputs.
        products: The budget in products; a pass for G costs :data:`PASS_COST`.
        enough: True, for all traces, stops early.
        prior: ``gauss_newton`` and ``remainder``: variances of single estimates in the previous measurement, by which
            the work is shared until this one has its own.

    Returns:
        The result of Tr H, and of Tr ΣH where the split has scales.
    """
    assert split.outputs is not None
    results, rank = [SplitResult() for _ in range(split.measures)], split.rank
    share = products if not split.curved else 0.7 * products
    if rank is not None and rank * PASS_COST <= share:
        units = [split.gauss_newton(split.outputs.unit_direction(c, split.generator)) for c in range(rank)]
        for result, unit in zip(results, zip(*units, strict=True), strict=True):
            result.exact = torch.stack(unit).sum(0)
        results[0].products += rank * PASS_COST
        if not split.curved:
            return results
    exact = results[0].exact is not None
    draws, probes = _allocation(products - results[0].products, split, prior, exact=exact)
    budgets = [probes if split.has_remainder(weighted=index == 1) else 0 for index in range(len(results))]
    apart, turn = [budget > 0 for budget in budgets], 0
    while True:
        wants_draw = len(results[0].gauss_newton) < draws
        wants_probe = [
            r.probes < budget or len(r.remainder) < 2 * bool(budget) for r, budget in zip(results, budgets, strict=True)
        ]
        if not wants_draw and not any(wants_probe):
            break
        if wants_draw:
            direction = split.outputs.random_direction(split.generator)
            for result, value in zip(results, split.gauss_newton(direction), strict=True):
                result.gauss_newton.add(value)
        for index, result in enumerate(results):
            if not wants_probe[index]:
                continue
            # the first pair tells which way is better, by energies that hardly depend on the probe
            value, ratio = split.remainder(apart[index], weighted=index == 1)
            result.remainder.add(value)
            result.probes += 2 if apart[index] else 1
            if turn == 0:
                apart[index] = ratio < APART_BELOW
        turn += 1
        if turn > 2 and all(enough(result) for result in results):
            break
    for result in results:
        result.products += result.probes
    results[0].products += PASS_COST * len(results[0].gauss_newton)
    return results


def _allocation(products: float, split: SplitTrace, prior: Mapping[str, float], exact: bool) -> tuple[int, int]:
    """Return how many draws for G and probes for R a budget buys.

    The best share goes as √variance · √price. The variances are the previous measurement's, never this one's: counts
    that follow the samples they count bias the mean where the samples are skewed, by a third of an error seen here.
    """
    if not split.curved:
        return max(2, round(products / PASS_COST)), 0
    if exact:
        return 0, max(2, round(products))
    share = 0.5
    if prior.get("gauss_newton", 0) > 0 and prior.get("remainder", 0) > 0:
        of_g, of_r = (prior["gauss_newton"] * PASS_COST) ** 0.5, prior["remainder"] ** 0.5
        share = min(max(of_g / (of_g + of_r), 0.15), 0.85)
    return max(2, round(share * products / PASS_COST)), max(2, round((1 - share) * products))


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator, device=like.device, dtype=torch.int8)
    return bits.to(like.dtype).mul_(2).sub_(1)


def _energy(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.square().sum(dtype=torch.float64).item()


def _times(tensors: Sequence[T], scales: Sequence[Tensor] | None) -> list[T]:
    if scales is None:
        return list(tensors)
    return [t if t is None else t * scale for t, scale in zip(tensors, scales, strict=True)]
