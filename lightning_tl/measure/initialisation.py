"""How the parameters of a module are initialised, according to the module itself."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.measure.constructors import writes_weights
from lightning_tl.measure.layer_kinds import is_rms_norm
from lightning_tl.measure.libraries import Build, blank_copy, rebuilds, reset, reset_method
from lightning_tl.measure.lora import find_adapters
from lightning_tl.measure.params import clean_name, listed
from lightning_tl.measure.spread import spreads
from lightning_tl.measure.start_weights import StartSpread, start_spreads

_log = logging.getLogger(__name__)

#: A module's method that takes no arguments and returns a module with the same parameter names and newly drawn weights.
#: It must not change the module, nor read a checkpoint.
PROTOCOL = "freshly_initialised"
REMEDY = (
    f"Define a method {PROTOCOL}() of the module that returns a newly built one, or pass reference=<a function that "
    "builds a fresh module>, or the path or state dict of a freshly initialised one; or choose noise='relative' or "
    "'isotropic'"
)

_START, _NOW = "their values at the start of the run", "their present values"


@dataclass
class Initialisation:
    """How parameters are initialised.

    Attributes:
        spreads: By parameter name the standard deviation of its initialisation; 0 for constants.
        sources: By parameter name what initialised it, in words.
        doubts: One sentence per reason for doubt, with the layers that may be initialised in another way.
    """

    spreads: dict[str, float] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return in one sentence how many parameters each source has initialised, and the names of the fewest."""
        by_source: dict[str, list[str]] = {}
        for name, source in self.sources.items():
            by_source.setdefault(source, []).append(name)
        parts = [
            f"{source} ({len(names)} parameters)" if len(names) > 6 else f"{source} ({listed(names)})"
            for source, names in sorted(by_source.items(), key=lambda item: -len(item[1]))
        ]
        return f"noise='init': the scale of the noise is from {'; '.join(parts)}"


def own_initialisation(
    module: nn.Module, params: Mapping[str, Tensor], start: Mapping[str, StartSpread] | None = None
) -> Initialisation:
    """Find how parameters are initialised, from the module's top down, each by the first of these that exists.

    1. Its own method ``freshly_initialised()``.
    2. Its library: timm's ``create_model`` or ``init_weights``, a Hugging Face model built from its ``config``.
    3. The layer's own ``reset_parameters()`` on a copy, the layers inside it first. That is not certain if a module
       around it writes weights in its constructor, or if the start of the run has another spread. An RMSNorm without
       that method starts from a constant.
    4. The spread at the start of the run (``start``), in place of 3 if that is not certain and the weights looked
       freshly drawn then; the present spread if there is nothing else, with a doubt.

    Draws from the global random generators.

    Args:
        module: The module; it is not changed.
        params: Name → parameter of the module.
        start: From :func:`~lightning_tl.measure.start_weights.start_spreads`, if this is a run that began with newly
            initialised weights, or may have.

    Raises:
        UserError: Some parameters are those of LoRA adapters; a ``freshly_initialised()`` returns something else.
    """
    adapters = {name for adapter in find_adapters(module) for name in adapter.names}
    if lora := [name for name in params if name in adapters]:
        raise UserError(
            f"noise='init': {listed(lora, 2)} are LoRA's parameters, whose product starts at 0, so that noise has no "
            "scale; measure the frozen weights with trainable=False, exclude='lora_', or choose noise='relative' or "
            "'isotropic'"
        )
    search = _Search(module, params, start or {})
    search.visit(module, ())
    return search.finish()


class _Search:
    def __init__(self, module: nn.Module, params: Mapping[str, Tensor], start: Mapping[str, StartSpread]) -> None:
        self.module, self.params, self.start = module, params, start
        drawn = [found.drawn for found in start.values() if found.spread and found.drawn is not None]
        self.fresh = bool(drawn) and sum(drawn) > 0.9 * len(drawn)
        self.names = {id(p): name for name, p in params.items()}
        self.result = Initialisation()
        self.doubtful: dict[str, list[str]] = {}

    def visit(self, module: nn.Module, around: tuple[type, ...]) -> None:
        """Search a module that is inside modules of the types ``around``."""
        if not self._todo(module):
            return
        around = (*around, type(module))
        if callable(getattr(module, PROTOCOL, None)):
            self._take(module, f"{type(module).__name__}.{PROTOCOL}()", functools.partial(_call_protocol, module))
        if self._rebuild(module):
            around = around[:-1]
        if self._todo(module) and reset_method(module):
            self._reset(module, around)
            return
        if is_rms_norm(module):
            for p in self._todo(module).values():
                self._note(p, 0.0, "RMSNorm, a constant")
        for child in module.children():
            self.visit(child, around)

    def finish(self) -> Initialisation:
        """Use the spread of the values at the start of the run, or now, where nothing else is known."""
        unknown = {name: p for name, p in self.params.items() if name not in self.result.spreads}
        present = start_spreads({name: p for name, p in unknown.items() if name not in self.start})
        for name, p in unknown.items():
            known = self.start.get(name)
            self._note(p, (known or present[name]).spread, _NOW if known is None else _START)
            if known is None or not self._drawn(known):
                self._doubt(f"The spread of {_NOW if known is None else _START} is used", [p])
        for reason, layers in self.doubtful.items():
            count = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
            self.result.doubts.append(
                f"noise='init': it is not certain how the weights of {count} are initialised: {listed(layers)}. "
                f"{reason}. {REMEDY}"
            )
        return self.result

    def _drawn(self, start: StartSpread) -> bool:
        """Return whether weights looked freshly drawn; small ones if nearly all large ones did."""
        return self.fresh if start.drawn is None else start.drawn

    def _todo(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the module's parameters whose initialisation is not known yet, by their names in it."""
        return {
            clean_name(name): p
            for name, p in module.named_parameters(remove_duplicate=False)
            if id(p) in self.names and self.names[id(p)] not in self.result.spreads
        }

    def _note(self, parameter: Tensor, spread: float, source: str) -> None:
        name = self.names[id(parameter)]
        self.result.spreads.setdefault(name, spread)
        self.result.sources.setdefault(name, source)

    def _take(self, module: nn.Module, source: str, build: Build) -> set[str]:
        """Note the spreads of the parameters that a fresh module has, and return their names in the module."""
        todo = self._todo(module)
        drawn = spreads(lambda: dict(build().named_parameters(remove_duplicate=False)), todo)
        for name, spread in drawn.items():
            self._note(todo[name], spread, source)
        return set(drawn)

    def _rebuild(self, module: nn.Module) -> bool:
        """Build a library's model again; return True if only a classifier is not covered, which its user has put in."""
        get_classifier = getattr(module, "get_classifier", None)
        matched = False
        for source, build, of_the_rest in rebuilds(module):
            if matched and not of_the_rest:
                continue
            before = self._todo(module)
            try:
                taken = self._take(module, source, build)
            except Exception as error:  # whatever the library raises, another way may work
                _log.info("%s does not build %s anew: %s", source, type(module).__name__, error)
                continue
            if matched and taken:
                others = [before[name] for name in taken]
                self._compare(others, f"{source} is used, but timm builds such a model with other layers there")
            matched = matched or bool(taken)
            head = get_classifier() if callable(get_classifier) else None
            new = {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
            if matched and all(id(p) in new for p in self._todo(module).values()):
                return True
        return False

    def _reset(self, layer: nn.Module, around: Iterable[type]) -> None:
        fresh = blank_copy(layer)

        def build() -> nn.Module:
            reset(fresh)
            return fresh

        before = self._todo(layer)
        try:
            taken = self._take(layer, "reset_parameters()", build)
        except Exception as error:  # for instance of a parametrised layer, whose weight is computed
            _log.info("reset_parameters() of %s failed: %s", type(layer).__name__, error)
            return
        culprits = [kind.__name__ for kind in around if writes_weights(kind)]
        reason = "reset_parameters() is used, but the constructor of {} seems to initialise weights too"
        self._compare([before[name] for name in taken], reason.format(culprits[-1]) if culprits else None)

    def _compare(self, parameters: list[Tensor], reason: str | None) -> None:
        """Compare with the start of the run, which decides if it looks freshly drawn; else doubt for this reason."""
        doubtful = []
        for p in parameters:
            name = self.names[id(p)]
            known = self.start.get(name)
            if known is None or not self._drawn(known):
                doubtful.append(p)
            elif not known.agrees(self.result.spreads[name]):
                self.result.spreads[name], self.result.sources[name] = known.spread, _START
        if reason is not None:
            self._doubt(reason, doubtful)

    def _doubt(self, reason: str, parameters: list[Tensor]) -> None:
        if parameters:
            self.doubtful.setdefault(reason, []).extend(_owners(self.module, parameters))


def _call_protocol(module: nn.Module) -> nn.Module:
    name = f"{type(module).__name__}.{PROTOCOL}()"
    try:
        fresh = getattr(module, PROTOCOL)()
    except Exception as error:
        raise UserError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(fresh, nn.Module):
        raise UserError(f"{name} must return a newly built module, not a {type(fresh).__name__}")
    own = {id(p) for p in module.parameters()}
    if any(id(p) in own for p in fresh.parameters()):
        raise UserError(f"{name} must return a newly built module; it returned parameters of the module itself")
    return fresh


def _owners(module: nn.Module, parameters: list[Tensor]) -> list[str]:
    """Return the modules that hold these parameters, as ``name (Type)``."""
    wanted = {id(p) for p in parameters}
    return [
        f"{name or '(top)'} ({type(child).__name__})"
        for name, child in module.named_modules()
        if any(id(p) in wanted for p in child.parameters(recurse=False))
    ]
