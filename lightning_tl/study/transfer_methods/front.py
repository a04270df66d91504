"""The front of error against forgetting, with the uncertainty of being on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_tl.study.transfer_methods.methods_table import Setting
from lightning_tl.study.transfer_methods.paired_statistics import holm

#: On the front; off it; off it by the means, but not beyond chance; forgetting was not measured.
Standing = Literal["on", "off", "not distinguishable", "unknown"]


@dataclass(frozen=True)
class Place:
    """Where a method is.

    Attributes:
        standing: ``on``: no other method has both a lower mean error and a lower mean forgetting. ``off``: another is
            better in both beyond chance. ``not distinguishable``: another is better in both, but not beyond chance.
        better: The method that is better in both, the one with the smallest p-value.
        p: How likely it is to see another method better in both by so much where none is; corrected.
    """

    standing: Standing
    better: str = ""
    p: float = 1.0


def front(setting: Setting, labels: Sequence[str], level: float) -> dict[str, Place]:
    """Return the place of each method on the front of test error against forgetting.

    That B is better than A in both is tested by the larger of two one-sided p-values of paired differences (an
    intersection-union test, Berger 1982). The smallest over all B, times their number, is A's p-value; Holm's
    procedure corrects over all A. So with a confidence of at least ``level`` no method is called off the front that is
    on it.

    Args:
        setting: The runs.
        labels: The methods.
        level: Of the test.
    """
    means = {
        label: (setting.estimate(label, "error").mean, setting.estimate(label, "forgetting").mean) for label in labels
    }
    known = [label for label in labels if np.isfinite(means[label]).all()]
    found = {label: Place("unknown") for label in labels}
    p_values, rivals = [], []
    for label in known:
        tests = {
            other: max(setting.estimate(label, name, other).p_above() for name in ("error", "forgetting"))
            for other in known
            if other != label and means[other][0] < means[label][0] and means[other][1] < means[label][1]
        }
        rival = min(tests, key=tests.__getitem__, default="")
        rivals.append(rival)
        p_values.append(min(1.0, tests[rival] * (len(known) - 1)) if rival else 1.0)
    for label, rival, p in zip(known, rivals, holm(p_values), strict=True):
        standing: Standing = "on" if not rival else "off" if p <= 1 - level else "not distinguishable"
        found[label] = Place(standing, rival, p)
    return found
