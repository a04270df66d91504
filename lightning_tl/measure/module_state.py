"""What a module holds at one moment, and how to put it back: weights, buffers, attributes, and the objects in them."""

from __future__ import annotations

import copy
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Objects of classes derived from these packages' are not looked into: trainers, optimisers, loggers, data sets.
_FOREIGN = {"lightning", "lightning_fabric", "lightning_utilities", "logging", "pytorch_lightning", "torch"}
_CONTAINERS = (dict, list, tuple, set, deque)
_NO_OBJECTS = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
# What torch keeps in each module for itself; hooks that a measurement registers are among it.
_INTERNAL = frozenset(vars(nn.Module())) - {"_buffers", "_parameters", "training"}
_DEPTH = 3


class TensorState:
    """The values of one tensor, and the memory they are in.

    Tensors that are written through ``.data``, or that get another ``.data``, are noticed too, which torch's version
    counters do not do.

    Args:
        tensor: A dense tensor on a device; it may share memory with itself (``expand``).
        name: For messages.
    """

    def __init__(self, tensor: Tensor, name: str = "") -> None:
        self.tensor, self.name = tensor, name
        self.keep()

    def keep(self) -> None:
        """Take the present values as those to restore."""
        self.memory = self.tensor.detach()
        self.copy = _own_elements(self.memory).clone()
        self.version = version(self.tensor)

    def before(self) -> TensorState:
        """Return the same memory with the present values; no new copy is made where nobody wrote them since."""
        other = copy.copy(self)
        if self.version is None or self.version != version(self.tensor):
            other.keep()
        return other

    def changed(self) -> bool:
        """Return whether the tensor has other values than were kept, or is in other memory."""
        present = self.tensor.detach()
        return not (_same_memory(present, self.memory) and torch.equal(_own_elements(present), self.copy))

    def restore(self) -> None:
        """Put the memory and the values back; a tensor that nobody wrote is not written."""
        if not _same_memory(self.tensor.detach(), self.memory):
            self.tensor.data = self.memory
        values = _own_elements(self.memory)
        if not torch.equal(values, self.copy):
            # a tensor created under inference mode (a metric of trainer.validate) can only be written there
            with torch.inference_mode(values.is_inference()), torch.no_grad():
                values.copy_(self.copy)


class ModuleState:
    """Tensors, attributes and containers of a module and of the modules in it, tensors by value.

    Looked into are the attributes of all modules, also of modules in plain lists; lists, dicts, tuples, sets, deques in
    them; objects that hold tensors (a moving average of the weights, of any class); arrays and random generators.

    Args:
        module: The module.
        values: Keep the values of tensors; else only which tensor is where.
        internals: Keep what torch keeps in each module for itself, such as hooks.
        parameters: Keep parameters; without, they are neither copied nor put back.
        leave: Modules in it whose attributes are not kept.

    Attributes:
        tensors: All tensors that were found.
    """

    def __init__(
        self,
        module: nn.Module,
        values: bool = True,
        internals: bool = True,
        leave: Iterable[nn.Module] = (),
        parameters: bool = True,
    ) -> None:
        self.tensors: list[TensorState] = []
        self._values, self._internals, self._parameters = values, internals, parameters
        self._seen = {id(child) for child in leave}
        if not parameters:
            self._seen |= {id(parameter) for parameter in module.parameters()}
        self._namespaces: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._contents: list[tuple[Any, Any]] = []
        self._others: list[Callable[[], None]] = []
        self._visit_module(module, "")

    def restore(self) -> None:
        """Put everything back; each part is tried, whatever happens to the others."""
        steps: list[Callable[[], None]] = []
        for present, before in self._namespaces:
            steps.append(functools.partial(_restore_namespace, present, before, self._skipped))
        for container, content in self._contents:
            steps.append(functools.partial(_restore_content, container, content))
        steps += self._others
        steps += [state.restore for state in self.tensors]
        run_all(steps)

    @property
    def _skipped(self) -> frozenset[str]:
        return frozenset() if self._internals else _INTERNAL

    def _visit_module(self, module: nn.Module, name: str) -> None:
        for path, child in module.named_modules():
            if id(child) in self._seen:
                continue
            self._seen.add(id(child))
            prefix = ".".join(filter(None, (name, path)))
            namespace = vars(child)
            self._namespaces.append((namespace, {k: v for k, v in namespace.items() if k not in self._skipped}))
            for key, value in namespace.items():
                if key in _INTERNAL:
                    if self._internals and isinstance(value, dict):
                        self._contents.append((value, dict(value)))
                elif key == "_parameters" and not self._parameters:
                    continue
                elif key in ("_buffers", "_parameters"):
                    self._contents.append((value, dict(value)))
                    for entry, item in value.items():
                        self._visit(item, f"{prefix}.{entry}".lstrip("."), 0)
                else:
                    self._visit(value, f"{prefix}.{key}".lstrip("."), _DEPTH)

    def _visit(self, value: Any, name: str, depth: int) -> None:
        if value is None or isinstance(value, (str, int, float, bool)) or id(value) in self._seen:
            return
        if isinstance(value, Tensor):
            self._seen.add(id(value))
            if self._values and _is_kept(value):
                self.tensors.append(TensorState(value, name))
        elif depth and isinstance(value, nn.Module):
            self._visit_module(value, name)
        elif depth and isinstance(value, _CONTAINERS):
            self._seen.add(id(value))
            if not isinstance(value, tuple):
                self._contents.append((value, dict(value) if isinstance(value, dict) else value.copy()))
            for item in value.values() if isinstance(value, dict) else value:
                self._visit(item, name, depth - 1)
        elif (state := _restoring(value)) is not None:
            self._seen.add(id(value))
            self._others.append(state)
        elif depth and _holds_tensors(value):
            self._seen.add(id(value))
            self._namespaces.append((vars(value), dict(vars(value))))
            for key, item in vars(value).items():
                self._visit(item, f"{name}.{key}", depth - 1)


def run_all(steps: Iterable[Callable[[], None]]) -> None:
    """Take all steps, whatever some of them raise; then raise the first exception, if there was one."""
    first: Exception | None = None
    for step in steps:
        try:
            step()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first


def version(tensor: Tensor) -> int | None:
    """Return how often a tensor was written, or None if torch does not count it (inference mode)."""
    return None if tensor.is_inference() or torch.is_inference_mode_enabled() else tensor._version


def _is_kept(tensor: Tensor) -> bool:
    # Meta and sparse tensors hold nothing that a forward pass changes; lazy parameters hold nothing yet.
    lazy = isinstance(tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer)
    return not lazy and tensor.layout == torch.strided and tensor.device.type != "meta"


def _own_elements(tensor: Tensor) -> Tensor:
    """Return a view of a tensor in which no element shares its memory with another: of an expanded one, its source."""
    if all(stride or size <= 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        if tensor.is_contiguous() or torch._debug_has_internal_overlap(tensor) != 1:
            return tensor
        span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        return tensor.as_strided((span,), (1,))
    sizes = [size if stride else min(size, 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)]
    return tensor.as_strided(sizes, tensor.stride())


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _restore_namespace(present: dict[str, Any], before: dict[str, Any], skipped: frozenset[str]) -> None:
    own = {key: value for key, value in present.items() if key not in skipped} if skipped else present
    if own.keys() == before.keys() and all(own[key] is value for key, value in before.items()):
        return
    kept = {key: value for key, value in present.items() if key in skipped}
    present.clear()
    present.update(kept | before)


def _restore_content(container: Any, content: Any) -> None:
    if isinstance(container, MutableMapping):
        same = container.keys() == content.keys() and all(container[k] is v for k, v in content.items())
    else:
        same = len(container) == len(content) and all(a is b for a, b in zip(container, content, strict=True))
    if not same:
        container.clear()
        container.update(content) if isinstance(container, dict | set) else container.extend(content)


def _restoring(value: Any) -> Callable[[], None] | None:
    """Return a function that restores an array's or a random generator's present state; None for anything else."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: None if torch.equal(value.get_state(), state) else _call(value.set_state, state)
    if isinstance(value, random.Random):
        python = value.getstate()
        return lambda: value.setstate(python)
    if isinstance(value, np.random.Generator):
        bits, numpy_state = value.bit_generator, value.bit_generator.state
        return lambda: setattr(bits, "state", numpy_state)
    if isinstance(value, np.random.RandomState):
        legacy = value.get_state()
        return lambda: value.set_state(legacy)
    if isinstance(value, np.ndarray) and value.flags.writeable and value.dtype != object:
        array = value.copy()
        return lambda: np.copyto(value, array)
    return None


def _call(function: Callable[[Any], Any], argument: Any) -> None:
    function(argument)


def _holds_tensors(value: Any) -> bool:
    """Return whether a value is an object with attributes, among them a tensor, a module or a container of these."""
    if isinstance(value, _NO_OBJECTS):
        return False
    if any(kind.__module__.partition(".")[0] in _FOREIGN for kind in type(value).__mro__):
        return False
    return any(isinstance(item, Tensor | nn.Module) for item in _items(getattr(value, "__dict__", {})))


def _items(namespace: dict[str, Any]) -> Iterator[Any]:
    for value in namespace.values():
        yield value
        if isinstance(value, _CONTAINERS):
            yield from value.values() if isinstance(value, dict) else value
