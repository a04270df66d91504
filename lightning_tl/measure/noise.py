"""The scale of the noise that perturbs weights: by initialisation, relative to the weights, or the same for all."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.guard import random_state, seed_everything
from lightning_tl.measure.params import _listed, clean_name

NOISES = ("init", "relative", "isotropic")
Reference = Mapping[str, Tensor] | str | Path | Callable[[], nn.Module] | None

# A variance is estimated from at least so many numbers, which gives it a standard error under 2 %.
_ENOUGH = 10_000
_MOST_DRAWS = 64


def noise_scales(
    module: nn.Module,
    params: Mapping[str, Tensor],
    noise: str = "init",
    reference: Reference = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the standard deviation of the noise at γ = 1, by parameter, as a tensor that broadcasts against it.

    Args:
        module: The module, for its layers' own initialisation; it is not changed.
        params: Name → parameter.
        noise: ``init``: by tensor the standard deviation of the initialisation distribution (Springer et al. 2025,
            §3.3, App. C.2). Tensors initialised to a constant (BatchNorm's gains, most biases) get no noise.
            ``relative``: ‖W‖/√(number of elements), so that noise of γ has γ times the tensor's norm; for
            convolutions by output filter. ``isotropic``: 1.
        reference: For ``init``: a freshly initialised model's state dict or the path of one (a checkpoint's
            ``state_dict`` key is looked into), or a function that builds a fresh module. None: each layer's own
            ``reset_parameters()``, on a copy.
        seed: For drawing initialisations; the global generators are put back.

    Raises:
        UserError: The noise is unknown; layers cannot be initialised; the reference lacks parameters.
    """
    if noise not in NOISES:
        raise UserError(f"noise={noise!r} is unknown{nearest(noise, NOISES)}")
    if noise == "isotropic":
        return {name: torch.ones((), dtype=p.dtype, device=p.device) for name, p in params.items()}
    if noise == "relative":
        return {name: _relative(p.detach()) for name, p in params.items()}
    restore = random_state()
    try:
        seed_everything(seed)
        if reference is None:
            spreads = _own_initialisation(module, params)
        elif callable(reference):
            spreads = _spreads(lambda: dict(_clean(reference().named_parameters())), params)
        else:
            state = reference if isinstance(reference, Mapping) else load_state(reference)
            spreads = _spreads(lambda: dict(_clean(state.items())), params, draws=1)
    finally:
        restore()
    return {name: torch.tensor(spreads[name], dtype=p.dtype, device=p.device) for name, p in params.items()}


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint: its ``state_dict``, or the file itself if it is one.

    Raises:
        UserError: The file is missing, is no torch checkpoint of plain types, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path}: not a checkpoint that torch.load(weights_only=True) reads ({_first(error)})"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    weights = (
        {clean_name(k): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    )
    if not weights:
        raise UserError(f"{path}: holds no weights, neither under 'state_dict' nor at the top")
    return weights


def _relative(weight: Tensor) -> Tensor:
    if weight.dim() >= 3:  # a filter is all that makes one output channel
        return weight.flatten(1).square().mean(1).sqrt().view(-1, *(1,) * (weight.dim() - 1))
    return weight.square().mean().sqrt()


def _own_initialisation(module: nn.Module, params: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the spreads of repeated resets of copies, each layer children first, as constructors run."""
    names = {id(p): name for name, p in params.items()}
    spreads: dict[str, float] = {}
    for layer in _resettable(module):
        own = {child: names[id(p)] for child, p in layer.named_parameters() if id(p) in names}
        if not own:
            continue
        fresh = copy.deepcopy(layer)
        with torch.no_grad():
            for p in fresh.parameters():
                p.fill_(float("nan"))  # what no reset fills shows
        drawn = _reset(fresh, own)
        filled = {name: params[name] for name, value in drawn.items() if not value.isnan().any()}
        if filled:
            spreads |= _spreads(functools.partial(_reset, fresh, own), filled)
    unable = _owners(module, [params[name] for name in params if name not in spreads])
    if unable:
        raise UserError(
            f"noise='init': {len(unable)} layers have no reset_parameters() that would tell how they are "
            f"initialised: {_listed(unable)}. Pass reference=<a function that builds a fresh module>, or the "
            "path or state dict of a freshly initialised one; or choose noise='relative' or 'isotropic'"
        )
    return spreads


def _resettable(module: nn.Module) -> list[nn.Module]:
    """Return the outermost modules that can initialise themselves."""
    if _method(module):
        return [module]
    return [layer for child in module.children() for layer in _resettable(child)]


def _method(module: nn.Module) -> Callable[[], None] | None:
    for name in ("reset_parameters", "_reset_parameters"):
        if callable(method := getattr(module, name, None)):
            return method
    return None


def _reset(layer: nn.Module, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Initialise a layer anew and return its parameters under the names they have in the whole module."""
    with torch.no_grad():
        for child in reversed(list(layer.modules())):
            if method := _method(child):
                method()
    return {names[own]: p for own, p in layer.named_parameters() if own in names}


def _owners(module: nn.Module, parameters: list[Tensor]) -> list[str]:
    """Return the modules that hold these parameters, as ``name (Type)``."""
    wanted = {id(p) for p in parameters}
    return [
        f"{name or '(top)'} ({type(child).__name__})"
        for name, child in module.named_modules()
        if any(id(p) in wanted for p in child.parameters(recurse=False))
    ]


def _spreads(
    draw: Callable[[], Mapping[str, Tensor]], params: Mapping[str, Tensor], draws: int | None = None
) -> dict[str, float]:
    """Return standard deviations over the elements of repeated draws; exactly 0 for constants."""
    fewest = min(p.numel() for p in params.values())
    draws = draws or max(1, min(_MOST_DRAWS, -(-_ENOUGH // fewest)))
    count: dict[str, int] = {}
    mean: dict[str, float] = {}
    square: dict[str, float] = {}
    for index in range(draws):
        drawn = draw()
        lacking = [name for name, p in params.items() if name not in drawn or drawn[name].shape != p.shape]
        if lacking:
            raise UserError(
                f"noise='init': the reference lacks {len(lacking)} of {len(params)} measured parameters, or has them "
                f"in another shape: {_listed(lacking)}; it has {_listed(drawn)}"
            )
        for name in params:
            values = drawn[name].detach().double()
            constant = bool((values == values.flatten()[0]).all())
            centre, n = float(values.mean()), values.numel()
            spread = 0.0 if constant else float((values - centre).square().sum())
            if index == 0:
                count[name], mean[name], square[name] = n, centre, spread
                continue
            # Chan's update; equal constants in every draw leave an exact 0
            delta, total = centre - mean[name], count[name] + n
            square[name] += spread + delta * delta * count[name] * n / total
            mean[name] += delta * n / total
            count[name] = total
    return {name: (square[name] / count[name]) ** 0.5 for name in params}


def _clean(items: Any) -> Any:
    return ((clean_name(name), value) for name, value in items)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
