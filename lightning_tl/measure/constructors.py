"""Does the code of a class's constructor write weights, after its layers have initialised themselves?"""

from __future__ import annotations

import functools
import inspect
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

#: names of the calls by which weights are written
_WRITES = frozenset(name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")) | frozenset(
    """zero_ fill_ copy_ mul_ div_ exponential_ init_weights initialize_weights _init_weights _initialize_weights
    weights_init weight_init""".split()  # noqa: SIM905
)
# a layer's own initialisation
_RESETS = frozenset({"reset_parameters", "_reset_parameters"})
# the initialisation of these is known, and their subclasses need not repeat it
_LIBRARIES = ("torch.", "lightning.", "pytorch_lightning.", "builtins")


@functools.cache
def writes_weights(kind: type) -> bool:
    """Return whether the constructor of a module class seems to initialise weights; torch's own classes do not count.

    The names are searched that the constructor uses, including those of the methods and functions that it calls.
    Nothing is executed. What a function outside the class does to a finished module is not seen.
    """
    for owner in kind.__mro__:
        if owner is object or f"{owner.__module__}.".startswith(_LIBRARIES):
            continue
        constructor = vars(owner).get("__init__")
        if isinstance(constructor, FunctionType) and _reaches(constructor, kind, set()):
            return True
    return False


def _reaches(function: FunctionType, kind: type, seen: set[CodeType]) -> bool:
    if function.__code__ in seen or len(seen) > 200:
        return False
    seen.add(function.__code__)
    names = _names(function.__code__) - _RESETS
    if names & _WRITES:
        return True
    modules = [value for name in names if isinstance(value := function.__globals__.get(name), ModuleType)]
    for name in names:
        called: list[Any] = [inspect.getattr_static(kind, name, None), function.__globals__.get(name)]
        called += [vars(module).get(name) for module in modules]
        for value in called:
            value = inspect.unwrap(getattr(value, "__func__", value))  # a static or class method, a decorated one
            own = isinstance(value, FunctionType) and not f"{value.__module__}.".startswith(_LIBRARIES)
            if own and _reaches(value, kind, seen):
                return True
    return False


def _names(code: CodeType) -> set[str]:
    """Return the global and attribute names that code uses, nested functions included."""
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))
