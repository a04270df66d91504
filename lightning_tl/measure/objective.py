"""What is measured: a scalar loss of a module's parameters over fixed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.affine import nodes_in_order
from lightning_tl.measure.batchnorm import STATISTICS, Statistics, reestimate, running_layers
from lightning_tl.measure.guard import MODES, Mode, Rewind, measuring, seed_everything
from lightning_tl.measure.params import clean_name, listed, select
from lightning_tl.measure.sharded import activations_kept, gradients_unsynchronised, is_sharded, reshard, sharding
from lightning_tl.measure.virtual import HALF, Make, OnGradient, measured_type, virtual, writes_refused

LossFn = Callable[[nn.Module, Any], Tensor]
"""``(module, batch) -> scalar tensor`` with a graph back to the module's parameters."""

#: Nats. Differences of the loss that a forward pass in bfloat16 makes by rounding, of a Llama of 1.9M parameters on 12
#: sequences.
HALF_FLOOR = 4e-4

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
        substitute: Change weights by giving each layer other ones while it runs
            (:func:`~lightning_tl.measure.virtual.virtual`): nothing is written, no copy of the weights is made, and
            the layers compute in fp32. Default: only where weights cannot be written, because they are split by
            ``fully_shard`` (FSDP2) or stored in half precision. Derivatives are then differences.
        half_forward: Run the layers of a module whose weights are stored in half precision in that precision: faster,
            but differences of the loss below :meth:`rounding` mean nothing. Losses only, no derivatives.

    Attributes:
        sharded: The module is split by ``fully_shard``. ``reduce`` is then by default the mean over all processes.
        substitute: Weights are substituted.
        make: With ``substitute``, what makes the weights of the next evaluations; None: those of the module.
        written: Names of the parameters and other tensors that the loss function itself writes, as seen in the last
            measurement; they are put back before each evaluation and afterwards.

    Raises:
        UserError: There are no batches, the weights do not fit them, the mode or ``bn`` is unknown, or the module is
            split by tensor parallelism.
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
        substitute: bool | None = None,
        half_forward: bool = False,
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
        self.sharded = sharding(module)
        reshard(module)
        self.params: dict[str, nn.Parameter] = dict(params) if params is not None else select(module)
        if self.sharded:  # those that were selected while the module was gathered are others
            own = {clean_name(name): parameter for name, parameter in module.named_parameters()}
            self.params = {name: own[name] for name in self.params}
            if reduce is None and torch.distributed.is_initialized():
                reduce, process = (
                    mean_over_processes,
                    (torch.distributed.get_rank(), torch.distributed.get_world_size()),
                )
        elif split := [name for name, parameter in self.params.items() if is_sharded(parameter)]:
            raise UserError(
                f"{listed(split)} are split over processes (DTensor) without fully_shard, as by tensor parallelism, "
                "which cannot be measured; use fully_shard only, or measure saved checkpoints"
            )
        half = [name for name, parameter in self.params.items() if parameter.dtype in HALF]
        self.must_substitute = self.sharded or bool(half)
        self.substitute = self.must_substitute or bool(substitute)
        if bn == "re-estimated" and half and running_layers(module):
            raise UserError(
                "bn='re-estimated' needs BatchNorm's statistics in fp32; train with precision='bf16-mixed', which "
                "keeps fp32 weights"
            )
        if half_forward and not half:
            raise UserError(
                "half_forward=True needs weights stored in half precision (module.bfloat16()); these are in fp32"
            )
        self.half_forward = half_forward
        self.make: Make | None = None
        self._take: OnGradient | None = None
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
        with ExitStack() as stack:
            if self.substitute:
                reshard(self.module)
                stack.callback(reshard, self.module)
                stack.enter_context(gradients_unsynchronised(self.module))
                stack.enter_context(activations_kept(self.module))
            state = stack.enter_context(measuring(self.module, self.mode, parameters=not self.substitute))
            if self.substitute:
                stack.callback(reshard, self.module)
                fp32 = not self.half_forward
                stack.enter_context(virtual(self.module, self.params, self._made, fp32=fp32, grad=self._received))
            else:
                for parameter in self.tensors:
                    parameter.requires_grad_(True)
            leave = running_layers(self.module) if self.bn == "re-estimated" else []
            self._rewind = Rewind(self.module, state, leave, parameters=not self.substitute)
            try:
                self.settle()
                yield
            finally:
                self.written, self._rewind, self.make = self._rewind.written or [], None, None

    def _made(self, name: str, weight: Tensor) -> Tensor:
        if self.make is None:
            return weight
        return self.make(name, weight.to(measured_type(weight.dtype))).to(weight.dtype)

    def _received(self, name: str, gradient: Tensor) -> None:
        if self._take is not None:
            self._take(name, gradient)

    def batch_loss(self, index: int, graph: bool = True) -> Tensor:
        """Return L_b, a scalar tensor, for the batch of this index.

        Raises:
            UserError: The loss function does not return a scalar tensor, its loss does not depend on the parameters, or
                it uses re-entrant gradient checkpointing.
        """
        if graph and self.half_forward:
            raise UserError("half_forward=True: derivatives need a forward pass in fp32; leave half_forward out")
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
        if self.substitute:
            reshard(self.module)  # what an evaluation leaves gathered has entries of the weights without our hooks
        with nullcontext() if self._rewind is None else self._rewind.evaluation():
            seed_everything(self.seed)
            with writes_refused(self.module) if self.substitute else nullcontext():
                return self.loss_fn(self.module, batch)

    def batch_losses(self) -> Tensor:
        """Return L_b of this process's batches, [number of batches], in float64."""
        self.settle()
        return torch.stack([self.batch_loss(i, graph=False).double() for i in range(len(self.batches))])

    def rounding(self, loss: float) -> float:
        """Return the size of loss differences that rounding by itself can make.

        In fp32 its machine epsilon times the loss. With ``half_forward`` what the rounding of the layers does to this
        loss, |L in half precision − L in fp32| (one more pass in fp32), but at least :data:`HALF_FLOOR`.

        Args:
            loss: L(θ) as measured, outside :meth:`measuring`.
        """
        if not self.half_forward:
            return torch.finfo(measured_type(self.tensors[0].dtype)).eps * abs(loss)
        self.half_forward = False
        try:
            with self.measuring():
                return max(HALF_FLOOR, abs(self.loss() - loss))
        finally:
            self.half_forward = True

    def mean(self, by_batch: Tensor) -> float:
        """Return the weighted mean of one number per batch, over all processes."""
        return float(self.reduce(sum(w * value for w, value in zip(self.weights, by_batch, strict=True))))

    def loss(self) -> float:
        """Return L(θ), averaged over batches and processes."""
        return self.mean(self.batch_losses())

    def each_gradient(self, take: OnGradient) -> None:
        """Hand on the gradients of all w_b L_b of this process, tensor by tensor, with ``substitute``; none is kept.

        Args:
            take: ``(name, gradient)``. Names occur several times, or not at all where a weight is not used.
        """
        for index, weight in enumerate(self.weights):
            loss = self.batch_loss(index) * weight
            self._take = take
            try:
                loss.backward()
            finally:
                self._take = None

    def gradient(self) -> list[Tensor]:
        """Return ∇L(θ), one tensor per parameter; zeros for parameters that are not used.

        Raises:
            UserError: The module is sharded, so that no process may hold it whole.
        """
        if self.sharded:
            raise UserError("the whole gradient of a sharded module (FSDP2) is not held by any process")
        if self.substitute:
            kept = {name: torch.zeros_like(p, dtype=measured_type(p.dtype)) for name, p in self.params.items()}

            def add(name: str, gradient: Tensor) -> None:
                kept[name].add_(gradient)

            self.each_gradient(add)
            return self.reduce_list(list(kept.values()))
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


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes of the default group."""
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def _refuse_reentrant(loss: Tensor) -> None:
    """Refuse re-entrant checkpointing: autograd.grad silently ignores the parameters inside it."""
    for node in nodes_in_order([loss.grad_fn]):
        if node.name() == "CheckpointFunctionBackward":
            raise UserError(
                "the module uses re-entrant gradient checkpointing, which hides parameters from torch.autograd.grad; "
                "call torch.utils.checkpoint.checkpoint(..., use_reentrant=False) (Hugging Face: "
                "gradient_checkpointing_enable({'use_reentrant': False}))"
            )
