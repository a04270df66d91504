"""The methods of each setting: their means, differences to full fine-tuning, the front, the one to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_tl.study.transfer_methods.front import Place, front
from lightning_tl.study.transfer_methods.image_variance import replicates_of, variance_of_error
from lightning_tl.study.transfer_methods.labels import FULL, is_interpolation
from lightning_tl.study.transfer_methods.methods_table import Setting
from lightning_tl.study.transfer_methods.paired_statistics import Estimate, estimate, holm

#: Share of the lowest error by which another may be higher and still count as equal.
EQUAL = 0.1


@dataclass(frozen=True)
class Compared:
    """A method in a setting.

    Attributes:
        label: The method with its strength, or an interpolation such as ``full, α = 0.5``.
        error: Test error.
        val_error: Error on validation images, by which the method to take is chosen.
        forgetting: Rise of the pre-training loss by fine-tuning, BatchNorm's statistics re-estimated.
        distance: ‖θ_ft − θ_pre‖₂ of the backbone.
        seconds: Of the run, training and tests.
        trainable: Number of parameters trained.
        error_to_full: Error less that of full fine-tuning on the same pre-trainings and draws.
        forgetting_to_full: Likewise.
        distance_to_full: Likewise.
        seconds_to_full: Likewise.
        to_scratch: log(error / error without pre-training), paired by draw.
        p_negative: Of no negative transfer: how likely so much higher an error than without pre-training is, corrected
            over the methods of the setting (Holm); 1 where there are no runs without pre-training.
        place: Whether it is on the front of error against forgetting.
    """

    label: str
    error: Estimate
    val_error: Estimate
    forgetting: Estimate
    distance: Estimate
    seconds: Estimate
    trainable: float
    error_to_full: Estimate
    forgetting_to_full: Estimate
    distance_to_full: Estimate
    seconds_to_full: Estimate
    to_scratch: Estimate
    p_negative: float
    place: Place


@dataclass(frozen=True)
class SettingResult:
    """The comparison in one setting.

    Attributes:
        keys: What tells it from settings of the same n and s.
        n: Pre-training images.
        s: Fine-tuning images.
        methods: ``full`` first.
        take: Label of the method to take.
        lowest: Label of the method with the lowest error on validation images.
        scratch: Test error without pre-training; of no draws where there is none.
    """

    keys: Mapping[str, str]
    n: float
    s: float
    methods: tuple[Compared, ...]
    take: str
    lowest: str
    scratch: Estimate

    def method(self, label: str) -> Compared:
        """Return the method with a label."""
        return next(item for item in self.methods if item.label == label)

    def has(self, label: str) -> bool:
        """Return whether a method is among them."""
        return any(item.label == label for item in self.methods)


def compare_methods(found: Sequence[Setting], level: float = 0.95, equal: float = EQUAL) -> list[SettingResult]:
    """Compare the transfer methods of a study, setting by setting.

    Args:
        found: The settings, of :func:`~lightning_tl.study.transfer_methods.methods_table.settings`.
        level: Of tests.
        equal: Share of the lowest error by which another may be higher and still count as equal.
    """
    return [_compared(setting, level, equal) for setting in found]


def _compared(setting: Setting, level: float, equal: float) -> SettingResult:
    labels = setting.methods
    reference = FULL if FULL in labels else None
    places = front(setting, labels, level)
    own = [label for label in labels if not is_interpolation(label)]  # interpolations are no further trainings to test
    above = {label: setting.above_scratch(label) for label in labels}
    corrected = dict(zip(own, holm([above[label].p_above() for label in own]), strict=True))
    lowest, take = choose_method(setting, labels, equal)

    def to_full(label: str, quantity: str) -> Estimate:
        nothing = Estimate(float("nan"), float("nan"), 0.0, 0, 0)
        return nothing if reference is None else setting.estimate(label, quantity, reference)

    compared = tuple(
        Compared(
            label=label,
            error=setting.estimate(label, "error"),
            val_error=setting.estimate(label, "val_error"),
            forgetting=setting.estimate(label, "forgetting"),
            distance=setting.estimate(label, "distance"),
            seconds=setting.estimate(label, "seconds"),
            trainable=setting.trainable(label),
            error_to_full=to_full(label, "error"),
            forgetting_to_full=to_full(label, "forgetting"),
            distance_to_full=to_full(label, "distance"),
            seconds_to_full=to_full(label, "seconds"),
            to_scratch=above[label],
            p_negative=corrected.get(label, 1.0),
            place=places[label],
        )
        for label in labels
    )
    return SettingResult(setting.keys, setting.n, setting.s, compared, take, lowest, _scratch(setting))


def choose_method(setting: Setting, labels: Sequence[str], equal: float) -> tuple[str, str]:
    """Return the method with the lowest error, and the one to take, both by validation images where there are any.

    Taken is the one that forgets least of those whose mean error is at most ``equal`` above the lowest. Without a
    measure of forgetting it is the one with the lowest error. Test images have no part in it, so the errors that are
    reported for it have not been chosen.
    """
    by = "val_error" if all(setting.values(label, "val_error").size for label in labels) else "error"
    means = {label: setting.estimate(label, by).mean for label in labels}
    lowest = min(labels, key=means.__getitem__)
    as_low = [label for label in labels if means[label] <= (1 + equal) * means[lowest]]
    forgotten = {label: setting.estimate(label, "forgetting").mean for label in as_low}
    known = all(np.isfinite(value) for value in forgotten.values())
    return lowest, min(as_low, key=forgotten.__getitem__) if known else lowest


def _scratch(setting: Setting) -> Estimate:
    if setting.scratch.empty:
        return estimate(np.zeros((0, 0)))
    by_draw = setting.scratch.groupby("draw_seed")["error"].mean().to_numpy(float)
    images = variance_of_error(replicates_of(setting.scratch, setting.replicates))
    return estimate(by_draw[None]).with_variance(images)
