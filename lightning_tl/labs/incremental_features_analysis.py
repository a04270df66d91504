"""The overtraining analysis on the lab's studies: does it find the turn where the theory has it, and none else?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.labs.incremental_features_studies import STEPS, Studies, label, tables
from lightning_tl.labs.incremental_features_theory import noisy_losses, tuned_losses, turn, vertex
from lightning_tl.labs.outcome import Array, Comparison, compared
from lightning_tl.labs.shares import compared_share

if TYPE_CHECKING:
    from lightning_tl.budget_curves import Curve
    from lightning_tl.labs.incremental_features_parameters import IncrementalFeaturesParameters
    from lightning_tl.study.overtraining import Overtraining

#: Studies that are analysed with all pulls, which takes three times as long.
_PULLED = 20
#: Shares of the studies in which the analysis may miss a turn, and claim one where there is none.
MISSED, CLAIMED = 0.1, 0.05
_ROUNDING = 1e-9


def analysed(
    lab: IncrementalFeaturesParameters, studies: Studies, steady: Studies
) -> tuple[list[Comparison], dict[str, Any]]:
    """Analyse all studies, and the first one again with what the callback of sensitivity measures on its networks.

    Args:
        lab: The parameters.
        studies: Of the spectrum whose curves turn.
        steady: Of the other.

    Returns:
        The comparisons of parts ``analysis`` and ``callback study``; facts.
    """
    place = studies.place
    noise = noisy_losses(place.spectrum, lab.gamma)
    tuning = [tuned_losses(place.spectrum, lab.target(lab.spectrum), pull, lab.tuning_time)[0] for pull in lab.pulls]
    pulled = min(_PULLED, lab.studies)
    answers = [
        analyse_study(lab, studies, i, studies.noisy[i], len(lab.pulls) if i < pulled else 1)
        for i in range(lab.studies)
    ]
    full = [tuned_curve(answer, lab.pulls[0]) for answer in answers]
    noisy = [noise_curve(answer) for answer in answers]
    calm = [analyse_study(lab, steady, i, steady.noisy[i], 1) for i in range(lab.studies)]
    budgets = steps(studies)
    shares = {
        "turn under noise": (found(noisy, budgets, turn(noise)), MISSED),
        "turn after fine-tuning": (found(full, budgets, turn(tuning[0])), MISSED),
        "lowest place under noise in its interval": (inside(noisy, budgets, noise), MISSED),
        "lowest place after fine-tuning in its interval": (inside(full, budgets, tuning[0]), MISSED),
        "no turn under noise": (found(list(map(noise_curve, calm)), steps(steady), None), CLAIMED),
        "no turn after fine-tuning": (
            found([tuned_curve(c, lab.pulls[0]) for c in calm], steps(steady), None),
            CLAIMED,
        ),
    }
    comparisons = [
        compared_share("analysis", name, 0.0, 1.0, count, lab.studies, allowed)
        for name, (count, allowed) in shares.items()
    ]
    by_pull = [
        found([tuned_curve(answer, pull) for answer in answers[:pulled]], budgets, turn(losses))
        for pull, losses in zip(lab.pulls, tuning, strict=True)
    ]
    for pull, share in zip(lab.pulls[1:], by_pull[1:], strict=True):
        comparisons.append(Comparison("analysis", f"turn at λ = {pull:g}", pull, 1.0, share / pulled))
    measured, curve = _by_callback(lab, studies)
    comparisons += [
        compared("callback study", "loss under noise", n + 1, noise[n], measured[n]) for n in range(place.width)
    ]
    comparisons.append(
        Comparison(
            "callback study", "features before the turn", 0.0, turn(noise) or 0, features(curve, budgets) or 0, 0, 0
        )
    )
    return comparisons, {
        "noise_turn": turn(noise),
        "noise_found": shares["turn under noise"][0],
        "noise_none": shares["no turn under noise"][0],
        "tuning_turns": [turn(losses) for losses in tuning],
        "end_turns": [
            turn(tuned_losses(place.spectrum, lab.target(lab.spectrum), pull, np.inf)[0]) for pull in lab.pulls
        ],
        "pull_found": by_pull,
        "pull_studies": pulled,
        "intervals": [[*curve.vertex_interval, curve.inflection] for curve in noisy],
        "steps": budgets,
    }


def analyse_study(
    lab: IncrementalFeaturesParameters, studies: Studies, index: int, noisy: Array, pulls: int
) -> Overtraining:
    """Return the library's analysis of one study; arguments as for :func:`tables`."""
    from lightning_tl.study.overtraining import analyse

    return analyse(*tables(lab, studies, index, noisy, pulls))


def noise_curve(analysis: Overtraining) -> Curve:
    """Return the curve of the loss under noise."""
    return analysis.series[0].family("perturbed_loss", "gamma")[0]


def tuned_curve(analysis: Overtraining, pull: float) -> Curve:
    """Return the curve of the pre-training loss after fine-tuning with a pull."""
    series = next(one for one in analysis.series if one.name in ("", label(pull)))
    return series.family("forgotten", "lr")[0]


def steps(studies: Studies) -> list[int]:
    """Return the budgets in the tables' steps."""
    return [int(step) for step in np.round(STEPS * studies.place.budgets())]


def features(curve: Curve, budgets: Sequence[int]) -> int | None:
    """Return how many features are learnt at the inflection point that a curve has; ``None``: it has none."""
    return budgets.index(int(curve.inflection)) + 1 if np.isfinite(curve.inflection) else None


def found(curves: Sequence[Curve], budgets: Sequence[int], expected: int | None) -> int:
    """Return in how many curves the analysis finds the expected turn; none, where none is expected."""
    return sum(features(curve, budgets) == expected for curve in curves)


def inside(curves: Sequence[Curve], budgets: Sequence[int], losses: Array) -> int:
    """Return in how many curves the place where the theory's curve is lowest is inside the interval.

    Args:
        curves: Of the analysis.
        budgets: Steps.
        losses: Of the theory, at the budgets.
    """
    place = vertex(np.array(budgets, float), losses)
    ends = [(low * (1 - _ROUNDING), high * (1 + _ROUNDING)) for low, high in (c.vertex_interval for c in curves)]
    return sum(low <= place <= high for low, high in ends)


def _by_callback(lab: IncrementalFeaturesParameters, studies: Studies) -> tuple[Array, Curve]:
    """Measure the networks of the first study with the library's callback, and analyse that."""
    from lightning_tl.labs.incremental_features_callbacks import perturbed_by_callback, whitened_inputs

    source, inputs = studies.place.matrix(studies.place.spectrum), whitened_inputs(lab.random(5), studies.place.width)
    measured = np.array(
        [
            [
                perturbed_by_callback(
                    (first[0, seed], second[0, seed]),
                    source,
                    inputs,
                    lab.gamma,
                    lab.noise_draws,
                    1000 * lab.seed + seed,
                )
                for seed in range(lab.pretrainings)
            ]
            for first, second in studies.weights
        ]
    )
    return measured, noise_curve(analyse_study(lab, studies, 0, measured, 1))
