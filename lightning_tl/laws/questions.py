"""The questions that a study may be run for, and the probability that each answer to them is right.

Each answer has, for each particle of one group, a probability that it is right, given what is known of the other
groups. That is all that the choice of the next run needs (:mod:`~lightning_tl.laws.next_runs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.special import ndtr

from lightning_tl.errors import UserError
from lightning_tl.laws.advice import DIFFERENT, MORE
from lightning_tl.laws.forms import Array
from lightning_tl.laws.group_fits import FACTOR
from lightning_tl.laws.lookahead import scratch_of
from lightning_tl.laws.posterior import Particles, Posterior, grid, shape_of
from lightning_tl.laws.terms import WORTHWHILE

#: Groups among which the best is sought: memory grows with their square.
_MOST_RIVALS = 60
QuestionName = Literal["more_or_different", "best", "target", "negative_transfer"]


class Question(Protocol):
    """What a study is to decide. With ``joint`` the groups have one answer together, else each its own."""

    @property
    def name(self) -> QuestionName:
        """Its name on the command line."""

    @property
    def joint(self) -> bool:
        """Whether the groups have one answer together."""

    @property
    def of_shape(self) -> bool:
        """Whether only the form of a curve matters, not where it lies: then a first run says nothing."""

    @property
    def at(self) -> float:
        """Pre-training size that it is asked for."""

    def answers(self, posterior: Posterior) -> tuple[str, ...]:
        """Return the answers, K of them."""

    def right(self, posterior: Posterior) -> Array:
        """Return, for each particle of each group, the probability that each answer is right, shape (G, K, S, P)."""

    def weight(self, posterior: Posterior) -> Array:
        """Return the probability of each particle of each group, shape (G, S, P)."""


def plain_weight(posterior: Posterior) -> Array:
    """Return the probability of each particle of each group by the posterior, shape (G, S, P)."""
    shape = (len(posterior.groups), *posterior.groups[0].alpha.shape)
    weight: Array = np.broadcast_to(posterior.weight[:, None] / shape[2], shape)
    return weight


@dataclass(frozen=True)
class MoreOrDifferent:
    """Do ``factor`` times the images lower the error by the share ``worthwhile`` or more? As in the verdict of ``law``.

    Both answers are equally likely a priori, whatever the sizes: the prior of alpha and share by itself would make
    "differently" the likelier, the larger ``at`` is.

    Attributes:
        at: The size from which on, usually the largest that the study may reach.
        factor: How many times the images.
        worthwhile: Share of the error that they must take away.
        zone: Indifference: where they take away between ``worthwhile`` less and plus this share of it, either answer
            counts as right.
    """

    at: float
    factor: float = FACTOR
    worthwhile: float = WORTHWHILE["error"]
    zone: float = 0.2
    name: QuestionName = "more_or_different"
    joint: bool = False
    of_shape: bool = True

    def __post_init__(self) -> None:
        _check_size(self.at)
        if not 0 <= self.zone < 1:
            raise UserError(f"zone is {self.zone:g}; give a share of the reduction from 0 to below 1, such as 0.2")

    def answers(self, posterior: Posterior) -> tuple[str, ...]:
        """Return "render more" and "render differently"."""
        return (MORE, DIFFERENT)

    def _reduction(self, alpha: Array, share: Array, n_ref: float) -> Array:
        near, far = (shape_of(alpha, share, n / n_ref) for n in (self.at, self.factor * self.at))
        reduction: Array = -np.expm1(far - near)
        return reduction

    def right(self, posterior: Posterior) -> Array:
        """See :meth:`Question.right`."""
        reduction = self._of_particles(posterior)
        least, most = ((1 + side * self.zone) * self.worthwhile for side in (-1, 1))
        different = reduction <= most if self.zone else reduction < most
        return np.stack([reduction >= least, different], axis=1).astype(float)

    def weight(self, posterior: Posterior) -> Array:
        """See :meth:`Question.weight`."""
        likely = min(max(self._prior(posterior.groups[0].n_ref, posterior.prior.alpha), 1e-3), 1 - 1e-3)
        more = self._of_particles(posterior) >= self.worthwhile
        weight = plain_weight(posterior) * np.where(more, 0.5 / likely, 0.5 / (1 - likely))
        even: Array = weight / weight.sum(axis=(1, 2), keepdims=True)
        return even

    def _of_particles(self, posterior: Posterior) -> Array:
        return np.stack([self._reduction(item.alpha, item.share, item.n_ref) for item in posterior.groups])

    def _prior(self, n_ref: float, alphas: tuple[float, float]) -> float:
        """Return the probability of "more" by the prior of alpha and share."""
        alpha, share, log_prior = grid(*alphas)
        return float(np.exp(log_prior)[self._reduction(alpha, share, n_ref) >= self.worthwhile].sum())


@dataclass(frozen=True)
class TargetError:
    """Is the error at a size (the largest that the budget reaches) at most a target?

    Attributes:
        at: The size.
        target: The error, in (0, 1).
    """

    at: float
    target: float
    name: QuestionName = "target"
    joint: bool = False
    of_shape: bool = False

    def __post_init__(self) -> None:
        _check_size(self.at)
        if not 0 < self.target < 1:
            raise UserError(f"target error {self.target:g} is not between 0 and 1; an error of 10 % is 0.1")

    def answers(self, posterior: Posterior) -> tuple[str, ...]:
        """Return "reaches it" and "does not reach it"."""
        return ("reached", "not reached")

    def weight(self, posterior: Posterior) -> Array:
        """See :meth:`Question.weight`."""
        return plain_weight(posterior)

    def right(self, posterior: Posterior) -> Array:
        """See :meth:`Question.right`."""
        goal = np.log(self.target)
        below = np.stack(
            [_probability_below(goal - item.log_error(self.at), item.points.draw_variance) for item in posterior.groups]
        )
        return np.stack([below, 1 - below], axis=1)


@dataclass(frozen=True)
class NegativeTransfer:
    """Is the error at a size above the error without pre-training?

    Attributes:
        at: The size.
    """

    at: float
    name: QuestionName = "negative_transfer"
    joint: bool = False
    of_shape: bool = False

    def __post_init__(self) -> None:
        _check_size(self.at)

    def answers(self, posterior: Posterior) -> tuple[str, ...]:
        """Return "better than none" and "worse than none"."""
        return ("better than none", "worse than none")

    def weight(self, posterior: Posterior) -> Array:
        """See :meth:`Question.weight`."""
        return plain_weight(posterior)

    def right(self, posterior: Posterior) -> Array:
        """See :meth:`Question.right`."""
        below = np.stack([self._better(item, posterior.noise) for item in posterior.groups])
        return np.stack([below, 1 - below], axis=1)

    def _better(self, item: Particles, noise: Array) -> Array:
        if not len(item.points.scratch):
            raise UserError(
                f"{item.points.label} has no run without pre-training (size 0), so negative transfer cannot be "
                "decided; add some (in a study, by scratch: true)"
            )
        scratch = scratch_of(item.points, noise)
        return _probability_below(scratch.mean - item.log_error(self.at), scratch.variance[:, None])


@dataclass(frozen=True)
class BestGroup:
    """Which group has the lowest error at a size?

    Attributes:
        at: The size.
        within: A group counts as right whose error is at most this share above the lowest.
    """

    at: float
    within: float = 0.02
    name: QuestionName = "best"
    joint: bool = True
    of_shape: bool = False

    def __post_init__(self) -> None:
        _check_size(self.at)
        if not 0 <= self.within < 1:
            raise UserError(f"within is {self.within:g}; give a share of the error from 0 to below 1, such as 0.02")

    def answers(self, posterior: Posterior) -> tuple[str, ...]:
        """Return the groups' labels."""
        return tuple(item.points.label for item in posterior.groups)

    def weight(self, posterior: Posterior) -> Array:
        """See :meth:`Question.weight`."""
        return plain_weight(posterior)

    def right(self, posterior: Posterior) -> Array:
        """See :meth:`Question.right`."""
        if len(posterior.groups) > _MOST_RIVALS:
            raise UserError(
                f"question best compares up to {_MOST_RIVALS} groups, and the table has {len(posterior.groups)}; "
                "select fewer (--where)"
            )
        return _best(posterior, self.at, float(np.log1p(self.within)))


def asked(name: QuestionName, at: float, target: float | None, within: float, zone: float) -> Question:
    """Return the question of a name.

    Args:
        name: Its name, in options and in a study's ``until``.
        at: Size in images that it is asked for.
        target: The error to reach, for target.
        within: See :class:`BestGroup`.
        zone: See :class:`MoreOrDifferent`.

    Raises:
        UserError: A value is missing or out of range.
    """
    if name == "more_or_different":
        return MoreOrDifferent(at, zone=zone)
    if name == "best":
        return BestGroup(at, within)
    if name == "negative_transfer":
        return NegativeTransfer(at)
    if target is None:
        raise UserError(
            "question target needs the error to reach, such as 0.05: --target-error, or target in a study's until"
        )
    return TargetError(at, target)


def _best(posterior: Posterior, at: float, slack: float) -> Array:
    """Return, for each particle of each group g, the probability that each group j is best, shape (g, j, S, P)."""
    own = np.stack([item.log_error(at) for item in posterior.groups])
    count, noises, size = own.shape
    right = np.empty((count, count, noises, size))
    for s in range(noises):
        error = np.sort(own[:, s], axis=1)
        merged = np.sort(error, axis=None)
        member = np.argsort(error, axis=None, kind="stable") // size
        below = np.zeros((count, count * size + 1))  # how many draws of each group are among the first of all
        below[:, 1:] = np.cumsum(member == np.arange(count)[:, None], axis=1)
        # of draw p of group j: the probability that group i is not below it by more than the slack
        above = 1 - below[:, np.searchsorted(merged, error - slack, side="left")].transpose(1, 0, 2) / size
        above[np.arange(count), np.arange(count)] = 1
        against = _products_without_one(above)  # (j, g, P): group j's draws against all but g
        summed = np.concatenate([np.zeros((count, count, 1)), np.cumsum(against, axis=2)], axis=2) / size
        place = below[:, np.searchsorted(merged, own[:, s] + slack, side="right")].astype(np.int64)  # (j, g, P)
        shares = np.take_along_axis(summed, place, axis=2).transpose(1, 0, 2)
        order = np.argsort(np.argsort(own[:, s], axis=1, kind="stable"), axis=1)
        groups = np.arange(count)
        shares[groups, groups] = np.take_along_axis(np.prod(above, axis=1), order, axis=1)
        right[:, :, s] = shares
    return right


def _products_without_one(values: Array) -> Array:
    """Return, along the second axis, the product of all entries but each one."""
    ones = np.ones_like(values[:, :1])
    before = np.cumprod(np.concatenate([ones, values[:, :-1]], axis=1), axis=1)
    after = np.cumprod(np.concatenate([ones, values[:, :0:-1]], axis=1), axis=1)[:, ::-1]
    product: Array = before * after
    return product


def _probability_below(margin: Array, variance: Array | float) -> Array:
    """Return the probability that a normal deviation of this variance is at most a margin."""
    spread = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        probability: Array = np.where(spread > 0, ndtr(margin / spread), (margin >= 0).astype(float))
    return probability


def _check_size(size: float) -> None:
    if not (np.isfinite(size) and size > 0):
        raise UserError(f"the question is asked for n = {size:g}; give a number of images over 0")
