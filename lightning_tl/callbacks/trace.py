"""HessianTrace: how curved the loss is at the present weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_tl.callbacks.measurement import LossMeasurement
from lightning_tl.callbacks.noise import Noise
from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.eigen import top_eigenvalues
from lightning_tl.measure.noise import NoiseKind, Reference
from lightning_tl.measure.trace import METHODS, TraceMethod, hessian_trace
from lightning_tl.measured import Measured

OutputLoss = Literal["cross_entropy", "mse", "binary_cross_entropy"]
OUTPUT_LOSSES: dict[OutputLoss, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}


class HessianTrace(LossMeasurement):
    """Log the trace of the loss's Hessian with its standard error, in all and by parameter group.

    Where the loss ends in ``F.cross_entropy``, ``F.mse_loss`` or ``F.binary_cross_entropy_with_logits``, that is used:
    the trace of a ResNet classifier of few classes (with ReLU) is then exact. Otherwise it is estimated
    (:func:`lightning_tl.measure.hessian_trace`).

    Args:
        products: The budget of one measurement in Hessian-vector products, each of the cost of three to ten forward
            passes (in small networks on a CPU). Default: 24 where that makes the trace exact, as for a ResNet
            classifier of up to 41 classes, else 8. With fewer than 12, those of a loss that does not end in one of the
            three use the subspace of the measurement before.
        tolerance: Stop a measurement early once the standard error is below this share of the value.
        max_seconds: Stop a measurement early after this time (not reproducible).
        noise: ``init``, ``relative`` or ``isotropic``: also log Tr(ΣH), Σ being the variances of that noise as for
            :class:`~lightning_tl.callbacks.sensitivity.PerturbationSensitivity`. To second order, ½γ² times that is the
            rise of the loss under it (Springer et al. 2025, Prop. D.1). Where the trace is exact, so is this, at no
            cost; elsewhere it takes as many products again. None: not measured.
        reference: For ``noise="init"``, as for that callback.
        top_eigenvalue: Also log the largest eigenvalue (up to 20 more products).
        outputs_fn: ``(module, batch) -> (outputs, targets)``: with ``output_loss``, another way to define the loss.
        output_loss: ``cross_entropy``, ``mse`` or ``binary_cross_entropy``, of these outputs and targets.
        method: ``auto``, ``gauss-newton``, ``matvec`` or ``hutchinson``; see that function.
        every_n_steps: As for :class:`~lightning_tl.callbacks.measurement.LossMeasurement`, also the other arguments.
        kwargs: As there.

    Attributes:
        doubts: With ``noise="init"``, sentences on layers whose initialisation is not certain; else empty.

    Logs:
        ``hessian/trace``, ``hessian/trace_stderr`` (0 where exact), ``hessian/trace/<group>``; ``hessian/products``,
        how many products were used; ``hessian/weighted_trace``, ``hessian/weighted_trace_stderr`` with ``noise``;
        ``hessian/top_eigenvalue`` with ``top_eigenvalue``; ``hessian/seconds``.

    Raises:
        UserError: An argument is out of range, or the loss cannot be measured; the message says what to pass.

    Example:
        >>> trainer = Trainer(callbacks=[HessianTrace(every_n_steps=500)])  # doctest: +SKIP
    """

    quantity = "hessian"

    def __init__(
        self,
        every_n_steps: int | None = 500,
        products: int | None = None,
        tolerance: float = 0.0,
        max_seconds: float | None = None,
        top_eigenvalue: bool = False,
        outputs_fn: Callable[[nn.Module, Any], tuple[Tensor, Tensor]] | None = None,
        output_loss: OutputLoss | None = None,
        method: TraceMethod = "auto",
        noise: NoiseKind | None = None,
        reference: Reference = None,
        **kwargs: Any,
    ) -> None:
        if (outputs_fn is None) != (output_loss is None):
            raise UserError("outputs_fn and output_loss go together: the outputs, and the loss of them")
        if output_loss is not None and output_loss not in OUTPUT_LOSSES:
            raise UserError(f"output_loss={output_loss!r} is unknown{nearest(output_loss, OUTPUT_LOSSES)}")
        if outputs_fn is not None and kwargs.get("loss_fn") is not None:
            raise UserError("give either loss_fn, or outputs_fn with output_loss, not both")
        if noise is None and reference is not None:
            raise UserError("reference= is used only with noise='init': it defines how the module is initialised")
        if products is not None and products < 2:
            raise UserError(f"products={products}: an estimate with a standard error needs at least 2 products")
        if method not in METHODS:
            raise UserError(f"method={method!r} is unknown{nearest(method, METHODS)}")
        if outputs_fn is not None and output_loss is not None:
            kwargs["loss_fn"] = lambda module, batch: OUTPUT_LOSSES[output_loss](*outputs_fn(module, batch))
        super().__init__(every_n_steps=every_n_steps, **kwargs)
        self.products, self.tolerance, self.max_seconds = products, tolerance, max_seconds
        self.top_eigenvalue, self.method = top_eigenvalue, method
        self._noise = None if noise is None else Noise(noise, reference)
        self._memory: dict[str, Any] = {}

    @property
    def doubts(self) -> list[str]:
        """Sentences on layers whose initialisation, and so the scale of their noise, is not certain."""
        return [] if self._noise is None else self._noise.doubts

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how the weights are spread before the first step."""
        super().on_fit_start(trainer, pl_module)
        if self._noise is not None and trainer.global_step == 0:
            self._noise.see_start(pl_module)

    def measure(self, trainer: Trainer, module: LightningModule) -> list[Measured]:
        """Return the trace, in all and by group, and what else was asked for."""
        objective = self.objective(trainer, module)
        trace = hessian_trace(
            objective,
            self.products,
            scales=None if self._noise is None else self._noise.scales(objective, self.seed),
            tolerance=self.tolerance,
            max_seconds=self.max_seconds,
            groups=self.groups,
            method=self.method,
            seed=self.seed,  # the same probes at every measurement, so that values can be compared
            memory=self._memory,
        )
        self._memory = trace.memory
        records = [self.record("hessian", trace.value, "trace", stderr=trace.stderr)]
        records += [self.record("hessian", value, f"trace/{group}") for group, value in trace.groups.items()]
        if trace.weighted is not None:
            records.append(self.record("hessian", trace.weighted.value, "weighted_trace", stderr=trace.weighted.stderr))
        spent = trace.products + (0 if trace.weighted is None else trace.weighted.products)
        records.append(self.record("hessian", spent, "products"))
        if self.top_eigenvalue:
            largest = top_eigenvalues(objective, seed=self.seed).values[0]
            records.append(self.record("hessian", largest, "top_eigenvalue"))
        return records

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types, including what the next measurement starts from."""
        noise = {} if self._noise is None else {"noise": self._noise.state_dict()}
        return {**super().state_dict(), "memory": dict(self._memory), **noise}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        super().load_state_dict(state_dict)
        self._memory = dict(state_dict["memory"])
        if self._noise is not None and "noise" in state_dict:
            self._noise.load_state_dict(state_dict["noise"])
