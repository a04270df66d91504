"""Whether a way of fine-tuning delays the turn of a curve, in sentences and as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_tl.figure_style import number
from lightning_tl.html_page import without_empty_columns
from lightning_tl.study.overtraining.results import Delay
from lightning_tl.study.overtraining.words import amount, budget_text, named

_SUBJECTS = {
    "finetune_loss": "fine-tuning loss",
    "error": "fine-tuning error",
    "forgotten": "pre-training loss after fine-tuning",
}


def delay_answers(found: Sequence[Delay], level: float) -> list[str]:
    """Return one sentence for each method: which turns it delays, beyond chance."""
    texts = []
    for series, reference, method in dict.fromkeys((item.series, item.reference, item.method) for item in found):
        own = [item for item in found if (item.series, item.method) == (series, method)]
        late = [item for item in own if item.p <= 1 - level]
        if late:
            parts = "; ".join(_late(item, level) for item in late)
            text = f"against {reference}, {method} delays the turn: {parts}."
        elif all(np.isnan(item.p) for item in own):
            text = f"against {reference}, single runs cannot show whether {method} delays a turn."
        else:
            text = (
                f"against {reference}, no delay of a turn by {method} was detected (one-sided tests at "
                f"{len({item.lr for item in own})} learning rates, paired by pre-training and draw, corrected)."
            )
        texts.append(named(series, text))
    return texts


def _late(item: Delay, level: float) -> str:
    low, high = item.ratio_interval
    upper = f"to {number(high)}" if np.isfinite(high) else "upwards"
    return (
        f"the {_SUBJECTS[item.quantity]} at lr {item.lr:g} is lowest near {budget_text(item.vertex[1], item.unit)} "
        f"instead of {amount(item.vertex[0], item.unit)}, {number(item.ratio)} times as late ({100 * level:g} % "
        f"interval {number(low)} {upper})"
    )


def delay_table(found: Sequence[Delay]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows: inflection points and places of the lowest value side by side."""
    heads = ["series", "quantity", "lr", "method", "inflection point (Def. 4.2)", "of the reference", "lowest at"]
    heads += ["of the reference", "times as late", "p"]
    rows = [
        [
            item.series,
            _SUBJECTS[item.quantity],
            f"{item.lr:g}",
            f"{item.method} (against {item.reference})",
            *(budget_text(at, item.unit) if np.isfinite(at) else "none" for at in reversed(item.inflection)),
            *(budget_text(at, item.unit) for at in reversed(item.vertex)),
            _ratio(item),
            f"{item.p:.2g}" if np.isfinite(item.p) else "",
        ]
        for item in found
    ]
    return without_empty_columns(heads, rows)


def _ratio(item: Delay) -> str:
    low, high = item.ratio_interval
    if np.isnan(low):
        return number(item.ratio)
    ends = f"{number(low)} to {number(high)}" if np.isfinite(high) else f"{number(low)} upwards"
    return f"{number(item.ratio)} ({ends})"
