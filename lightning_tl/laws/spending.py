"""What to spend on: more images, another rendering or another model; and which size to render next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from lightning_tl.errors import UserError
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.group_fits import GroupFit

#: Columns whose value names a rendering, and those that name a model.
RENDER_COLUMNS = ("render", "renderer", "pdata", "pretrain_data", "pretrain.data")
MODEL_COLUMNS = ("backbone", "model", "net", "arch")
#: Parameters of torchvision's ResNets (with their ImageNet heads), in millions, by depth.
RESNET_MILLIONS = {18: 11.69, 34: 21.80, 50: 25.56, 101: 44.55, 152: 60.19}


@dataclass(frozen=True)
class Budget:
    """What may be spent.

    Attributes:
        cost_per_image: Cost of one rendered image, in any unit.
        amount: What there is to spend, in the same unit.
    """

    cost_per_image: float
    amount: float

    def __post_init__(self) -> None:
        for name, value in (("cost per image", self.cost_per_image), ("budget", self.amount)):
            if not (np.isfinite(value) and value > 0):
                raise UserError(f"{name} is {value:g}; it must be over 0")

    @property
    def images(self) -> float:
        """How many images it buys."""
        return float(np.floor(self.amount / self.cost_per_image))


@dataclass(frozen=True)
class Choice:
    """One way to spend the budget.

    Attributes:
        kind: ``"more images"``, ``"another rendering"`` or ``"another model"``.
        group: Label of the group that it leads to.
        n: Pre-training size that it leads to.
        error: Error expected there.
        low: Lower end of its interval.
        high: Upper end.
    """

    kind: str
    group: str
    n: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class NextSize:
    """The next pre-training run that narrows the prediction most.

    Attributes:
        n: Its size.
        at: Size whose error is to be known.
        narrower: Share by which the interval there is expected to shrink.
        again: The same for a second pre-training run at the largest size measured.
    """

    n: float
    at: float
    narrower: float
    again: float


def choices(item: GroupFit, fits: Sequence[GroupFit], budget: Budget) -> list[Choice]:
    """Return the ways to spend a budget from a group, the lowest expected error first.

    More images of the same kind; a group that differs only in its rendering, with the images bought added to its own
    largest set; a group that differs only in its model, at its own largest size (a model costs no images).
    """
    ways = [_choice("more images", item, item.largest + budget.images)]
    for other in fits:
        if other is item or other.law.dof < 1:
            continue
        differ = [name for name in item.group.keys if item.group.keys[name] != other.group.keys.get(name)]
        if len(differ) == 1 and differ[0] in RENDER_COLUMNS:
            ways.append(_choice("another rendering", other, other.largest + budget.images))
        elif len(differ) == 1 and differ[0] in MODEL_COLUMNS:
            ways.append(_choice("another model", other, other.largest))
    return sorted(ways, key=lambda choice: choice.error)


def _choice(kind: str, item: GroupFit, n: float) -> Choice:
    low, high = item.law.band([n], item.s)
    return Choice(kind, item.label, n, float(item.law.predict([n], item.s)[0]), float(low[0]), float(high[0]))


def next_size(item: GroupFit, factor: float = 10.0, budget: Budget | None = None) -> NextSize | None:
    """Return the size worth rendering next: the one that narrows the interval at ``factor`` times the largest most.

    By the Jacobian at the fit (one more point, one more degree of freedom), among doublings of the largest size up to
    ``factor`` times, as far as a budget reaches. ``None`` where the curvature says nothing (a flat curve).

    Args:
        item: A fitted group.
        factor: How far ahead the error is to be known.
        budget: What may be spent.
    """
    law = item.law
    if law.dof < 1 or law.form.uses_s or law.at_bound("alpha"):
        return None
    sizes = [item.largest * step for step in (2.0, 4.0, 8.0) if step <= factor]
    if budget is not None:
        sizes = [size for size in sizes if size <= item.largest + budget.images]
    now = _width(law, factor * item.largest, None)
    again = 1 - _width(law, factor * item.largest, item.largest) / now
    gains = {size: 1 - _width(law, factor * item.largest, size) / now for size in sizes}
    if not gains or not np.isfinite(list(gains.values())).all():
        return None
    # A doubling costs as much as all before it: take the smallest size that has most of what the largest would bring.
    most = max(gains.values())
    chosen = min(size for size, gain in gains.items() if gain >= 0.8 * most)
    return NextSize(chosen, factor * item.largest, gains[chosen], again)


def _width(law: FittedLaw, at: float, added: float | None) -> float:
    """Return the expected width of the interval of log law(at) once a point is added, by the curvature."""
    n = law.cells.n if added is None else np.append(law.cells.n, added)
    weight = law.cells.weight if added is None else np.append(law.cells.weight, 1.0)
    names, held = law.form.parameters, [prior.name for prior in law.priors]
    free = [i for i, name in enumerate(names) if name not in held and not (name == "C" and law.at_bound("C"))]
    scale = np.array([law.params[names[i]] for i in free])
    rows = law.form.jacobian(law.params, n, np.ones_like(n))[:, free] * scale * np.sqrt(weight)[:, None]
    aim = law.form.jacobian(law.params, np.array([at]), np.ones(1))[0, free] * scale
    variance = float(aim @ np.linalg.pinv(rows.T @ rows) @ aim)
    return float(np.sqrt(variance) * stdtrit(law.dof + (added is not None), 0.975))


def model_parameters(item: GroupFit) -> float | None:
    """Return the size of a group's model in parameters: from the table, or a ResNet's by its name; else ``None``."""
    if "model_size" in item.group.traits:
        return item.group.traits["model_size"]
    for name in MODEL_COLUMNS:
        match = re.fullmatch(r"r(?:es)?(?:net)?[-_]?(\d+)", item.group.keys.get(name, "").strip().lower())
        if match and int(match[1]) in RESNET_MILLIONS:
            return RESNET_MILLIONS[int(match[1])] * 1e6
    return None
