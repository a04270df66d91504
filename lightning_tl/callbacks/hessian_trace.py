"""HessianTrace: how curved the loss is at the present weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_tl.callbacks.measurement import LossMeasurement
from lightning_tl.measure.measures import OutputLoss, TraceMeasure
from lightning_tl.measure.noise_scales import NoiseKind, Reference
from lightning_tl.measure.trace import TraceMethod


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
            :class:`~lightning_tl.callbacks.perturbation_sensitivity.PerturbationSensitivity`. To second order, ½γ²
            times that is the rise of the loss under it (Springer et al. 2025, Prop. D.1). Where the trace is exact, so
            is this, at no cost; elsewhere it takes as many products again. None: not measured.
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
        how many were used;
        ``hessian/weighted_trace``, ``hessian/weighted_trace_stderr`` with ``noise``; ``hessian/top_eigenvalue`` with
        ``top_eigenvalue``; ``hessian/seconds``.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> trainer = Trainer(callbacks=[HessianTrace(every_n_steps=500)])  # doctest: +SKIP
    """

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
        self.of_trace = TraceMeasure(
            products, tolerance, max_seconds, top_eigenvalue, outputs_fn, output_loss, method, noise, reference
        )
        super().__init__(self.of_trace, every_n_steps=every_n_steps, **kwargs)

    @property
    def doubts(self) -> list[str]:
        """Sentences on layers whose initialisation, and so the scale of their noise, is not certain."""
        return [] if self.of_trace.noise is None else self.of_trace.noise.doubts
