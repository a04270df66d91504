"""Leave no trace: weights, buffers, gradients, modes, plain attributes and random states."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

MODES = ("eval", "frozen-train")


@contextmanager
def untouched(module: nn.Module, weights: bool = True) -> Iterator[None]:
    """Restore a module and the random state on leaving, exceptions included.

    Restored: parameters and their ``.grad`` and ``requires_grad``, buffers, every module's ``training`` flag, every
    attribute of every module (numbers, tensors, and the content of lists, dicts, sets and deques one level deep: step
    counters, collected outputs, torchmetrics states), and the random states of Python, NumPy and torch (CPU and CUDA).
    The autocast cache is emptied.

    Args:
        module: The module that the body runs, changes or both.
        weights: Keep a copy of the parameters, which costs their size in memory. Without it they are trusted to stay.
    """
    parameters = list(module.parameters())
    gradients = [(p, p.grad, p.requires_grad) for p in parameters]
    copies = [(p, p.detach().clone(), _version(p)) for p in parameters] if weights else []
    attributes = [_Attributes(child) for child in module.modules()]
    restore_random = random_state()
    torch.clear_autocast_cache()
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, copy, version in copies:
                if version is None or version != _version(parameter):
                    parameter.copy_(copy)
            for state in attributes:
                state.restore()
        for parameter, gradient, required in gradients:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        restore_random()
        torch.clear_autocast_cache()


@contextmanager
def measuring(module: nn.Module, mode: str = "eval", weights: bool = True) -> Iterator[None]:
    """Enter the state in which losses are measured, and leave as if nothing had happened.

    Within: :func:`untouched`, evaluation mode, gradients enabled also under inference mode, fp32 (autocast off),
    compiled code run uncompiled, and attention by its mathematical kernel (the fused ones have no double backward).

    Args:
        module: The module to measure.
        mode: ``eval``, or ``frozen-train``: train mode with dropout and normalisation statistics in eval mode, for
            detectors that return losses only in train mode.
        weights: As in :func:`untouched`.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(untouched(module, weights=weights))
        for device_type in {p.device.type for p in module.parameters()} | {"cpu"}:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        if torch.compiler.is_compiling() is False:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        set_mode(module, mode)
        yield


def set_mode(module: nn.Module, mode: str) -> None:
    """Put a module into one of :data:`MODES`."""
    if mode == "eval":
        module.eval()
        return
    module.train()
    for child in module.modules():
        if isinstance(child, _DropoutNd | _NormBase):
            child.eval()


def random_state() -> Callable[[], None]:
    """Return a function that puts the present random states of Python, NumPy and torch back."""
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
    torch.manual_seed(seed)


class _Attributes:
    """One module's ``__dict__``, one level deep, tensors by value."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.values = dict(vars(module))
        self.contents: list[tuple[Any, Any]] = []
        self.tensors: list[tuple[Tensor, Tensor]] = []
        for value in self.values.values():
            self._keep(value)
            if isinstance(value, dict):
                self.contents.append((value, dict(value)))
            elif isinstance(value, list | set | deque):
                self.contents.append((value, value.copy()))
            if isinstance(value, dict | list | tuple | deque):
                for item in value.values() if isinstance(value, dict) else value:
                    self._keep(item)

    def _keep(self, value: Any) -> None:
        # Parameters are the guard's own concern; meta and sparse tensors hold nothing that a forward pass changes.
        plain = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
        if plain and value.layout == torch.strided and value.device.type != "meta":
            self.tensors.append((value, value.detach().clone()))

    def restore(self) -> None:
        present = vars(self.module)
        if present.keys() != self.values.keys() or any(present[k] is not v for k, v in self.values.items()):
            present.clear()
            present.update(self.values)
        for container, content in self.contents:
            if isinstance(container, MutableMapping):
                same = container.keys() == content.keys() and all(container[k] is v for k, v in content.items())
            else:
                same = len(container) == len(content) and all(a is b for a, b in zip(container, content, strict=True))
            if not same:
                container.clear()
                container.update(content) if isinstance(container, dict | set) else container.extend(content)
        for tensor, copy in self.tensors:
            # a tensor made under inference mode (a metric of trainer.validate) may only be written there
            with torch.inference_mode(tensor.is_inference()):
                tensor.detach().copy_(copy)


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor was written, or None where torch does not count (inference mode)."""
    return None if tensor.is_inference() or torch.is_inference_mode_enabled() else tensor._version
