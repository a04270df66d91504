"""Run a module with other weights than its own, without writing to them: each layer has them only while it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from lightning_tl.errors import UserError
from lightning_tl.measure.params import clean_name
from lightning_tl.measure.sharded import is_sharded, local

Make = Callable[[str, Tensor], Tensor]
"""``(name, weight) -> the weight to use``; the given one is detached and must not be written."""

OnGradient = Callable[[str, Tensor], None]
"""``(name, gradient)``, once for each use of the weight."""

HALF = (torch.float16, torch.bfloat16)
_Entries = dict[str, Tensor | None]


class CannotSubstitute(UserError):
    """The weights of this module cannot be replaced while its layers run."""


@contextmanager
def virtual(
    module: nn.Module,
    names: Collection[str],
    make: Make,
    *,
    fp32: bool = True,
    grad: OnGradient | None = None,
) -> Iterator[None]:
    """Within, every layer runs with weights that a function makes of its own; its own are never written.

    Before a module that owns parameters runs, they are replaced by tensors made at that moment, and put back after it.
    Under FSDP2 they are whole then, so that the function sees the whole tensor. Memory is needed for the weights of the
    layers that run at one time, and with ``grad`` for those of the graph. With non-reentrant checkpointing the weights
    are made again for the second forward pass.

    Args:
        module: The module. Not wrapped by DDP; its parts may be wrapped by ``fully_shard``.
        names: Of the parameters to replace, as :func:`~lightning_tl.measure.params.select` names them.
        make: Makes the weight that is used, of the same shape; the same for the same arguments.
        fp32: Compute in fp32: parameters and buffers in half precision, and what comes into the layers that own them,
            are converted, also those that are not in ``names``.
        grad: Receives the gradient with respect to each made weight, in the backward pass; it is freed afterwards. A
            weight that is used twice is received twice. Other parameters get none. None: no weight gets a gradient.

    Raises:
        CannotSubstitute: While the module runs: a function reads a weight outside the module that owns it
            (``nn.MultiheadAttention`` reads that of its ``out_proj``), or a parameter is a DTensor while its module
            runs (tensor parallelism).
    """
    wanted = set(names)
    known = {id(parameter): clean_name(name) for name, parameter in module.named_parameters()}  # shared ones once
    substitutions = []
    with ExitStack() as stack:
        for child in module.modules():
            full = {entry: known[id(weight)] for entry, weight in child._parameters.items() if weight is not None}
            own = {entry: name for entry, name in full.items() if name in wanted}
            # those that are in fp32 now may be in half precision while they run (FSDP2's mixed precision)
            if own or (grad is not None and full) or (fp32 and any(t is not None for t in _tensors(child))):
                substitutions.append(_Substitution(child, own, fp32, make, grad))
                stack.enter_context(substitutions[-1])
        stack.enter_context(_DirectReads(substitutions))
        yield


def _tensors(module: nn.Module) -> Iterable[Tensor | None]:
    return [*module._parameters.values(), *module._buffers.values()]


class _Substitution:
    """Replaces the parameters of one module while it runs."""

    def __init__(
        self, module: nn.Module, names: dict[str, str], fp32: bool, make: Make, grad: OnGradient | None
    ) -> None:
        self.module, self._names, self._fp32, self._make, self._grad = module, names, fp32, make, grad
        self._half = False
        self._handles: list[Any] = []
        self._before: tuple[_Entries, _Entries] | None = None
        self._depth = 0

    def owned(self) -> Iterator[tuple[str, Tensor | None]]:
        """Yield the names and the module's own tensors, also while they are replaced."""
        before = self._before[0] if self._before is not None else {}
        for entry, name in self._names.items():
            yield name, before.get(entry, self.module._parameters[entry])

    def __enter__(self) -> None:
        # the last hook before the module's code and the first after it: FSDP2's, which gather and free, lie around
        self._handles = [
            self.module.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.module.register_forward_hook(self._end, prepend=True, always_call=True),
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._put_back()

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self._depth += 1
        if self._depth == 1:  # a module that calls itself has them already
            self._half = self._fp32 and any(t is not None and t.dtype in HALF for t in _tensors(module))
            with torch._C.DisableTorchFunction():
                self._replace()
        return tree_map(_single, (args, kwargs)) if self._half else None

    def _end(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth <= 0:
            self._put_back()

    def _put_back(self) -> None:
        self._depth = 0
        if self._before is not None:
            self.module._parameters.update(self._before[0])  # type: ignore[arg-type]
            self.module._buffers.update(self._before[1])
            self._before = None

    def _replace(self) -> None:
        parameters, buffers = self.module._parameters, self.module._buffers
        made: _Entries = {}
        followed = self._grad is not None and torch.is_grad_enabled()
        for entry, weight in parameters.items():
            if weight is None:
                continue
            name = self._names.get(entry)
            # with gradients also the others are replaced, by themselves without one: theirs belong to training
            if name is None and not followed and not (self._half and weight.dtype in HALF):
                continue
            if is_sharded(weight):
                raise CannotSubstitute(
                    f"parameter {entry!r} of a {type(self.module).__name__} is split over processes while its module "
                    "runs (tensor parallelism), which cannot be measured; use tensor_parallel_size=1"
                )
            with torch.no_grad():
                value = _single(weight.detach()) if self._half else weight.detach()
                if name is not None:
                    value = self._make(name, value)
            made[entry] = self._followed(name, value) if name is not None and followed else value
        halves = {e: b for e, b in buffers.items() if b is not None and b.dtype in HALF} if self._half else {}
        self._before = ({entry: parameters[entry] for entry in made}, dict(halves))
        parameters.update(made)  # type: ignore[arg-type]
        buffers.update({entry: _single(buffer) for entry, buffer in halves.items()})

    def _followed(self, name: str, value: Tensor) -> Tensor:
        """Return the weight as a leaf whose gradient is handed on and freed, where gradients are wanted."""
        grad = self._grad
        assert grad is not None
        leaf = value.detach().requires_grad_(True)

        def take(tensor: Tensor) -> None:
            gradient, tensor.grad = tensor.grad, None
            with torch.no_grad():
                if gradient is not None:
                    grad(name, gradient)

        leaf.register_post_accumulate_grad_hook(take)
        return leaf


class _DirectReads(TorchFunctionMode):
    """Refuses functions that get a parameter which should have been replaced: reads outside the module that owns it."""

    def __init__(self, substitutions: Iterable[_Substitution]) -> None:
        super().__init__()
        self._substitutions = substitutions

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            result = function(*args, **kwargs)
        except RuntimeError:  # of types, where the other weights are in fp32
            self._check_all((args, kwargs))
            raise
        if _holds_tensor(result):  # not a shape, a type or a device
            self._check_all((args, kwargs))
        return result

    def _check_all(self, arguments: Any) -> None:
        for value in _flat(arguments):
            if isinstance(value, nn.Parameter) and not is_sharded(value):
                self._check(value)

    def _check(self, parameter: nn.Parameter) -> None:
        for each in self._substitutions:
            for name, own in each.owned():
                if own is parameter:
                    raise CannotSubstitute(
                        f"the weight {name!r} is read in another way than by the forward pass of the module that owns "
                        f"it, a {type(each.module).__name__}, so it cannot be replaced without being written"
                    )


@contextmanager
def writes_refused(module: nn.Module) -> Iterator[None]:
    """Within, an operation that would write to a parameter of the module is refused, before it does.

    Raises:
        CannotSubstitute: Such an operation was called: a momentum encoder's update, the clamping of weights.
    """
    with torch._C.DisableTorchFunction():  # not a read by the loss
        own = {_address(local(parameter)): clean_name(name) for name, parameter in module.named_parameters()}
    own.pop(0, None)  # empty tensors, and those on no device
    with _Writes(own):
        yield


class _Writes(TorchDispatchMode):
    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = names

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            for position, argument in enumerate(function._schema.arguments):
                if argument.alias_info is None or not argument.alias_info.is_write:
                    continue
                for value in _flat(args[position] if position < len(args) else kwargs.get(argument.name)):
                    name = self._names.get(_address(value)) if isinstance(value, Tensor) else None
                    if name is not None and not is_sharded(value):
                        raise CannotSubstitute(
                            f"the loss writes to the weight {name!r} ({function.__name__}); a module that is sharded "
                            "or in half precision cannot be measured by such a loss. Pass loss_fn(module, batch) that "
                            "does not write"
                        )
        return function(*args, **kwargs)


def measured_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which a tensor of this type is measured: fp32 for half precision."""
    return torch.float32 if dtype in HALF else dtype


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a tensor without memory
        return 0


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _flat(item)
    else:
        yield value


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(item, Tensor) for item in _flat(value))
