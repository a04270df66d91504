"""What a lab gives: comparisons of theory with simulation, figures, three paragraphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
Agreement = Literal["agrees", "disagrees", "undecided", "shown"]


@dataclass(frozen=True)
class Comparison:
    """A number from theory beside the same number from a simulation or from the library.

    Attributes:
        part: Which part of the lab.
        case: Which of its cases.
        at: Where on the part's horizontal axis.
        theory: From the formula.
        simulation: Measured: the mean of the simulated runs.
        stderr: Its standard error; 0 where it is exact.
        allowed: Largest difference that counts as agreement, in the unit of the values. 0: none but chance, as the
            theory is exact for what is measured. ``None``: only shown.
        runs: Independent runs that the standard error is estimated from; 0: it is known.
    """

    part: str
    case: str
    at: float
    theory: float
    simulation: float
    stderr: float = 0.0
    allowed: float | None = None
    runs: int = 0

    @property
    def agreement(self) -> Agreement:
        """Whether they agree: ``undecided`` where chance is as large as what is allowed.

        A difference beyond the allowed one by more than chance disagrees. It agrees only if it is within the allowed
        one, and so is the standard error; where none is allowed, if it is within chance.
        """
        if self.allowed is None:
            return "shown"
        difference, chance = abs(self.theory - self.simulation), _errors(self.runs) * self.stderr
        allowed = self.allowed * (1 + 1e-9)  # a share of 1 where 0.95 ± 0.05 is allowed
        if not math.isfinite(difference) or difference > allowed + chance:
            return "disagrees"
        if self.allowed == 0:
            return "agrees"
        return "agrees" if difference <= allowed and self.stderr <= allowed else "undecided"


def _errors(runs: int) -> float:
    """Return how many standard errors chance exceeds in one of 370 cases: three where the standard error is known."""
    from scipy.special import stdtrit

    return float(stdtrit(runs - 1, 0.99865)) if runs > 1 else 3.0


def compared(
    part: str,
    case: str,
    at: float,
    theory: float,
    simulated: Sequence[float] | Array,
    relative: float | None = 0.02,
    absolute: float | None = None,
) -> Comparison:
    """Compare a theoretical value with the mean of independent simulated runs.

    Args:
        part: Which part of the lab.
        case: Which of its cases.
        at: Where on the part's horizontal axis.
        theory: The value.
        simulated: One value per run, shape (runs,).
        relative: Largest difference that counts as agreement, as a share of the theoretical value; ``None``: any.
        absolute: The same in the unit of the values, where ``relative`` is ``None``.
    """
    values = np.asarray(simulated, float)
    stderr = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    allowed = absolute if relative is None else relative * abs(theory)
    return Comparison(part, case, float(at), float(theory), float(values.mean()), stderr, allowed, len(values))


@dataclass
class Outcome:
    """What a lab gives.

    Attributes:
        title: Of its page.
        comparisons: All of them, in order.
        paragraphs: What the theory says, what was simulated, what came of it.
        facts: Further results by name, plain types.
        captions: By name of the figure.
        draw: Draws the figures, by name.
    """

    title: str
    comparisons: list[Comparison]
    paragraphs: tuple[str, str, str]
    facts: dict[str, Any] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    draw: Callable[[], dict[str, Figure]] = dict

    def counts(self) -> dict[str, int]:
        """Return how many comparisons agree, disagree and are undecided."""
        found = [item.agreement for item in self.comparisons]
        return {kind: found.count(kind) for kind in ("agrees", "disagrees", "undecided")}

    def part(self, name: str, case: str | None = None) -> list[Comparison]:
        """Return the comparisons of a part, or of one of its cases."""
        return [item for item in self.comparisons if item.part == name and case in (None, item.case)]

    def worst(self, *parts: str) -> float:
        """Return the largest relative difference in these parts among the comparisons that count."""
        counted = [item for item in self.comparisons if item.part in parts and item.allowed is not None and item.theory]
        return max((abs(item.simulation / item.theory - 1) for item in counted), default=0.0)
