"""What is measured: a scalar loss of a module's parameters over fixed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.affine import nodes_in_order
from lightning_tl.measure.batchnorm import STATISTICS, Statistics, reestimate, running_layers
from lightning_tl.measure.guard import MODES, Mode, Rewind, measuring, seed_everything
from lightning_tl.measure.params import select

LossFn = Callable[[nn.Module, Any], Tensor]
"""``(module, batch) -> scalar tensor`` with a graph back to the module's parameters."""

Reduce = Callable[[Tensor], Tensor]
"""Averages a tensor over the processes of a distributed run; every process calls it in the same order."""


class Objective:
    """The loss L(θ) = Σ_b w_b L_b(θ) over fixed micro-batches, Σ_b w_b = 1.

    Random numbers inside the loss (augmentation, sampled anchors) are the same at every evaluation: the global
    generators are seeded before each and restored afterwards.

    Args:
        module: The module whose parameters are measured. Pass the unwrapped one, not DDP's.
        loss_fn: ``(module, batch) -> scalar tensor``.
        batches: The micro-batches; the graph of only one of them is in memory at a time.
        params: Name → parameter, from :func:`~lightning_tl.measure.params.select`; default: all trainable ones.
        weights: One weight per batch, for example their sizes; default: equal.
        mode: ``eval``, or ``frozen-train`` (:func:`~lightning_tl.measure.guard.measuring`).
        reduce: Averages over the processes of a distributed run; default: one process.
        process: Rank and number of the processes that ``reduce`` averages over.
        seed: Seeds the random numbers inside the loss.
        bn: BatchNorm's running statistics: ``kept`` as they are, or ``re-estimated`` for the weights at each evaluation
            of L (:func:`~lightning_tl.measure.batchnorm.reestimate`). Gradient and Hessian take the statistics of the
            present weights as constants, so under ``re-estimated`` they are not the derivatives of :meth:`loss`.
        bn_batches: What they are re-estimated on; default: ``batches``.

    Attributes:
        written: Names of the parameters and other tensors that the loss function itself writes, as seen in the last
            measurement; they are put back before each evaluation and afterwards.

    Raises:
        UserError: There are no batches, the weights do not fit them, or the mode or ``bn`` is unknown.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: LossFn,
        batches: Sequence[Any],
        params: Mapping[str, nn.Parameter] | None = None,
        *,
        weights: Sequence[float] | None = None,
        mode: Mode = "eval",
        reduce: Reduce | None = None,
        process: tuple[int, int] = (0, 1),
        seed: int = 0,
        bn: Statistics = "kept",
        bn_batches: Sequence[Any] | None = None,
    ) -> None:
        if bn not in STATISTICS:
            raise UserError(f"bn={bn!r} is unknown{nearest(str(bn), STATISTICS)}")
        if not len(batches):
            raise UserError("there is no batch to measure on; pass at least one")
        if mode not in MODES:
            raise UserError(f"mode={mode!r} is unknown{nearest(mode, MODES)}")
        weights = [1.0] * len(batches) if weights is None else [float(w) for w in weights]
        if len(weights) != len(batches) or min(weights) < 0 or sum(weights) <= 0:
            raise UserError(f"weights must be {len(batches)} numbers ≥ 0 (one per batch), not all 0; got {weights}")
        self.module, self.loss_fn, self.batches, self.mode, self.seed = module, loss_fn, batches, mode, seed
        self.params: dict[str, nn.Parameter] = dict(params) if params is not None else select(module)
        self.weights = [w / sum(weights) for w in weights]
        self._reduce = reduce
        self.process = process
        self.bn, self.bn_batches = bn, batches if bn_batches is None else bn_batches
        self._scanned = False
        self._rewind: Rewind | None = None
        self.written: list[str] = []

    @property
    def tensors(self) -> list[nn.Parameter]:
        """The measured parameters, in order."""
        return list(self.params.values())

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Return the context in which the methods below are called; on leaving, the module is as before."""
        half = {str(p.dtype) for p in self.tensors if p.dtype in (torch.float16, torch.bfloat16)}
        if half:
            raise UserError(
                f"the measured parameters are stored in {', '.join(sorted(half))}, which is too coarse to measure on; "
                "train with precision='bf16-mixed' or '16-mixed', which keep fp32 weights"
            )
        with measuring(self.module, self.mode) as state:
            for parameter in self.tensors:
                parameter.requires_grad_(True)
            leave = running_layers(self.module) if self.bn == "re-estimated" else []
            self._rewind = Rewind(self.module, state, leave)
            try:
                self.settle()
                yield
            finally:
                self.written, self._rewind = self._rewind.written or [], None

    def batch_loss(self, index: int, graph: bool = True) -> Tensor:
        """Return L_b, a scalar tensor, for the batch of this index.

        Raises:
            UserError: The loss function does not return a scalar tensor, its loss does not depend on the parameters, or
                it uses re-entrant gradient checkpointing.
        """
        with torch.set_grad_enabled(graph):
            loss = self._evaluate(self.batches[index])
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            got = f"a {tuple(loss.shape)} {loss.dtype} tensor" if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"the loss must be one floating-point number in a tensor; on batch {index} it is {got}")
        if graph and not loss.requires_grad:
            raise UserError(
                f"the loss of batch {index} has no gradient: it does not depend on the {len(self.params)} measured "
                "parameters, or was detached on the way"
            )
        if graph and not self._scanned:
            _refuse_reentrant(loss)
            self._scanned = True
        return loss.reshape(())

    def settle(self) -> None:
        """Re-estimate BatchNorm's statistics for the present weights, with ``bn="re-estimated"``."""
        if self.bn == "re-estimated":
            reestimate(self.module, self._evaluate, self.bn_batches, self._reduce)

    def _evaluate(self, batch: Any) -> Any:
        """Call the loss function, from the same random state and without the writes of the call before."""
        with nullcontext() if self._rewind is None else self._rewind.evaluation():
            seed_everything(self.seed)
            return self.loss_fn(self.module, batch)

    def loss(self) -> float:
        """Return L(θ), averaged over batches and processes."""
        self.settle()
        total = sum(w * self.batch_loss(i, graph=False).double() for i, w in enumerate(self.weights))
        return float(self.reduce(torch.as_tensor(total)))

    def gradient(self) -> list[Tensor]:
        """Return ∇L(θ), one tensor per parameter; zeros for parameters that are not used."""
        total = [torch.zeros_like(p) for p in self.tensors]
        for index, weight in enumerate(self.weights):
            grads = torch.autograd.grad(self.batch_loss(index), self.tensors, allow_unused=True)
            for into, grad in zip(total, grads, strict=True):
                if grad is not None:
                    into.add_(grad, alpha=weight)
        return self.reduce_list(total)

    def check_repeatable(self) -> None:
        """Evaluate the first batch twice.

        Raises:
            UserError: The two losses differ by more than rounding, so that no derivative means anything.
        """
        first, second = (float(self.batch_loss(0, graph=False)) for _ in range(2))
        if abs(first - second) > 1e-4 * max(abs(first), abs(second), 1e-12):
            raise UserError(
                f"the loss is not a function of the weights: two evaluations of one batch gave {first:.6g} and "
                f"{second:.6g}. Is there dropout by F.dropout(x) without training=self.training, or something outside "
                "the module's attributes that each call changes? Pass a loss_fn(module, batch) without it"
            )

    def reduce(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes."""
        return value if self._reduce is None else self._reduce(value)

    def reduce_list(self, tensors: list[Tensor]) -> list[Tensor]:
        """Average a list of tensors over the processes, in one message."""
        if self._reduce is None:
            return tensors
        flat = self._reduce(torch.cat([t.reshape(-1) for t in tensors]))
        pieces = flat.split([t.numel() for t in tensors])
        return [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)]


def _refuse_reentrant(loss: Tensor) -> None:
    """Refuse re-entrant checkpointing: autograd.grad silently ignores the parameters inside it."""
    for node in nodes_in_order([loss.grad_fn]):
        if node.name() == "CheckpointFunctionBackward":
            raise UserError(
                "the module uses re-entrant gradient checkpointing, which hides parameters from torch.autograd.grad; "
                "call torch.utils.checkpoint.checkpoint(..., use_reentrant=False) (Hugging Face: "
                "gradient_checkpointing_enable({'use_reentrant': False}))"
            )
