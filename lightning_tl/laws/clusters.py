"""From runs to independent points: runs that share a pre-training run, or a draw of few shots, are not independent.

The model of log error is ``law(n, s) + draw + pretraining + residual``. Draws that occur at every size (a paired
design) shift the whole curve: they leave alpha as it is and make the level (D, C, predictions) uncertain. Runs on one
pre-training run share its luck, so they are one point. Draw offsets are therefore removed by least squares, the runs
of each pre-training run are averaged into a *cell*, and the law is fitted to the cells, whose scatter about it measures
the pre-training noise. What the draws, and the
choice of the test images, add to the level's uncertainty is put back afterwards (:func:`widened`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, ndtri, stdtrit

from lightning_tl.laws.forms import Array, Measured

#: p-value of the F test above which runs of one pre-training count as independent.
_POOL_ABOVE = 0.25


@dataclass(frozen=True)
class Cells:
    """Independent points, one per pre-training run (and fine-tuning size), and how uncertain the draws make the level.

    Attributes:
        n: Pre-training sizes, shape (m,).
        s: Fine-tuning sizes, shape (m,); ones where unknown.
        log_error: Mean log error over the cell's runs, draw offsets removed, shape (m,).
        runs: Runs in each cell, shape (m,).
        weight: Weights of the squared residuals, shape (m,).
        cluster: Pre-training run of each cell, integers of shape (m,): cells of several s may share one.
        draws: Labels of the draws that occur at several sizes, in the order of ``offsets``.
        offsets: Offset of each draw in log error, mean 0 at each fine-tuning size.
        draw_variance: Variance of the mean draw offset in log error; 0 where no draw is shared between sizes.
        draw_dof: Degrees of freedom of ``draw_variance``.
        residual_variance: Variance of log error within cells once draws are removed; nan without degrees of freedom.
        residual_dof: Its degrees of freedom.
        image_variance: Variance of the level in log error because the test images are a sample; 0 where unknown.
        measured: Whether the logs are of errors or of losses.
        own_image_variance: Variance of each cell by what the test images do to it by itself, shape (m,); ``None`` where
            unknown. It is part of the cells' scatter about the law.
    """

    n: Array
    s: Array
    log_error: Array
    runs: Array
    weight: Array
    cluster: Array
    draws: tuple[Any, ...]
    offsets: Array
    draw_variance: float
    draw_dof: int
    residual_variance: float
    residual_dof: int
    image_variance: float = 0.0
    own_image_variance: Array | None = None
    measured: Measured = "error"

    def level_half_width(self, level: float, draw_variance: float | None = None) -> float:
        """Return the half-width of what draws and test images add to the level of log error, as a t interval."""
        variance = self.draw_variance if draw_variance is None else draw_variance
        return level_half_width(variance, self.draw_dof, self.image_variance, level)

    def where(self, keep: NDArray[np.bool_]) -> Cells:
        """Return some of the cells, with the draw offsets estimated from all."""
        names = ["n", "s", "log_error", "runs", "weight", "cluster"]
        names += ["own_image_variance"] if self.own_image_variance is not None else []
        fields = {name: getattr(self, name)[keep] for name in names}
        return Cells(**{**vars(self), **fields})


def _codes(labels: Collection[Any] | None, count: int) -> tuple[NDArray[np.int64] | None, list[str]]:
    if labels is None:
        return None, []
    text = [str(label) for label in list(labels)]
    names = sorted(set(text))
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[label] for label in text]), names


@dataclass(frozen=True)
class _Offsets:
    """Draw offsets among the runs of one fine-tuning size."""

    level: Array
    names: tuple[str, ...]
    offsets: Array
    rest: Array
    rank: int


def cells(
    n: Array,
    log_error: Array,
    s: Array | None = None,
    pretrain: Collection[Any] | None = None,
    draw: Collection[Any] | None = None,
    weight: Array | None = None,
    own_image_variance: Array | None = None,
) -> Cells:
    """Average runs into independent points.

    Args:
        n: Pre-training size of each run, shape (runs,).
        log_error: Log of its test error, shape (runs,).
        s: Its fine-tuning size, shape (runs,).
        pretrain: Label of its pre-training run, for instance the seed; the same label at two sizes names two runs.
            Without labels, runs of one draw are taken to have pre-trainings of their own, and runs of several draws at
            one size to share one.
        draw: Label of its draw of fine-tuning data; the same label at several sizes is the same draw.
        weight: Weight of each run, shape (runs,); a cell has the mean of its runs'.
        own_image_variance: Variance of each run by what the test images do to it by itself, shape (runs,).

    Returns:
        The cells in order of size.
    """
    count = len(n)
    sizes = np.ones(count) if s is None else s
    draws, names = _codes(draw, count)
    labelled, _ = _codes(pretrain, count)
    same = np.zeros(count, np.int64)
    unlabelled = np.arange(count) if draws is None else same
    keys, cell = np.unique(
        np.stack([n, sizes, unlabelled if labelled is None else labelled], axis=1), axis=0, return_inverse=True
    )
    cell = np.asarray(cell).ravel()
    member = np.eye(len(keys))[cell]
    runs = member.sum(axis=0)
    level, offsets, shared = np.zeros(len(keys)), [], []
    rest, rank, variances = np.zeros(count), 0, []
    for size in np.unique(sizes):  # draws of different fine-tuning sizes are different draws
        same_size, here = sizes == size, keys[:, 1] == size
        layout = _without_draws(
            n[same_size], log_error[same_size], member[same_size][:, here], None if draws is None else draws[same_size]
        )
        level[here], rest[same_size] = layout.level, layout.rest
        rank += layout.rank
        if len(layout.offsets) > 1:
            label = "" if s is None else f"{size:g}/"
            shared += [label + names[int(code)] for code in layout.names]
            offsets.append(layout.offsets)
            variances.append(float(np.var(layout.offsets, ddof=1) / len(layout.offsets)))
    dof = count - rank
    seeds = keys[:, 2] if labelled is not None else np.zeros(len(keys))
    cluster = np.unique(np.stack([keys[:, 0], seeds], axis=1), axis=0, return_inverse=True)[1]
    return Cells(
        n=keys[:, 0],
        s=keys[:, 1],
        log_error=level,
        runs=runs,
        weight=np.ones(len(keys)) if weight is None else member.T @ weight / runs,
        cluster=np.asarray(cluster).ravel().astype(float),
        draws=tuple(shared),
        offsets=np.concatenate(offsets) if offsets else np.zeros(0),
        draw_variance=float(np.mean(variances)) if variances else 0.0,
        draw_dof=sum(len(values) - 1 for values in offsets),
        residual_variance=float(rest @ rest / dof) if dof > 0 else np.nan,
        residual_dof=dof,
        own_image_variance=None if own_image_variance is None else member.T @ own_image_variance / runs**2,
    )


def _without_draws(n: Array, y: Array, member: Array, draws: NDArray[np.int64] | None) -> _Offsets:
    """Split log errors into cell levels and draw offsets by least squares (a two-way layout)."""
    plain: Array = member.T @ y / member.sum(axis=0)
    if draws is not None:
        codes, of = np.unique(draws, return_inverse=True)
        crossing = sum(len(np.unique(n[draws == code])) > 1 for code in codes)
        if crossing > 1:
            # Sum-to-zero coding, so that a cell's value is its level for the mean draw.
            contrast = np.vstack([np.eye(len(codes) - 1), -np.ones(len(codes) - 1)])
            design = np.hstack([member, contrast[np.asarray(of).ravel()]])
            solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
            cut = member.shape[1]
            labels = tuple(str(code) for code in codes)
            return _Offsets(
                np.asarray(solution[:cut], float), labels, contrast @ solution[cut:], y - design @ solution, int(rank)
            )
    return _Offsets(plain, (), np.zeros(0), y - member @ plain, member.shape[1])


def half_width(variance: float, dof: float, level: float) -> float:
    """Return the half-width of a two-sided t interval; infinite where the variance has no degrees of freedom."""
    return float(stdtrit(dof, (1 + level) / 2)) * np.sqrt(variance) if dof > 0 else np.inf


def level_half_width(draw_variance: float, draw_dof: int, image_variance: float, level: float) -> float:
    """Return the half-width of what draws (a t interval) and test images (a normal one) add to a level."""
    of_draws = half_width(draw_variance, draw_dof, level) if draw_variance > 0 else 0.0
    return float(np.hypot(of_draws, ndtri((1 + level) / 2) * np.sqrt(image_variance)))


def half_width_together(parts: Sequence[tuple[float, float]], level: float) -> float:
    """Return the half-width of the t interval of a sum of independent errors (Welch & Satterthwaite).

    Half-widths added in quadrature would be those of a t distribution with the few degrees of freedom of each part,
    and too wide: two errors of 4 degrees of freedom have about 8 together.

    Args:
        parts: Of each error the half-width of its own t interval, and its degrees of freedom; infinite: it is normal.
        level: Confidence level of the half-widths, and of the result.
    """
    if not all(np.isfinite(width) for width, _ in parts):
        return np.inf
    tail = (1 + level) / 2
    variances = [(width / stdtrit(dof, tail)) ** 2 if width else 0.0 for width, dof in parts]
    total = float(sum(variances))
    if total == 0:
        return 0.0
    inverse = float(sum((variance / total) ** 2 / dof for variance, (_, dof) in zip(variances, parts, strict=True)))
    return float(stdtrit(1 / inverse if inverse > 0 else np.inf, tail) * np.sqrt(total))


def widened(low: float, centre: float, high: float, extra: float) -> tuple[float, float]:
    """Return an interval widened by an independent source of half-width ``extra``.

    The half-widths are added in quadrature, side by side (the method of variance estimates recovery, Zou & Donner,
    Statistics in Medicine 2008): it keeps asymmetry, and unlike a pooled degree of freedom it needs no approximation
    when one source dominates.
    """
    return centre - float(np.hypot(centre - low, extra)), centre + float(np.hypot(high - centre, extra))


def shared_variance(residual: Array, cluster: Array, parameters: int) -> float:
    """Return the variance that points of one pre-training run share, over the variance of each by itself.

    The moment estimate of a one-way layout of residuals about the law. It is 0 where runs of one pre-training scatter
    no less than runs of several (an F test with p over 0.25, the usual rule for pooling), or where they are too few.

    Args:
        residual: Residuals of log error, shape (m,).
        cluster: Pre-training run of each, shape (m,).
        parameters: Parameters of the law that n determines.
    """
    codes, of, counts = np.unique(cluster, return_inverse=True, return_counts=True)
    between, within = len(codes) - parameters, len(residual) - len(codes) - 1
    if between < 1 or within < 1:
        return 0.0
    means = np.bincount(np.asarray(of).ravel(), residual) / counts
    own = float(np.sum((residual - means[np.asarray(of).ravel()]) ** 2) / within)
    among = float(np.sum(counts * means**2) / between)
    if own <= 0 or fdtrc(between, within, among / own) > _POOL_ABOVE:
        return 0.0
    return max((among / own - 1) / float(counts.mean()), 0.0)
