"""Freshly initialised models like those of other libraries: timm's and Hugging Face's.

Neither library is imported here. Where such a model exists its library is loaded already, and builds it again.
"""

from __future__ import annotations

import copy
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

Build = Callable[[], nn.Module]

#: timm's classes whose constructor only calls ``init_weights()`` once the layers exist. The constructors of others
#: (LeViT, ResNetV2) do more, or call it with other arguments than the default ones.
_INIT_WEIGHTS = frozenset({"ResNet", "VisionTransformer", "SwinTransformer", "MlpMixer"})


class Rebuild(NamedTuple):
    """A way to build a module anew.

    Attributes:
        source: What it is, in words.
        build: Returns a new module.
        of_the_rest: Whether it can also be used for the parameters that an earlier way did not cover.
    """

    source: str
    build: Build
    of_the_rest: bool = False


def rebuilds(module: nn.Module) -> Iterator[Rebuild]:
    """Yield ways to build a module anew as its library does, the best first.

    None of them loads weights. They may raise any error. What they build may differ in names and shapes, if the module
    was built with arguments that it does not store or was changed since; the caller compares. Nothing is yielded for
    modules of other libraries.
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(module).__mro__}
    if "timm" in packages:
        yield from _timm(module)
    if "transformers" in packages and callable(getattr(module, "_init_weights", None)):
        yield from _hugging_face(module)


def reset(module: nn.Module) -> None:
    """Call every layer's ``reset_parameters()``, children first, as constructors do."""
    with torch.no_grad():
        for child in reversed(list(module.modules())):
            if method := reset_method(child):
                method()


def reset_method(module: nn.Module) -> Callable[[], None] | None:
    """Return the method by which a layer initialises itself, or None."""
    for name in ("reset_parameters", "_reset_parameters"):
        method: Callable[[], None] | None = getattr(module, name, None)
        if callable(method):
            return method
    return None


def blank_copy(module: nn.Module) -> nn.Module:
    """Return a copy whose parameters are NaN, so that those which no method fills can be recognised."""
    fresh = copy.deepcopy(module)
    with torch.no_grad():
        for p in fresh.parameters():
            p.fill_(float("nan"))
    return fresh


def _timm(module: Any) -> Iterator[Rebuild]:
    timm: Any = sys.modules.get("timm")
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    name = config.get("architecture") if isinstance(config, dict) else getattr(config, "architecture", None)
    if timm is not None and name:
        working: list[dict[str, Any]] = []

        def build() -> nn.Module:
            for arguments in working or _timm_arguments(module, config):
                try:
                    fresh: nn.Module = timm.create_model(name, pretrained=False, **arguments)
                except TypeError:  # a model that has no such argument
                    continue
                working[:] = [arguments]
                return fresh
            raise TypeError(f"timm builds no {name!r} from {type(module).__name__}'s arguments")

        yield Rebuild(f"timm.create_model({name!r})", build)
    if any(kind.__name__ in _INIT_WEIGHTS for kind in type(module).__mro__):
        blank = functools.cache(lambda: blank_copy(module))

        def again() -> nn.Module:
            fresh = blank()
            reset(fresh)
            with torch.no_grad():
                fresh.init_weights()  # type: ignore[operator]
            return fresh

        yield Rebuild(f"init_weights() of timm's {type(module).__name__}", again, of_the_rest=True)


def _timm_arguments(module: Any, config: Any) -> Iterator[dict[str, Any]]:
    """Yield arguments of ``timm.create_model``: first all that the model stores, then fewer."""
    known = {"in_chans": _in_chans(module, config)}
    if type(module).__name__.startswith("Feature"):
        known |= {"features_only": True}
    else:
        known |= {"num_classes": getattr(module, "num_classes", None)}
    # arguments that only some models have
    extras = {
        "img_size": getattr(getattr(module, "patch_embed", None), "img_size", None),
        "weight_init": getattr(module, "weight_init_mode", None),
        "global_pool": pool if isinstance(pool := getattr(module, "global_pool", None), str) else None,
    }
    extras = {key: value for key, value in extras.items() if value}
    for count in range(len(extras), -1, -1):
        for some in itertools.combinations(extras.items(), count):
            yield {key: value for key, value in known.items() if value is not None} | dict(some)


def _in_chans(module: nn.Module, config: Any) -> int | None:
    first = config.get("first_conv") if isinstance(config, dict) else getattr(config, "first_conv", None)
    first = first if isinstance(first, str) else next(iter(first or ()), None)
    if not first:
        return None
    for name in (first, first.replace(".", "_")):  # feature extractors have flat names
        weight = dict(module.named_parameters()).get(f"{name}.weight")
        if weight is not None and weight.dim() == 4:
            return int(weight.shape[1])
    return None


def _hugging_face(module: Any) -> Iterator[Rebuild]:
    for kind in type(module).__mro__:  # a user's subclass may need more than a configuration
        if hasattr(kind, "_init_weights") and getattr(module, "config", None) is not None:
            build = functools.partial(_of_config, kind, module.config)
            yield Rebuild(f"{kind.__name__}(config)", build)
    initialise = "initialize_weights" if hasattr(module, "initialize_weights") else "init_weights"

    def again() -> nn.Module:
        fresh = blank_copy(module)
        for child in fresh.modules():  # transformers skips modules with this mark: their weights came from a file
            vars(child).pop("_is_hf_initialized", None)
        for p in fresh.parameters():
            vars(p).pop("_is_hf_initialized", None)
        reset(fresh)
        with torch.no_grad():
            getattr(fresh, initialise)()
        return fresh

    yield Rebuild(f"{initialise}() of {type(module).__name__}", again)


def _of_config(kind: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    return kind(copy.deepcopy(config))
