"""What a lab gives: comparisons of theory with simulation, figures, three paragraphs."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        allowed: Largest difference that counts as agreement, in the unit of the values; ``None``: only shown.
    """

    part: str
    case: str
    at: float
    theory: float
    simulation: float
    stderr: float = 0.0
    allowed: float | None = None

    @property
    def agreement(self) -> Agreement:
        """Whether they agree: ``undecided`` where chance is as large as what is allowed.

        A difference beyond the allowed one by more than three standard errors disagrees. It agrees only if it is within
        the allowed one, and so is the standard error.
        """
        if self.allowed is None:
            return "shown"
        difference = abs(self.theory - self.simulation)
        if not math.isfinite(difference) or difference > self.allowed + 3 * self.stderr:
            return "disagrees"
        return "agrees" if difference <= self.allowed and self.stderr <= self.allowed else "undecided"


def compared(
    part: str,
    case: str,
    at: float,
    theory: float,
    simulated: Sequence[float] | Array,
    relative: float | None = 0.02,
) -> Comparison:
    """Compare a theoretical value with the mean of independent simulated runs.

    Args:
        part: Which part of the lab.
        case: Which of its cases.
        at: Where on the part's horizontal axis.
        theory: The value.
        simulated: One value per run, shape (runs,).
        relative: Largest difference that counts as agreement, as a share of the theoretical value; ``None``: any.
    """
    values = np.asarray(simulated, float)
    stderr = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    allowed = None if relative is None else relative * abs(theory)
    return Comparison(part, case, float(at), float(theory), float(values.mean()), stderr, allowed)


@dataclass
class Outcome:
    """What a lab gives.

    Attributes:
        title: Of its page.
        comparisons: All of them, in order.
        paragraphs: What the theory says, what was simulated, what came of it.
        facts: Further results by name, plain types.
        figures: By name.
        captions: By name of the figure.
    """

    title: str
    comparisons: list[Comparison]
    paragraphs: tuple[str, str, str]
    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Return how many comparisons agree, disagree and are undecided."""
        found = [item.agreement for item in self.comparisons]
        return {kind: found.count(kind) for kind in ("agrees", "disagrees", "undecided")}

    def part(self, name: str, case: str | None = None) -> list[Comparison]:
        """Return the comparisons of a part, or of one of its cases."""
        return [item for item in self.comparisons if item.part == name and case in (None, item.case)]

    def worst(self, *parts: str) -> float:
        """Return the largest relative difference in these parts among the comparisons that count."""
        counted = [item for item in self.comparisons if item.part in parts and item.allowed is not None]
        return max(abs(item.simulation / item.theory - 1) for item in counted)
