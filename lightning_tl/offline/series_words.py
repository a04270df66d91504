"""The analysis of a series of checkpoints in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_tl.budget_curves import VERDICTS, Curve
from lightning_tl.figure_style import short
from lightning_tl.offline.series_analysis import Family, SeriesAnalysis

#: Fewer checkpoints detect nothing but a very clear turn.
FEW = 7
#: Quantity → its name in a sentence, and that of the strength.
SUBJECTS = {
    "perturbed_loss": ("the loss under noise in the weights", "γ {}"),
    "sensitivity": ("its rise under that noise", "γ {}"),
    "quantised_loss": ("the loss of the quantised network", "{} bits"),
    "quantisation_rise": ("its rise when the network is quantised", "{} bits"),
    "pruned_loss": ("the loss of the pruned network", "{} pruned"),
    "pruning_rise": ("its rise when the network is pruned", "{} pruned"),
    "finetune_loss": ("the loss on the fine-tuning text after fine-tuning", "lr {}"),
    "pretrain_loss_after": ("the loss on the pre-training text after fine-tuning", "lr {}"),
    "pretrain_rise": ("the rise of the loss on the pre-training text by fine-tuning", "lr {}"),
}
_LOSSES = ("perturbed_loss", "quantised_loss", "pruned_loss", "finetune_loss", "pretrain_loss_after")
_STRESSES = {
    "sensitivity": "noise of γ {}",
    "quantisation_rise": "quantising to {} bits",
    "pruning_rise": "pruning a share of {}",
    "pretrain_rise": "fine-tuning at lr {}",
}
_UPWARD = ("u", "rises")


def answers(analysis: SeriesAnalysis) -> list[str]:
    """Return whether the loss of the changed network turns upward, and whether the network becomes more fragile."""
    losses = [family for name in _LOSSES if (family := analysis.family(name)) is not None]
    rises = [family for name in _STRESSES if (family := analysis.family(name)) is not None]
    return [_harm(losses, analysis), _fragility(rises, analysis)] if losses else []


def sentences(analysis: SeriesAnalysis) -> list[str]:
    """Return the details of each quantity, and what the intervals hold for."""
    details = [_family_in_words(family, analysis) for family in analysis.families]
    plain = analysis.plain
    values = f"{plain.mean[0]:.4g} to {plain.mean[-1]:.4g}"
    details.insert(0, f"The loss of the unchanged network goes from {values}: {VERDICTS[plain.verdict]}.")
    noise, tuned = (_draws(analysis, by) for by in ("gamma", "lr"))
    parts = [f"{plain.draws} batches" if plain.draws > 1 else "", f"{noise} pairs of noise" if noise > 1 else ""]
    parts += [f"{tuned} draws of the fine-tuning text" if tuned > 1 else ""]
    details += [
        f"Lr {', '.join(f'{lr:g}' for lr in analysis.diverged)} is left out: fine-tuning gave no finite loss there."
    ] * bool(analysis.diverged)
    same = " under the same ".join(filter(None, parts)) or "batch"
    details.append(
        f"All checkpoints were measured on the same {same}; intervals are for comparing these checkpoints. A verdict "
        "has to hold against the fluctuation between neighbouring checkpoints too, as all are of one run. Another run "
        "of the same training may differ."
    )
    if plain.draws < 2:
        details.append("There is one batch: no interval covers the choice of the data (--batches 8).")
    if len(analysis.budgets) < FEW:
        details.append(
            f"With {len(analysis.budgets)} checkpoints a turn can hardly be distinguished from fluctuation; "
            f"{FEW + 1} or more, evenly spaced in the logarithm of {analysis.unit}, can show one."
        )
    return details


def _draws(analysis: SeriesAnalysis, by: str) -> int:
    curves = [item for family in analysis.families for item in family.curves if item.by == by]
    return max((item.seeds for item in curves), default=1)


def _harm(families: Sequence[Family], analysis: SeriesAnalysis) -> str:
    worse = []
    for family in families:
        if turned := [item for item in family.curves if item.verdict in _UPWARD]:
            most = max(turned, key=lambda item: item.rise)
            subject, strength = SUBJECTS[family.quantity]
            at = strength.format(f"{most.value:g}")
            worse.append(f"{subject} worse at {_strengths(family, turned)} (at {at} it is {_turn(most, analysis)})")
    if worse:
        although = ", although the loss itself falls" if analysis.plain.verdict == "falls" else ""
        return f"Longer training makes {'; '.join(worse)}{although}."
    if all(item.verdict == "single" for family in families for item in family.curves):
        return "These are single values, so they cannot show whether longer training does harm."
    names = [SUBJECTS[family.quantity][0] for family in families]
    which = " nor ".join(names)
    neither = f"neither {which} turns" if len(names) > 1 else f"{which} does not turn"
    text = f"No evidence that longer training does harm: {neither} upward by these tests."
    differing = [
        f"{SUBJECTS[family.quantity][0]} at {_strengths(family, worse_later)}"
        for family in families
        if (worse_later := [item for item in family.sampled if item.verdict in _UPWARD])
    ]
    if differing:
        text += (
            f" Some later checkpoints are worse than earlier ones ({'; '.join(differing)}), but neighbouring "
            "checkpoints differ by chance as much."
        )
    return text


def _fragility(families: Sequence[Family], analysis: SeriesAnalysis) -> str:
    grown = []
    for family in families:
        upward = [item for item in family.curves if item.verdict in _UPWARD]
        if upward:
            most = max(upward, key=lambda item: item.rise)
            much = f"{most.rise:.3g} times as much" if most.log else f"by {most.rise:.3g} more"
            lowest = short(most.budgets[int(np.argmin(most.mean))])
            stress = _STRESSES[family.quantity].format(f"{most.value:g}")
            last = f"{short(most.budgets[-1])} {analysis.unit}"
            grown.append(
                f"{stress} raises its loss {much} at {last} as at {lowest} ({_interval(most, analysis.level)})"
            )
    if grown:
        return f"The network becomes more fragile: {'; '.join(grown)}."
    if all(item.verdict == "falls" for family in families for item in family.curves):
        return "The network becomes less fragile: the same change of its weights raises its loss less and less."
    return "No evidence that the network becomes more fragile: the rise of its loss under these changes does not grow."


def _family_in_words(family: Family, analysis: SeriesAnalysis) -> str:
    subject, strength = SUBJECTS[family.quantity]
    parts = []
    for verdict, words in VERDICTS.items():
        members = [item for item in family.curves if item.verdict == verdict]
        if not members:
            continue
        shown = members if verdict == "u" else members[-1:] if verdict == "rises" else []
        details = "; ".join(f"{strength.format(f'{item.value:g}')}: {_turn(item, analysis)}" for item in shown)
        parts.append(f"{words} at {_strengths(family, members)}" + (f" ({details})" if details else ""))
    first, last = (short(analysis.budgets[i]) for i in (0, -1))
    return f"Between {first} and {last} {analysis.unit}, {subject}: {'; '.join(parts)}."


def _turn(item: Curve, analysis: SeriesAnalysis) -> str:
    """Say where a curve is lowest, where it first rises (Def. 4.2), and by how much it rises to the last checkpoint."""
    percent = f"{100 * analysis.level:g} % interval"
    if item.verdict == "u":
        low, high = (short(_rounded(end)) for end in item.vertex_interval)
        lowest = f"lowest near {short(_rounded(item.vertex))} {analysis.unit} ({percent} {low} to {high})"
    else:
        lowest = f"lowest at {short(item.budgets[int(np.argmin(item.mean))])} {analysis.unit}"
    step = ""
    if np.isfinite(item.inflection):
        step = f", increases significantly for the first time after {short(item.inflection)} (Def. 4.2)"
    change = f"by a factor of {item.rise:.3g}" if item.log else f"by {item.rise:.3g}"
    return f"{lowest}{step}, and rises {change} up to {short(item.budgets[-1])} ({_interval(item, analysis.level)})"


def _interval(item: Curve, level: float) -> str:
    return f"{100 * level:g} % interval {item.rise_interval[0]:.3g} to {item.rise_interval[1]:.3g}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _strengths(family: Family, members: Sequence[Curve]) -> str:
    return SUBJECTS[family.quantity][1].format(", ".join(f"{item.value:g}" for item in members))
