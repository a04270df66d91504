"""What a run is measured by: distance, trace, sensitivity, each with its arguments, its state and its records."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.measure.arguments import choice, flag, number, numbers, whole
from lightning_tl.measure.eigen import top_eigenvalues
from lightning_tl.measure.noise_scales import NOISES, NoiseKind, Reference, as_scales, initialisation, noise_scales
from lightning_tl.measure.objective import LossFn, Objective
from lightning_tl.measure.params import Groups, clean_name
from lightning_tl.measure.perturbation import perturbation_sensitivity
from lightning_tl.measure.start_weights import StartSpread, start_spreads
from lightning_tl.measure.trace import METHODS, TraceMethod, hessian_trace
from lightning_tl.measured_value import Measured

_log = logging.getLogger(__name__)

OutputLoss = Literal["cross_entropy", "mse", "binary_cross_entropy"]
OUTPUT_LOSSES: dict[OutputLoss, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}


@dataclass
class Site:
    """Where and when a measure is taken.

    Attributes:
        module: The module.
        params: Makes the selection of its parameters at this moment.
        objective: Makes the loss on the probe.
        groups: Of parameters.
        step: Optimiser steps done.
        seed: Of all random numbers.
        prefix: Before the quantities' names.
        before: Number of measurements so far.
        warn: Warns the user.
    """

    module: nn.Module
    params: Callable[[], dict[str, nn.Parameter]]
    objective: Callable[[], Objective]
    groups: Groups
    step: int
    seed: int
    prefix: str
    before: int
    warn: Callable[[str], None]

    def record(
        self, quantity: str, value: float, group: str = "", gamma: float | None = None, stderr: float | None = None
    ) -> Measured:
        """Return a value measured now."""
        name = f"{self.prefix}{quantity}"
        return Measured(step=self.step, quantity=name, group=group, gamma=gamma, value=value, stderr=stderr)


class Measure:
    """A quantity with its arguments; base class of all.

    Attributes:
        name: Of the quantity; ``<name>/seconds`` is logged too.
        needs_loss: It is of a loss on probe batches.
        loss_fn: The loss that its arguments define, if they do.
    """

    name = ""
    needs_loss = True
    loss_fn: LossFn | None = None

    def start(self, site: Site) -> None:
        """Note what is needed of the start of a run, or of the point where it is resumed."""

    def watch(self, site: Site) -> None:
        """Note what is about to change; called before steps."""

    def measure(self, site: Site) -> list[Measured]:
        """Return one record per value."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget the last run."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, in plain types."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""


class Noise:
    """The scales of a noise. Those of the initialisation are determined once and kept in checkpoints.

    Args:
        noise: ``init``, ``relative`` or ``isotropic``.
        reference: For ``init``, as for :func:`~lightning_tl.measure.noise_scales.initialisation`.

    Attributes:
        doubts: Sentences on layers whose initialisation is not certain; empty until the first measurement.
        sources: With ``init``, by parameter name where its scale is from, in words.

    Raises:
        UserError: The noise is unknown.
    """

    def __init__(self, noise: NoiseKind, reference: Reference = None) -> None:
        choice("noise", noise, NOISES)
        if not (reference is None or callable(reference) or isinstance(reference, str | Path | Mapping | nn.Module)):
            raise UserError(
                f"reference={reference!r} must be a function that builds a fresh module, a freshly initialised module, "
                "its state dict, or the path of one"
            )
        self.noise, self.reference = noise, reference
        self.doubts: list[str] = []
        self.sources: dict[str, str] = {}
        self._spreads: dict[str, float] | None = None
        self._start: dict[str, StartSpread] = {}

    def reset(self) -> None:
        """Forget the scales."""
        self.doubts, self.sources, self._spreads, self._start = [], {}, None, {}

    def start(self, site: Site) -> None:
        """Note the spread of the weights before the first step, for what the module does not tell itself."""
        unknown = self.noise == "init" and self.reference is None and self._spreads is None
        if unknown and site.step == 0 and not self._start:
            every = {clean_name(name): parameter for name, parameter in site.module.named_parameters()}
            self._start = start_spreads(every)

    def scales(self, objective: Objective, site: Site) -> dict[str, Tensor]:
        """Return √Σ by parameter; those of ``init`` are the same from the first call on. Warn of doubts once."""
        params = objective.params
        if self.noise != "init":
            return noise_scales(objective.module, params, self.noise)
        if self._spreads is None or self._spreads.keys() != params.keys():
            init = initialisation(objective.module, params, self.reference, site.seed, self._start)
            self._spreads, self.doubts, self.sources = init.spreads, init.doubts, init.sources
            _log.info(init.summary())
            for doubt in init.doubts:
                site.warn(doubt)
        return as_scales(self._spreads, params)

    def state(self) -> dict[str, Any]:
        """Return the state in plain types."""
        start = {name: found.plain() for name, found in self._start.items()}
        return {"scales": self._spreads, "doubts": list(self.doubts), "sources": dict(self.sources), "start": start}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self._spreads, self.doubts = state["scales"], list(state.get("doubts", []))
        self.sources = dict(state.get("sources", {}))
        self._start = {name: StartSpread(*found) for name, found in state.get("start", {}).items()}


class TraceMeasure(Measure):
    """The trace of the loss's Hessian; arguments as for :class:`~lightning_tl.callbacks.hessian_trace.HessianTrace`."""

    name = "hessian"

    def __init__(
        self,
        products: int | None = None,
        tolerance: float = 0.0,
        max_seconds: float | None = None,
        top_eigenvalue: bool = False,
        outputs_fn: Callable[[nn.Module, Any], tuple[Tensor, Tensor]] | None = None,
        output_loss: OutputLoss | None = None,
        method: TraceMethod = "auto",
        noise: NoiseKind | None = None,
        reference: Reference = None,
    ) -> None:
        if (outputs_fn is None) != (output_loss is None):
            raise UserError("outputs_fn and output_loss go together: the outputs, and the loss of them")
        if noise is None and reference is not None:
            raise UserError("reference= is used only with noise='init': it defines how the module is initialised")
        needed = ": an estimate with a standard error needs at least 2 products"
        self.products = None if products is None else whole("products", products, 2, needed)
        self.tolerance = number("tolerance", tolerance, 0)
        self.max_seconds = None if max_seconds is None else number("max_seconds", max_seconds, 0)
        self.top_eigenvalue = flag("top_eigenvalue", top_eigenvalue)
        choice("method", method, METHODS)
        self.method = method
        if outputs_fn is not None and output_loss is not None:
            choice("output_loss", output_loss, OUTPUT_LOSSES)
            if not callable(outputs_fn):
                raise UserError(f"outputs_fn={outputs_fn!r} must be a function (module, batch) -> (outputs, targets)")
            self.loss_fn = lambda module, batch: OUTPUT_LOSSES[output_loss](*outputs_fn(module, batch))
        self.noise = None if noise is None else Noise(noise, reference)
        self.memory: dict[str, Any] = {}

    def start(self, site: Site) -> None:
        """Note how the weights are spread before the first step."""
        if self.noise is not None:
            self.noise.start(site)

    def measure(self, site: Site) -> list[Measured]:
        """Return the trace, in all and by group, and what else was asked for."""
        objective = site.objective()
        try:
            trace = hessian_trace(
                objective,
                self.products,
                scales=None if self.noise is None else self.noise.scales(objective, site),
                tolerance=self.tolerance,
                max_seconds=self.max_seconds,
                groups=site.groups,
                method=self.method,
                seed=site.seed,  # the same probes at every measurement, so that values can be compared
                memory=self.memory,
            )
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of products that are not finite
            with objective.measuring():
                loss = objective.loss()
            if math.isfinite(loss):
                raise
            return [site.record("hessian", math.nan, "trace", stderr=math.nan)]
        if math.isfinite(trace.value):
            self.memory = trace.memory
        records = [site.record("hessian", trace.value, "trace", stderr=trace.stderr)]
        records += [site.record("hessian", value, f"trace/{group}") for group, value in trace.groups.items()]
        if trace.weighted is not None:
            records.append(site.record("hessian", trace.weighted.value, "weighted_trace", stderr=trace.weighted.stderr))
        spent = trace.products + (0 if trace.weighted is None else trace.weighted.products)
        records.append(site.record("hessian", spent, "products"))
        if self.top_eigenvalue:
            largest = top_eigenvalues(objective, seed=site.seed).values[0]
            records.append(site.record("hessian", largest, "top_eigenvalue"))
        return records

    def reset(self) -> None:
        """Forget the last run."""
        self.memory = {}
        if self.noise is not None:
            self.noise.reset()

    def state(self) -> dict[str, Any]:
        """Return what the next measurement starts from."""
        return {"memory": dict(self.memory), **({} if self.noise is None else {"noise": self.noise.state()})}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.memory = dict(state["memory"])
        if self.noise is not None and "noise" in state:
            self.noise.load(state["noise"])


class SensitivityMeasure(Measure):
    """The loss under noise; arguments as for ``PerturbationSensitivity`` (callbacks/perturbation_sensitivity.py)."""

    name = "sensitivity"

    def __init__(
        self,
        gammas: Sequence[float] = (0.01, 0.02),
        draws: int = 8,
        noise: NoiseKind = "init",
        reference: Reference = None,
    ) -> None:
        self.noise = Noise(noise, reference)
        self.draws = whole("draws", draws, 2, ": a standard error needs at least 2")
        self.gammas = numbers("gammas", gammas)
        self.draw_history: list[dict[float, list[float]]] = []
        self._coarse = False

    def start(self, site: Site) -> None:
        """Note how the weights are spread before the first step."""
        self.noise.start(site)

    def measure(self, site: Site) -> list[Measured]:
        """Return losses and sensitivities."""
        objective = site.objective()
        scales = self.noise.scales(objective, site)
        levels = perturbation_sensitivity(objective, scales, self.gammas, self.draws, seed=site.seed)
        resolution = objective.rounding(levels[0].loss)
        records = [site.record("perturbed_loss", levels[0].loss, gamma=0)]
        coarse = []
        for level in levels:
            # rounding shifts all draws alike, which their spread does not show
            stderr = (level.stderr**2 + resolution**2) ** 0.5
            records.append(site.record("sensitivity", level.sensitivity, gamma=level.gamma, stderr=stderr))
            records.append(site.record("perturbed_loss", level.perturbed_loss, gamma=level.gamma))
            if abs(level.sensitivity) < 4 * resolution:
                coarse.append(f"{level.gamma:g}")
        self.draw_history.append({level.gamma: list(level.draws) for level in levels})
        if coarse and not self._coarse:
            self._coarse = True
            site.warn(
                f"{site.prefix}sensitivity: at gamma {', '.join(coarse)} the rise is not above the rounding, "
                f"{resolution:.1g}, of a loss of {levels[0].loss:.3g}, which the standard error now contains; measure "
                "at larger gammas"
            )
        return records

    def reset(self) -> None:
        """Forget the last run."""
        self.noise.reset()
        self.draw_history, self._coarse = [], False

    def state(self) -> dict[str, Any]:
        """Return scales, doubts and draws."""
        return {**self.noise.state(), "draws": self.draw_history}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.noise.load(state)
        self.draw_history = [dict(row) for row in state["draws"]]
