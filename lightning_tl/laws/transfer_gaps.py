"""The transfer gap against model size (Mikami et al., Fig. 4) and against the data's complexity (Fig. 6), in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.fitting import fit
from lightning_tl.laws.forms import Array, PowerLaw
from lightning_tl.laws.group_fits import GroupFit, GroupResult, fitted
from lightning_tl.laws.spending import MODEL_COLUMNS, model_parameters
from lightning_tl.laws.wording import images, percent

_LEAST_MODELS = 3
_LEAST_SETTINGS = 5  # with four, no order of ranks is unlikely


@dataclass(frozen=True)
class ModelFamily:
    """Groups that differ only in their model.

    Attributes:
        label: What they have in common.
        items: The groups, by ascending model size.
        parameters: Parameters of each model, shape (k,).
        law: C = a * parameters^-b through the groups whose C is over 0, weighted by the precision of log C;
            ``None`` for fewer than two.
    """

    label: str
    items: list[GroupFit]
    parameters: Array
    law: FittedLaw | None


def gap_by_model_size(fits: Iterable[GroupResult]) -> list[ModelFamily]:
    """Return the families of groups that differ only in their model, with a law through their gaps."""
    families: dict[tuple[str, ...], list[tuple[float, GroupFit]]] = {}
    for item in fitted(fits):
        size = model_parameters(item)
        if "C" not in item.law.params or size is None:
            continue
        key = tuple(value for name, value in item.group.keys.items() if name not in MODEL_COLUMNS)
        families.setdefault(key, []).append((size, item))
    shared = [set(values) for values in zip(*families, strict=True)] if families else []
    model_families = []
    for key, members in families.items():
        members.sort(key=lambda member: member[0])
        sizes = np.array([size for size, _ in members])
        if len(np.unique(sizes)) < 2:
            continue
        differing = [value for value, values in zip(key, shared, strict=True) if len(values) > 1]
        items = [item for _, item in members]
        model_families.append(ModelFamily(" / ".join(differing) or "C", items, sizes, _through(sizes, items)))
    return model_families


def trait_sentences(fits: Sequence[GroupFit]) -> list[str]:
    """Say how C goes with model size and complexity, where groups differ in them, and what real images are worth."""
    return [*map(_size_sentence, gap_by_model_size(fits)), *_complexity_sentence(fits), *map(_balance, _full(fits))]


def _full(fits: Sequence[GroupFit]) -> list[GroupFit]:
    return [item for item in fits if item.law.form.name == "full" and item.law.dof > 0]


def _balance(item: GroupFit) -> str:
    """Compare twice the real images (the error goes as s^-beta whatever n is) with twice the rendered ones."""
    law = item.law
    low, high = law.interval("beta")
    real = [1 - 2**-beta for beta in (law.params["beta"], low, high)]
    change, (down, up) = law.log_ratio(item.largest, 2 * item.largest, item.s)
    rendered = [float(1 - np.exp(value)) for value in (change, up, down)]
    shares = [f"{percent(share)} ({percent(least)} to {percent(most)})" for share, least, most in (real, rendered)]
    terms = item.group.terms
    if terms.sizes == "images":
        what = f"twice the real images lower the error by {shares[0]}, twice the {item.largest:,.0f} rendered ones"
    else:
        what = f"twice the {terms.seconds} lower the {terms.measured} by {shares[0]}, twice the pre-training "
        what += f"{terms.sizes} ({images(item.largest)})"
    return f"{item.label}: {what} by {shares[1]} ({100 * law.level:g} % intervals)."


def _known(items: Sequence[GroupFit]) -> list[GroupFit]:
    return [item for item in items if item.law.unidentified("C") is None]


def _size_sentence(family: ModelFamily) -> str:
    known = _known(family.items)
    start = "The" if family.label == "C" else f"{family.label}: the"
    if family.law is None or len(known) < _LEAST_MODELS:
        return (
            f"{start} relation of the transfer gap to the model's size cannot be determined: C is identified for "
            f"{len(known)} of {len(family.items)} models."
        )
    low, high = family.law.interval("alpha")
    exponent = -family.law.params["alpha"]
    return (
        f"{start} transfer gap is proportional to the model's parameters to the power {exponent:.2g} "
        f"({100 * family.law.level:g} % interval {-high:.2g} to {-low:.2g}), through the gaps of "
        f"{len(family.law.cells.n)} models, each by its precision; {len(known)} of them are identified."
    )


def _complexity_sentence(fits: Sequence[GroupFit]) -> list[str]:
    from scipy.stats import spearmanr

    items = [item for item in fits if "C" in item.law.params and "complexity" in item.group.traits]
    if len({item.group.traits["complexity"] for item in items}) < 2:
        return []
    known = _known(items)
    if len(known) < _LEAST_SETTINGS:
        return [
            "The relation of the transfer gap to the data's complexity cannot be determined: C is identified for "
            f"{len(known)} of {len(items)} groups."
        ]
    x = [item.group.traits["complexity"] for item in known]
    correlation = spearmanr(x, [item.law.params["C"] for item in known])
    return [
        f"Over {len(known)} groups with an identified C its rank correlation with the data's complexity (larger: more "
        f"complex) is {correlation.statistic:+.2f} (p = {correlation.pvalue:.2g})."
    ]


def _through(sizes: Array, items: Sequence[GroupFit]) -> FittedLaw | None:
    gaps = np.array([item.law.params["C"] for item in items])
    errors = np.array([item.law.stderr["C"] for item in items])
    use = (gaps > 0) & np.isfinite(errors) & (errors > 0)
    if len(np.unique(sizes[use])) < 2:
        return None
    weight = (gaps[use] / errors[use]) ** 2
    try:
        return fit(PowerLaw(), n=sizes[use], error=gaps[use], weights=weight / weight.mean())
    except UserError:  # a gap of 0 to rounding
        return None
