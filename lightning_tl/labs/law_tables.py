"""Tables of results drawn from worlds whose truth is known, one curve per world, as a study would write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.labs.error_curves import (
    FIRST,
    Curve,
    LawCurve,
    broken_curve,
    law_curve,
    moving_floor,
    power_curve,
    rising_curve,
)
from lightning_tl.labs.outcome import Array

if TYPE_CHECKING:
    import pandas as pd

#: Fine-tuning sizes of the worlds of law (2), whose error falls as s^-beta.
TARGET_SIZES, _BETA = (200.0, 800.0, 3200.0, 12800.0), 0.2


@dataclass(frozen=True)
class World:
    """One simulated study with its truth.

    Attributes:
        curve: The mean error at the largest fine-tuning size.
        target: The error that is asked for.
        needed: Images at which the truth reaches it; infinite where it never does.
    """

    curve: Curve
    target: float
    needed: float


@dataclass(frozen=True)
class Kind:
    """What a group of worlds has in common.

    Attributes:
        name: What it is.
        draw: Draws a curve.
        full: The study has several fine-tuning sizes, and law (2) is fitted.
        draws: Draws of fine-tuning data, each used at every size.
        named: The table names the draws.
        holds: The law fitted holds, and so must the intervals.
    """

    name: str
    draw: Callable[[np.random.Generator], Curve]
    full: bool = False
    draws: int = 1
    named: bool = True
    holds: bool = True


def kinds(draws: int) -> list[Kind]:
    """Return all kinds of worlds.

    Args:
        draws: Draws of fine-tuning data in the kinds that have several.
    """
    return [
        Kind("law (1)", law_curve),
        Kind("law (1) with C = 0", power_curve),
        Kind("law (2)", law_curve, full=True),
        Kind("shared draws", law_curve, draws=draws),
        Kind("shared draws, not named", law_curve, draws=draws, named=False, holds=False),
        Kind("broken power law", broken_curve, holds=False),
        Kind("moving floor", moving_floor, holds=False),
        Kind("rising error", rising_curve, holds=False),
    ]


def truth(kind: Kind, world: World) -> dict[str, float]:
    """Return the true parameters of the law that is fitted; empty where the world follows no such law."""
    if not isinstance(world.curve, LawCurve):
        return {}
    params = world.curve.params
    if not kind.full:
        return params
    scale = (TARGET_SIZES[-1] ** _BETA) * params["D"]
    return {"delta": scale, "gamma": params["C"] / params["D"], "alpha": params["alpha"], "beta": _BETA}


def draw_world(kind: Kind, rng: np.random.Generator, largest: float) -> World:
    """Draw a world and the error that is asked of it: one that it reaches, or in half of the worlds with C > 0 not.

    Args:
        kind: Of the world.
        rng: Source of randomness.
        largest: Largest size measured.
    """
    curve = kind.draw(rng)
    if curve.least > 0 and rng.random() < 0.5:
        return World(curve, curve.least * rng.uniform(0.8, 0.98), np.inf)
    high = min(1000 * largest, curve.turn)
    needed = float(np.exp(rng.uniform(np.log(min(largest / 4, high / 4)), np.log(high))))
    return World(curve, float(curve(np.array([needed]))[0]), needed)


def table(
    kind: Kind, worlds: Sequence[World], rng: np.random.Generator, sizes: Array, noise: float, draw_noise: float
) -> pd.DataFrame:
    """Return one row per fine-tuning run, in the columns of a study's ``results.csv`` and ``world``.

    Args:
        kind: Of the worlds.
        worlds: One curve each.
        rng: Of the noise.
        sizes: Pre-training sizes in images, shape (m,).
        noise: Standard deviation of a run's log error.
        draw_noise: That of the luck of a draw of fine-tuning data, where there are several.
    """
    import pandas as pd

    targets = TARGET_SIZES if kind.full else TARGET_SIZES[-1:]
    shape = (len(worlds), len(sizes), len(targets), kind.draws)
    log_error = np.log([world.curve(sizes) for world in worlds])[:, :, None, None]
    log_error = log_error - _BETA * np.log(np.array(targets) / TARGET_SIZES[-1])[:, None]
    luck = draw_noise * rng.standard_normal((len(worlds), 1, 1, kind.draws)) if kind.draws > 1 else 0.0
    log_error = log_error + luck + noise * rng.standard_normal(shape)
    world, size, target, draw = (axis.ravel() for axis in np.indices(shape))
    columns = {
        "run_id": np.arange(log_error.size).astype(str),
        "world": world.astype(str),
        "pretrain_images": sizes[size],
        "finetune_images": np.array(targets)[target],
        "draw_seed": draw,
        "error": np.minimum(np.exp(log_error).ravel(), 1.0),
    }
    if kind.draws == 1 or not kind.named:
        del columns["draw_seed"]
    return pd.DataFrame(columns)


def pretraining_sizes(count: int) -> Array:
    """Return sizes 1000, 2000, 4000 … , shape (count,)."""
    sizes: Array = FIRST * 2.0 ** np.arange(count)
    return sizes
