"""A module measured without a trace: restored afterwards, and before each evaluation of its loss."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from lightning_tl.measure.module_state import ModuleState, TensorState, run_all, version
from lightning_tl.torch_seed import seed_torch

Mode = Literal["eval", "frozen-train"]
MODES: tuple[Mode, ...] = get_args(Mode)


@contextmanager
def untouched(module: nn.Module, parameters: bool = True) -> Iterator[ModuleState]:
    """Restore a module and the random state on leaving, exceptions included.

    Restored: parameters and their ``.grad`` and ``requires_grad``, buffers, every module's ``training`` flag, every
    attribute of every module with what it contains (:class:`~lightning_tl.measure.module_state.ModuleState`: step
    counters, collected outputs, torchmetrics states, moving averages), and the random states of Python, NumPy and torch
    (CPU and CUDA). The autocast cache is emptied. Costs the memory of a copy of parameters and buffers.

    Args:
        module: The module that the body runs, changes or both.
        parameters: Restore parameters; without, they are not copied, and the body must not change them.

    Yields:
        What is restored.
    """
    gradients = [(p, p.grad, p.requires_grad) for p in module.parameters()] if parameters else []
    state = ModuleState(module, parameters=parameters)
    restore_random = random_state()
    torch.clear_autocast_cache()
    for parameter, _, _ in gradients:
        parameter.grad = None

    def restore_gradients() -> None:
        for parameter, gradient, required in gradients:
            parameter.requires_grad_(required)
            parameter.grad = gradient

    try:
        yield state
    finally:
        run_all([state.restore, restore_gradients, restore_random, torch.clear_autocast_cache])


@contextmanager
def measuring(module: nn.Module, mode: Mode = "eval", parameters: bool = True) -> Iterator[ModuleState]:
    """Enter the state in which losses are measured, and leave as if nothing had happened.

    Within: :func:`untouched`, the mode that is asked for, gradients enabled (under inference mode too), fp32 (autocast
    off), compiled code run uncompiled, and attention by its mathematical kernel, as the fused kernels have no double
    backward.

    Args:
        module: The module to measure.
        mode: ``eval``, or ``frozen-train``: train mode with dropout and normalisation statistics in eval mode, for
            detectors that return losses only in train mode.
        parameters: As for :func:`untouched`. Without, attention may use fused kernels.

    Yields:
        What is restored on leaving.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        state = stack.enter_context(untouched(module, parameters))
        for device_type in {p.device.type for p in module.parameters()} | {"cpu"}:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        if parameters:
            stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        if torch.compiler.is_compiling() is False:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        set_mode(module, mode)
        yield state


class Rewind:
    """Undoes what each evaluation of a loss writes, before the next one.

    A ``training_step`` may write to weights itself: a momentum encoder (BYOL, MoCo), the centre of DINO's loss, a
    queue, clamped weights. Evaluated again, it would start from other values, and the loss would be no function of the
    weights. What is written is found at the first evaluation. Values that the measurement has written since (perturbed
    weights, BatchNorm's statistics) are kept.

    Args:
        module: The module.
        state: Its state on entering, with the values of its tensors.
        leave: Modules whose attributes and buffers are not restored.
        parameters: Undo what is written to parameters.

    Attributes:
        written: Names of the parameters, buffers and other tensors that the first evaluation wrote; None before it.
    """

    def __init__(
        self, module: nn.Module, state: ModuleState, leave: Iterable[nn.Module] = (), parameters: bool = True
    ) -> None:
        self._attributes = ModuleState(module, values=False, internals=False, leave=leave, parameters=parameters)
        buffers = {id(b) for child in leave for b in child.buffers(recurse=False)}
        self._tensors = [tensor for tensor in state.tensors if id(tensor.tensor) not in buffers]
        self.written: list[str] | None = None
        self._own: list[tuple[TensorState, int | None]] = []

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within, the loss is evaluated once; a graph recorded there can be used until the next time."""
        self._undo()
        before = [tensor.before() for tensor in self._tensors] if self.written is None else []
        yield
        if self.written is None:
            changed = [tensor for tensor in before if tensor.changed()]
            self.written = [tensor.name for tensor in changed]
            self._own = [(tensor, None) for tensor in changed]
        self._own = [(tensor, version(tensor.tensor)) for tensor, _ in self._own]

    def _undo(self) -> None:
        self._attributes.restore()
        for tensor, then in self._own:
            if then is not None and version(tensor.tensor) == then:
                tensor.restore()
            else:
                tensor.keep()


def set_mode(module: nn.Module, mode: Mode) -> None:
    """Put a module into one of :data:`MODES`."""
    if mode == "eval":
        module.eval()
        return
    module.train()
    for child in module.modules():
        if isinstance(child, _DropoutNd | _NormBase):
            child.eval()


def random_state() -> Callable[[], None]:
    """Return a function that restores the present random states of Python, NumPy and torch."""
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return restore


def seed_everything(seed: int) -> None:
    """Seed the global generators; only ever called inside :func:`untouched`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    seed_torch(seed)
