"""Tr H from matrix-vector products Hv.

Hutchinson's estimator (mean of zᵀHz) is best while the spectrum is flat, near initialisation. Once a few outlier
eigenvalues dominate, estimators that use subspaces are better: XTrace (Epperly, Tropp and Webber 2024, arXiv
2301.07825) with many products; with few, Hutchinson deflated by the subspace of the previous measurement. The choice is
made from the first products, which all of them need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_tl.measure.estimate import Estimator, Samples, combine
from lightning_tl.measure.params import Layout, squared_norms
from lightning_tl.measure.sign_probes import SignProbes

# At equal products the variance of XTrace over that of Hutchinson is predicted as twice the residual share of the
# pilot's energy. The prediction is too low by a factor of up to 1.3 in the error, hence 0.35 and not 0.5.
RESIDUAL_SHARE = 0.35
# The errors of the leave-one-out estimates are not independent: over spectra from flat to steep the root mean square
# error was mostly 0.9 to 1.4 times what independence predicts.
XTRACE_STDERR = 1.15
# From this many products on, a subspace from this measurement is better than the one of the last measurement.
SKETCH_PRODUCTS = 12


@dataclass
class MatvecResult:
    """Value by group and its uncertainty; see :class:`~lightning_tl.measure.estimate.TraceEstimate`."""

    groups: Tensor
    stderr: float
    degrees: float
    group_stderr: Tensor
    method: Estimator
    memory: dict[str, Any] = field(default_factory=dict)


class MatvecTrace:
    """One measurement of Tr H by group, from products.

    Args:
        product: Flat v [P] → Hv [P].
        layout: Order and groups of the flat vectors.
        generator: Draws the probes; on the parameters' device.
        products: Largest number of products.
        enough: Called with value and standard error so far, while estimates are independent; True stops early.
        vectors: How many vectors of P numbers XTrace may keep for its subspace (it also keeps as many products, and as
            many probes of one byte per number).
        memory: From the previous measurement.
        keep: How many vectors to keep for the next measurement, which uses them if it has fewer than 12 products.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        layout: Layout,
        generator: torch.Generator,
        products: int,
        enough: Callable[[float, float], bool],
        vectors: int,
        memory: dict[str, Any],
        keep: int,
    ) -> None:
        self.product, self.layout, self.generator, self.enough = product, layout, generator, enough
        self.products, self.vectors, self.memory, self.keep = products, vectors, memory, keep

    def run(self) -> MatvecResult:
        """Choose an estimator and return its result."""
        if self.layout.size <= self.products:
            return self._by_columns()
        if self.products < SKETCH_PRODUCTS:
            return self._deflated()
        pilot = min(self.products // 2, self.vectors, self.layout.size // 2)
        if pilot < 3:
            return self._hutchinson(SignProbes(), self.products)
        probes = torch.empty(pilot, self.layout.size, dtype=torch.int8, device=self.layout.device)
        images = torch.empty(pilot, self.layout.size, dtype=self.layout.dtype, device=self.layout.device)
        samples = SignProbes()
        for i in range(pilot):
            probe = self._probe()
            probes[i] = probe
            images[i] = self.product(probe)
            samples.add_probe(self._by_group(probe, images[i]), [probe], [images[i]])
        gram = (images @ images.T).double()
        if not torch.isfinite(gram).all() or float(gram.diagonal().sum()) == 0:
            return self._hutchinson(samples, self.products - pilot)
        # 1/[(YᵀY)⁻¹]_ii is the squared norm of the part of image i outside the span of the others
        scale = gram.diagonal().clamp_min(1e-300).sqrt()
        correlation = gram / scale[:, None] / scale
        ridge = 1e-10 * torch.eye(pilot, dtype=gram.dtype, device=gram.device)  # where images are dependent
        inverse = torch.linalg.inv(correlation + ridge)
        residual = (gram.diagonal() / inverse.diagonal().clamp_min(1.0)).mean()
        if float(residual / gram.diagonal().mean()) > RESIDUAL_SHARE:
            del images, probes
            return self._hutchinson(samples, self.products - pilot)
        return self._xtrace(probes, images)

    def _by_columns(self) -> MatvecResult:
        """Read the diagonal from one product per parameter: exact, and no more work than an estimate."""
        diagonal = torch.zeros(self.layout.size, dtype=torch.float64)
        for i in range(self.layout.size):
            unit = torch.zeros(self.layout.size, dtype=self.layout.dtype, device=self.layout.device)
            unit[i] = 1
            diagonal[i] = float(self.product(unit)[i])
        by_group = torch.stack([diagonal[s].sum() for s in self.layout.slices.values()])
        return MatvecResult(by_group, 0.0, float("inf"), torch.zeros_like(by_group), "exact", {})

    def hutchinson(self) -> MatvecResult:
        """Return the result of Hutchinson's estimator, whatever the spectrum."""
        return self._hutchinson(SignProbes(), self.products)

    def _probe(self) -> Tensor:
        size, where = (self.layout.size,), self.layout.device
        bits = torch.randint(0, 2, size, generator=self.generator, device=where, dtype=torch.int8)
        return bits.to(self.layout.dtype).mul_(2).sub_(1)

    def _by_group(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.stack([(left[s] * right[s]).sum(dtype=torch.float64) for s in self.layout.slices.values()]).cpu()

    def _hutchinson(
        self, samples: SignProbes, products: int, basis: Tensor | None = None, basis_images: Tensor | None = None
    ) -> MatvecResult:
        """Add probes and average; with an orthonormal basis [k, P], project the probes away from it."""
        images: list[Tensor] = []
        fixed = torch.zeros(len(self.layout.slices), dtype=torch.float64)
        if basis is not None and basis_images is not None:
            inner = basis.double() @ basis_images.double().T
            for i, s in enumerate(self.layout.slices.values()):
                q, h = basis[:, s].double(), basis_images[:, s].double()
                fixed[i] = 2 * (q * h).sum() - ((q @ q.T) * inner).sum()
        for _ in range(products):
            probe = self._probe()
            if basis is None:
                image = self.product(probe)
                samples.add_probe(self._by_group(probe, image), [probe], [image])
            else:
                image = self.product(probe - basis.T @ (basis @ probe))
                rest = image - basis.T @ (basis @ image)
                samples.add_probe(self._by_group(probe, rest), [probe], [rest])
            if self.keep and self.products < SKETCH_PRODUCTS:
                images.append(image)
            error, _ = combine([(samples.total_variance(), len(samples))])
            if len(samples) >= 4 and self.enough(float((samples.mean() + fixed).sum()), error):
                break
        memory = self._remember(images, basis_images) if images else {}
        mean = samples.mean() + fixed
        stderr, degrees = combine([(samples.total_variance(), len(samples))])
        by_group = (samples.group_variance() / len(samples)).sqrt()
        return MatvecResult(mean, stderr, degrees, by_group, "hutchinson" if basis is None else "deflated", memory)

    def _deflated(self) -> MatvecResult:
        """Deflate by vectors of the last measurement, while each is expected to reduce the error at equal products."""
        basis, energies, norm = self.memory.get("basis"), self.memory.get("energies"), self.memory.get("norm", 0.0)
        if basis is None or energies is None or basis.shape[1] != self.layout.size or self.products < 4:
            return self._hutchinson(SignProbes(), self.products)
        basis = basis.to(self.layout.device, self.layout.dtype)
        removed, ratio, used, images = 0.0, 1.0, 0, []
        for i in range(min(len(basis), self.products - 3)):
            rest = max(norm * ratio - removed, 0.0)
            if (rest - float(energies[i]) * ratio) / (self.products - i - 1) >= rest / (self.products - i):
                break
            image = self.product(basis[i])
            images.append(image)
            # ‖H‖² − ‖(1 − qqᵀ)H(1 − qqᵀ)‖² for the present H; it does not depend on the probes, so there is no bias
            gain = 2 * float(image.double() @ image.double()) - float(basis[i].double() @ image.double()) ** 2
            removed += gain
            ratio = max(removed / float(sum(energies[: i + 1])), 1e-12)
            used += 1
        if not used:
            return self._hutchinson(SignProbes(), self.products)
        return self._hutchinson(SignProbes(), self.products - used, basis[:used], torch.stack(images))

    def _remember(self, images: list[Tensor], basis_images: Tensor | None) -> dict[str, Any]:
        """Return the main directions of the products of this measurement."""
        stacked = torch.stack(images)
        norm = float(stacked.double().square().sum(1).mean())
        if not norm < float("inf"):  # a loss that is not finite
            return {}
        if basis_images is not None:  # the probes were projected away from the basis: its images replace that part
            norm += float(basis_images.double().square().sum())
            stacked = torch.cat([stacked, basis_images * len(images) ** 0.5])
        values, vectors = torch.linalg.eigh((stacked @ stacked.T).double())
        top = [i for i in range(len(values) - 1, -1, -1) if float(values[i]) > 1e-10 * float(values[-1])][: self.keep]
        if not top or not norm > 0:
            return {}
        basis = torch.linalg.qr(stacked.T @ vectors[:, top].to(stacked.dtype)).Q.T.contiguous()
        # the mean squared component of a random probe's image along u is ‖uᵀH‖²
        along = (basis @ stacked.T).double().square().sum(1) / len(images)
        return {"basis": basis.cpu(), "energies": along.tolist(), "norm": norm}

    def _xtrace(self, probes: Tensor, images: Tensor) -> MatvecResult:
        """Finish XTrace from probes Ω [k, P] and their images; the remaining products go to deflated probes."""
        basis, corner = _orthonormal(images)
        k = len(basis)
        if k < len(images):  # the rank of H is below k: the basis spans its range, and new probes measure the rest
            probes = probes[:0]
        products = torch.stack([self.product(q) for q in basis])
        groups = [
            _Grams(basis[:, s], products[:, s], probes[:, s].to(basis.dtype)) for s in self.layout.slices.values()
        ]
        whole = sum(groups[1:], start=groups[0])
        samples, energies = Samples(), []
        eye = torch.eye(k, dtype=torch.float64)
        turned = torch.linalg.inv(corner).T if len(probes) else eye
        for i in range(len(probes)):
            s = turned[:, i] / turned[:, i].norm()
            without = eye - torch.outer(s, s)
            samples.add(torch.stack([g.estimate(i, without, whole, corner[:, i]) for g in groups]))
            energies.append(whole.residual_energy(i, without, corner[:, i]))
        extra = self.products - len(images) - k
        if not len(samples):
            extra = max(extra, 2)
        elif self.enough(float(samples.mean().sum()), XTRACE_STDERR * (2 * _mean(energies) / k) ** 0.5):
            extra = 0
        fixed = torch.stack([g.fixed(eye, whole) for g in groups])
        for _ in range(extra):
            probe = self._probe()
            image = self.product(probe - basis.T @ (basis @ probe))
            image = image - basis.T @ (basis @ image)
            samples.add(fixed + self._by_group(probe, image))
            energies.append(float(image.double().square().sum()))
        spread = (samples.group_variance() / len(samples)).sqrt()
        stderr = XTRACE_STDERR * (2 * _mean(energies) / len(samples)) ** 0.5
        return MatvecResult(samples.mean(), stderr, max(len(samples) - 1, 1), XTRACE_STDERR * spread, "xtrace")


class _Grams:
    """The inner products of basis Q, products HQ and probes Ω over one group of coordinates, k × k each, float64."""

    def __init__(self, basis: Tensor, products: Tensor, probes: Tensor) -> None:
        self.qq = (basis @ basis.T).double().cpu()
        self.qh = (basis @ products.T).double().cpu()
        self.hh = (products @ products.T).double().cpu()
        self.oq = (probes @ basis.T).double().cpu()
        self.oh = (probes @ products.T).double().cpu()

    def __add__(self, other: _Grams) -> _Grams:
        both = object.__new__(_Grams)
        for name, value in vars(self).items():
            setattr(both, name, value + getattr(other, name))
        return both

    def fixed(self, without: Tensor, whole: _Grams) -> Tensor:
        """Return Tr_g(H − (1 − P)H(1 − P)) for P = Q·without·Qᵀ."""
        return 2 * (without * self.qh.T).sum() - ((without @ whole.qh @ without) * self.qq).sum()

    def estimate(self, i: int, without: Tensor, whole: _Grams, corner: Tensor) -> Tensor:
        """Return the estimate of Tr_g H from probe i and the basis of the others; Hω_i = Q·corner."""
        x = without @ whole.oq[i]
        inside = without @ (corner - whole.qh @ x)
        return self.fixed(without, whole) + self.oq[i] @ corner - self.oh[i] @ x - self.oq[i] @ inside

    def residual_energy(self, i: int, without: Tensor, corner: Tensor) -> float:
        """Return ‖(1 − P)H(1 − P)ω_i‖²."""
        x = without @ self.oq[i]
        # h = Hω_i − HQx, and ‖(1 − P)h‖² = ‖h‖² − (Qᵀh)ᵀ·without·Qᵀh
        h2 = corner @ corner - 2 * corner @ (self.qh @ x) + x @ self.hh @ x
        q = corner - self.qh @ x
        return max(float(h2 - q @ without @ q), 0.0)


def _orthonormal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q [r, P] and R [r, k] with rows = Rᵀ Q, by Gram-Schmidt done twice; r < k where rows are dependent."""
    basis = torch.empty_like(rows)
    corner = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    limit = 1e-5 if rows.dtype == torch.float32 else 1e-11
    largest = float(squared_norms(list(rows)).max().sqrt())
    rank = 0
    for i, row in enumerate(rows):
        rest = row.clone()
        for _ in range(2):
            along = basis[:rank] @ rest
            rest -= basis[:rank].T @ along
            corner[:rank, i] += along.double().cpu()
        length = float(squared_norms([rest])[0].sqrt())
        if length <= limit * largest:
            continue
        basis[rank] = rest / length
        corner[rank, i] = length
        rank += 1
    return basis[:rank], corner[:rank]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
