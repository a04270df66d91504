"""The scale of the noise that perturbs weights: by initialisation, relative to the weights, or the same for all."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.checkpoint import load_checkpoint
from lightning_tl.measure.guard import random_state, seed_everything
from lightning_tl.measure.initialisation import Initialisation, own_initialisation
from lightning_tl.measure.params import listed
from lightning_tl.measure.sharded import is_sharded
from lightning_tl.measure.spread import spreads
from lightning_tl.measure.start_weights import StartSpread
from lightning_tl.measure.virtual import HALF, measured_type

_log = logging.getLogger(__name__)

# A function that builds a module is called at most this often; a tensor of 20 numbers then has its spread to 4 %.
_MOST_BUILDS = 16
_drawn: weakref.WeakKeyDictionary[Callable[[], nn.Module], dict[Any, dict[str, float]]] = weakref.WeakKeyDictionary()

NoiseKind = Literal["init", "relative", "isotropic"]
NOISES: tuple[NoiseKind, ...] = get_args(NoiseKind)
Reference = Mapping[str, Tensor] | str | Path | Callable[[], nn.Module] | nn.Module | None


def noise_scales(
    module: nn.Module,
    params: Mapping[str, Tensor],
    noise: NoiseKind = "init",
    reference: Reference = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the standard deviation of the noise at γ = 1, by parameter, as a tensor that broadcasts against it.

    A warning in the log names the layers whose initialisation is not certain.

    Args:
        module: The module; it is not changed.
        params: Name → parameter.
        noise: ``init``: by tensor the standard deviation of the initialisation distribution (Springer et al. 2025,
            §3.3, App. C.2). Tensors initialised to a constant (BatchNorm's gains, most biases) get no noise.
            ``relative``: ‖W‖/√(number of elements), so that noise of γ has γ times the tensor's norm; for
            convolutions by output filter. ``isotropic``: 1.
        reference: For ``init``, in place of the module itself: as for :func:`initialisation`.
        seed: For drawing initialisations; the global generators are restored.

    Raises:
        UserError: The noise is unknown; as :func:`initialisation`.
    """
    if noise not in NOISES:
        raise UserError(f"noise={noise!r} is unknown{nearest(noise, NOISES)}")
    if noise == "isotropic":
        return as_scales(dict.fromkeys(params, 1.0), params)
    if noise == "relative":
        return {name: _relative(p.detach()) for name, p in params.items()}
    init = initialisation(module, params, reference, seed)
    _log.info(init.summary())
    for doubt in init.doubts:
        _log.warning(doubt)
    return as_scales(init.spreads, params)


def as_scales(spreads: Mapping[str, float], params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return numbers by parameter name as tensors of the parameters' types, on their devices."""
    return {
        name: torch.tensor(spreads[name], dtype=measured_type(p.dtype), device=p.device) for name, p in params.items()
    }


def initialisation(
    module: nn.Module,
    params: Mapping[str, Tensor],
    reference: Reference = None,
    seed: int = 0,
    start: Mapping[str, StartSpread] | None = None,
) -> Initialisation:
    """Find the standard deviation of each parameter's initialisation, and its source.

    Args:
        module: The module; it is not changed. See :func:`~lightning_tl.measure.initialisation.own_initialisation`.
        params: Name → parameter.
        reference: In place of the module: a function that builds a fresh module; or one that is freshly initialised,
            its state dict, or the path of that (a checkpoint's ``state_dict`` key is looked into).
        seed: For drawing initialisations; the global generators are restored.
        start: What the weights at the start of the run tell, in place of what is not certain.

    Raises:
        UserError: The parameters are LoRA's, or the reference lacks parameters.
    """
    restore = random_state()
    try:
        seed_everything(seed)
        with torch.inference_mode(False):
            if reference is None:
                return own_initialisation(module, params, start)
            return _of_reference(reference, params, seed)
    finally:
        restore()


def _of_reference(reference: Any, params: Mapping[str, Tensor], seed: int) -> Initialisation:
    def build() -> dict[str, Tensor]:
        fresh = reference()
        if not isinstance(fresh, nn.Module):
            raise UserError(f"reference must build a module; it returned a {type(fresh).__name__}")
        return dict(fresh.named_parameters())

    if isinstance(reference, nn.Module):
        reference = reference.state_dict()
    if callable(reference):
        known, source = _drawn_once(reference, build, params, seed), "reference()"
    else:
        state = reference if isinstance(reference, Mapping) else load_checkpoint(reference).weights
        weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        known, source = spreads(lambda: weights, params, most_draws=1), "the reference's weights"
    if lacking := [name for name in params if name not in known]:
        have = build() if callable(reference) else weights
        raise UserError(
            f"noise='init': the reference lacks {len(lacking)} of {len(params)} measured parameters, or has them "
            f"in another shape: {listed(lacking)}; it has {listed(have)}"
        )
    return Initialisation(known, dict.fromkeys(known, source))


def _drawn_once(
    reference: Callable[[], nn.Module], build: Callable[[], dict[str, Tensor]], params: Mapping[str, Tensor], seed: int
) -> dict[str, float]:
    """Return the spreads of what a function builds; what it gave for the same parameters and seed is kept.

    Several callbacks are often given the same function, and each call may take seconds.
    """
    key = seed, tuple((name, tuple(p.shape)) for name, p in params.items())
    try:
        kept = _drawn.setdefault(reference, {})
    except TypeError:  # an object of a kind that has no weak references
        kept = {}
    if key not in kept:
        kept[key] = spreads(build, params, most_draws=_MOST_BUILDS)
    return dict(kept[key])


def check_scales(scales: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> list[Tensor]:
    """Return √Σ by parameter, in the order of the parameters, on their devices.

    Raises:
        UserError: A parameter has no scale, or one that is negative, not finite, or neither one number nor one for
            each index of the first dimension; all are zero.
    """
    checked = []
    for name, p in params.items():
        if name not in scales:
            raise UserError(f"scales has no entry for parameter {name!r}; it has {listed(scales)}")
        scale = torch.as_tensor(scales[name]).detach().to(p.device, measured_type(p.dtype))
        rows = (p.shape[0], *(1,) * (p.dim() - 1)) if p.dim() else ()
        if scale.numel() != 1 and scale.shape != rows:
            raise UserError(
                f"scales[{name!r}] has shape {tuple(scale.shape)}; it must be one number, or {rows} for a parameter of "
                f"shape {tuple(p.shape)}"
            )
        if not bool(torch.isfinite(scale).all()) or float(scale.min()) < 0:
            raise UserError(f"scales[{name!r}] must be finite and at least 0; it is {float(scale.min()):g}")
        checked.append(scale.reshape(()) if scale.numel() == 1 else scale)
    if all(float(scale.max()) == 0 for scale in checked):
        raise UserError(
            f"none of the {len(checked)} measured parameters gets noise: their scales are all 0. If their "
            "initialisation is constant, choose noise='relative' or 'isotropic'"
        )
    return checked


def _relative(weight: Tensor) -> Tensor:
    weight = weight.float() if weight.dtype in HALF else weight
    if weight.dim() >= 3:  # a filter: the weights of one output channel
        squares = _whole(weight.flatten(1).square().sum(1)).view(-1, *(1,) * (weight.dim() - 1))
        return (squares / weight[0].numel()).sqrt()
    return (_whole(weight.square().sum()) / weight.numel()).sqrt()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
