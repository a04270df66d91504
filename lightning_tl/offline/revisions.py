"""The checkpoints of a published or saved series: which there are, and how much training each has seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from pathlib import Path

from lightning_tl.errors import UserError
from lightning_tl.measure.params import listed

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_COUNT = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmbt]?)", re.IGNORECASE)
_NAMED_TOKENS = re.compile(
    r"tokens?[-_=]?(\d+(?:\.\d+)?[kmbt]?)(?![a-z0-9.])|(?<![a-z0-9.])(\d+(?:\.\d+)?[kmbt])[-_]?tokens?|"
    r"[-_](\d+(?:\.\d+)?[bt])$",
    re.IGNORECASE,
)
_NAMED_STEP = re.compile(
    r"(?:step|iter|iteration|ckpt|checkpoint|batch)s?[-_=]?(\d+(?:\.\d+)?[km]?)(?![a-z0-9])", re.IGNORECASE
)


@dataclass(frozen=True)
class Revision:
    """A checkpoint of a series.

    Attributes:
        name: Branch or tag on the Hub, sub-folder on a disk, or a file's name.
        step: Optimiser steps done; None where it is not known.
        tokens: Tokens (or samples) seen in training; None where it is not known.
    """

    name: str
    step: int | None = None
    tokens: int | None = None

    @property
    def budget(self) -> int | None:
        """Tokens where they are known, else steps."""
        return self.step if self.tokens is None else self.tokens


def count_of(text: str) -> int:
    """Return a count that is written as ``4B``, ``2.5M``, ``300k`` or ``1e9``.

    Raises:
        UserError: It is none.
    """
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise UserError(f"'{text}' is not a number of tokens; write 4B, 2.5M, 300k or 4000000000")
    return round(float(match[1]) * _UNITS[match[2].lower()])


def revision_of(name: str, tokens_per_step: int | None = None) -> Revision:
    """Return a revision with the step and the tokens that its name tells.

    Understood are names such as ``step1000-tokens4B`` (OLMo), ``step3000`` (Pythia), ``ckpt_100`` (Amber),
    ``checkpoint-500`` (Hugging Face's Trainer), ``300B-tokens``, ``step-1431k-3T``.

    Args:
        name: The name.
        tokens_per_step: Gives the tokens where the name tells only the step.
    """
    step, tokens = _NAMED_STEP.search(name), _NAMED_TOKENS.search(name)
    steps = None if step is None else count_of(step[1])
    seen = None if tokens is None else count_of(tokens[1] or tokens[2] or tokens[3])
    if seen is None and steps is not None and tokens_per_step is not None:
        seen = steps * tokens_per_step
    return Revision(name, steps, seen)


def ordered(revisions: Sequence[Revision]) -> list[Revision]:
    """Return revisions by the training that they have seen.

    Raises:
        UserError: That of one is not known, some have tokens and others only steps, or two have seen the same.
    """
    unknown = [revision.name for revision in revisions if revision.budget is None]
    if unknown:
        raise UserError(
            f"the names of {listed(unknown)} tell neither step nor tokens; give --tokens with one number for each "
            "revision, in their order, or leave them out with --revisions"
        )
    without = [revision.name for revision in revisions if revision.tokens is None]
    if without and len(without) < len(revisions):
        raise UserError(
            f"the names of {listed(without)} tell only the step, those of others the tokens; give --tokens_per_step, "
            "or --tokens with one number for each revision"
        )
    by_budget = sorted(revisions, key=lambda revision: revision.budget or 0)
    for one, other in pairwise(by_budget):
        if one.budget == other.budget:
            raise UserError(
                f"{one.name} and {other.name} have seen the same training ({one.budget:,}); leave one out with "
                "--revisions, or give --tokens with one number for each revision"
            )
    return by_budget


def spread(revisions: Sequence[Revision], count: int) -> list[Revision]:
    """Return so many of the ordered revisions, as evenly spaced as there are in the logarithm of the training seen.

    The first with any training and the last are among them.
    """
    trained = [revision for revision in revisions if revision.budget]
    if len(trained) <= count:
        return list(revisions)
    first, last = (float(trained[i].budget or 0) for i in (0, -1))
    chosen: dict[str, Revision] = {}
    for i in range(count):
        wanted = first * (last / first) ** (i / max(1, count - 1))
        left = [revision for revision in trained if revision.name not in chosen]
        nearest = min(left, key=lambda revision: abs(log((revision.budget or 1) / wanted)))
        chosen[nearest.name] = nearest
    return [revision for revision in trained if revision.name in chosen]


def local_revisions(folder: Path) -> list[str]:
    """Return the sub-folders of a folder that hold a saved model each (they have a ``config.json``).

    Raises:
        UserError: There is none.
    """
    found = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if not found:
        raise UserError(
            f"{folder}: has no sub-folder with a saved model; each revision needs one, as save_pretrained() writes it: "
            f"{folder}/step1000/config.json and its weights"
        )
    return found
