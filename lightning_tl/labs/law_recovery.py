"""The lab of recovered laws: tables of worlds whose truth is known, and what `lightning-tl law` says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning_tl.labs.law_answers import AT_BEYOND, FAR, MISSED, NO_GAP, RISES, Answer, answers
from lightning_tl.labs.law_calibration import alarms, boundaries, shared_draws
from lightning_tl.labs.law_recovery_parameters import LawRecoveryParameters
from lightning_tl.labs.law_tables import Kind, kinds, pretraining_sizes
from lightning_tl.labs.outcome import Array, Comparison, Outcome
from lightning_tl.labs.shares import compared_share

#: Difference of a share from 95 % that counts as agreement, for the intervals of a kind whose law holds.
_ALLOWED = 0.05


class LawRecovery(LawRecoveryParameters):
    """What `lightning-tl law` says of tables whose truth is known."""

    def run(self) -> Outcome:
        """See :meth:`~lightning_tl.labs.lab.Lab.run`."""
        from lightning_tl.labs.law_recovery_figures import CAPTIONS, figures

        self.check()
        sizes = pretraining_sizes(self.sizes)
        found = {kind.name: self._answers(i, kind, sizes) for i, kind in enumerate(kinds(self.draws))}
        comparisons = [
            *(item for kind in kinds(self.draws) for item in _intervals(kind, found[kind.name])),
            *shared_draws(self.random(100), sizes, self.noise, self.draws, self.tables),
            *alarms(self.random(101), sizes, self.noise, self.tables),
            *boundaries(self.random(102), sizes, self.noise, max(self.tables // 2, 2)),
        ]
        facts = {name: _facts(one) for name, one in found.items()}
        outcome = Outcome("Recovered laws", comparisons, ("", "", ""), {"kinds": facts})
        outcome.captions, outcome.draw = CAPTIONS, partial(figures, self, outcome)
        outcome.paragraphs = self._paragraphs(outcome)
        return outcome

    def _answers(self, stream: int, kind: Kind, sizes: Array) -> list[Answer]:
        count = self.worlds // 2 if kind.full else self.worlds
        return answers(kind, count, self.random(stream), sizes, self.noise, self.draw_noise)

    def _paragraphs(self, outcome: Outcome) -> tuple[str, str, str]:
        facts = outcome.facts["kinds"]

        def per_cent(kinds: Sequence[str], of: str, what: str) -> str:
            counts = [facts[kind][of] for kind in kinds]
            return f"{100 * sum(one.get(what, 0) for one in counts) / sum(one['of'] for one in counts):.0f} %"

        good, bad = ["law (1)", "law (2)", "shared draws"], ["broken power law", "moving floor"]
        covers = [item.simulation for item in outcome.part("intervals") if item.allowed is not None]
        counts = outcome.counts()
        return (
            "Where the error follows the law, noise is normal and the table names what runs share, an interval of 95 % "
            "has to hold the truth in 95 % of studies, and a verdict that asks for 80 % confidence may be wrong in at "
            "most 20 % of the studies whose truth lies on its boundary. For power laws the t distribution also gives "
            "how often intervals miss where shared draws are not named, and how often the check on the largest size "
            "warns where the law does not hold.",
            f"Simulated: {self.worlds} studies each of {len(facts)} kinds of worlds with {self.sizes} sizes of "
            "pre-training. Each table goes through what lightning-tl law does, with a target error that the world "
            f"reaches or, in half of the worlds with a floor, never does; and {self.tables} tables for each point "
            "that theory gives.",
            f"{counts['agrees']} of {sum(counts.values())} shares agree with theory. Where the law holds, intervals "
            f"hold the truth in {100 * min(covers):.0f} to {100 * max(covers):.0f} % of studies, the verdict on ten "
            f"times the images is right in {per_cent(good, 'verdict', 'right')} and wrong in "
            f"{per_cent(good, 'verdict', 'wrong')}, and whether the target is ever reached in "
            f"{per_cent(good, 'reached', 'right')} and {per_cent(good, 'reached', 'wrong')}; the rest is left open. "
            f"With a broken power law or a moving floor the intervals of the error at 4 times the largest size hold it "
            f"in {per_cent(bad, 'inside', AT_BEYOND)}, the verdict is wrong in {per_cent(bad, 'verdict', 'wrong')} and "
            f"the answer on the target in {per_cent(bad, 'reached', 'wrong')}; the largest size warns of it in only "
            f"{per_cent(bad, 'warnings', MISSED)}, and in {per_cent(good, 'warnings', MISSED)} where the law holds. "
            f"An error that rises is noted in {per_cent(['rising error'], 'warnings', RISES)}.",
        )


def _intervals(kind: Kind, found: Sequence[Answer]) -> list[Comparison]:
    names = list(found[0].inside)
    allowed = _ALLOWED if kind.holds else None
    return [
        compared_share(
            "intervals", f"{kind.name}: {name}", 0.0, 0.95, sum(one.inside[name] for one in found), len(found), allowed
        )
        for name in names
    ]


def _facts(found: Sequence[Answer]) -> dict[str, Any]:
    """Return counts: intervals that hold the truth, calls, warnings; each with how many studies it is of."""
    of = {"of": len(found)}
    return {
        "inside": {name: sum(one.inside[name] for one in found) for name in found[0].inside} | of,
        "verdict": dict(Counter(one.verdict for one in found)) | of,
        "reached": dict(Counter(one.reached for one in found)) | of,
        "warnings": {name: sum(name in one.warnings for one in found) for name in (MISSED, RISES, NO_GAP, FAR)} | of,
    }
