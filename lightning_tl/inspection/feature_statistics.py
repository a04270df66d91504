"""Entropy of features, and distances between the features of renders and of target images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from lightning_tl.errors import UserError

Floats = NDArray[np.float64]
_FOLDS = 5


@dataclass(frozen=True)
class Entropy:
    """The entropy of a Gaussian fitted to features.

    Attributes:
        value: H in nats.
        interval: 95 % bootstrap interval of H.
        images: N.
        dimensions: F.
        estimator: ``unbiased``, or ``ledoit-wolf`` if there are too few images.
        shrinkage: Ledoit and Wolf's weight of the round Gaussian, 0 to 1; 0 if it was not needed.
    """

    value: float
    interval: tuple[float, float]
    images: int
    dimensions: int
    estimator: str
    shrinkage: float


def entropy(
    features: Floats, draws: int = 100, seed: int = 0, advance: Callable[[int, int], None] | None = None
) -> Entropy:
    """Return H = ½ log det(2πe Σ) of a Gaussian fitted to features.

    With N ≥ 2 (F + 1) images the estimate is unbiased for Gaussian features whatever Σ is: of the sample covariance S,
    log det S less Σᵢ ψ((N − i) / 2) − F log((N − 1) / 2), i = 1 … F, the bias under Wishart's distribution. With fewer
    images, or if S is singular, Σ is Ledoit and Wolf's (1 − δ) S + δ m I (2004), m the mean variance and δ from the
    data: always invertible, but H is then too high, by much where variances differ by orders of magnitude. Logarithms
    of eigenvalues are added up, so that nothing over- or underflows.

    The interval has the bootstrap's spread about H: resampled images repeat, which lowers every drawn H alike, so it
    is their deviation from their own mean that is used. It does not contain the bias of the shrinkage.

    Args:
        features: ``[N, F]``.
        draws: Bootstrap resamplings of the images.
        seed: Seed of the resampling.
        advance: Called with (done, draws).

    Raises:
        UserError: Fewer than 8 images, or all images are identical.
    """
    features = _checked(features)
    count, dimensions = features.shape
    # a common scale, taken back below, as the variances of single precision features may be tiny
    scale = float(features.std(0).mean())
    if scale == 0:
        raise UserError(f"all {count} images have the same features: there is nothing to measure")
    scaled = features / scale
    shift = dimensions * float(np.log(scale))
    value = _unbiased(scaled) if count >= 2 * (dimensions + 1) else None
    unbiased, shrinkage = value is not None, 0.0
    if value is None:
        value, shrinkage = _shrunk(scaled)
    generator = np.random.default_rng(seed)
    drawn = []
    for draw in range(draws):
        sample = scaled[generator.integers(0, count, count)]
        again = _unbiased(sample) if unbiased else _shrunk(sample)[0]
        if again is not None:
            drawn.append(again)
        if advance is not None:
            advance(draw + 1, draws)
    if not drawn:
        raise UserError(f"none of the {draws} bootstrap draws of {count} images has a regular covariance: give more")
    low, high = np.quantile(np.array(drawn) - np.mean(drawn), [0.025, 0.975]) + value + shift
    name = "unbiased" if unbiased else "ledoit-wolf"
    return Entropy(value + shift, (float(low), float(high)), count, dimensions, name, shrinkage)


def _entropy(log_determinant: float, dimensions: int) -> float:
    return 0.5 * (dimensions * float(np.log(2 * np.pi * np.e)) + log_determinant)


def _unbiased(features: Floats) -> float | None:
    """Return H from the sample covariance; ``None`` if that is singular."""
    count, dimensions = features.shape
    eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(features, rowvar=False)))
    if eigenvalues[0] <= eigenvalues[-1] * dimensions * np.finfo(float).eps:
        return None
    steps = np.arange(1, dimensions + 1)
    bias = float(digamma((count - steps) / 2).sum() - dimensions * np.log((count - 1) / 2))
    return _entropy(float(np.log(eigenvalues).sum()) - bias, dimensions)


def _shrunk(features: Floats) -> tuple[float, float]:
    """Return H from Ledoit and Wolf's covariance, and the shrinkage."""
    from sklearn.covariance import ledoit_wolf

    covariance, shrinkage = ledoit_wolf(features)
    sign, log_determinant = np.linalg.slogdet(covariance)
    if sign <= 0:
        raise UserError(
            f"the covariance of {len(features)} images' {features.shape[1]} features is singular: give more, and "
            "different, images"
        )
    return _entropy(float(log_determinant), features.shape[1]), float(shrinkage)


def frechet_distance(a: Floats, b: Floats) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to two sets of features.

    |μ − ν|² + tr(A + B − 2 (A^½ B A^½)^½); tr (A^½ B A^½)^½ is the sum of the singular values of X Yᵀ, X and Y being
    the centred features over the root of their number less one. So no root of a nearly singular matrix is taken
    (Dowson and Landau 1982; Heusel et al. 2017).

    Args:
        a: ``[N, F]``.
        b: ``[M, F]``.
    """
    a, b = _checked(a), _checked(b)
    if a.shape[1] != b.shape[1]:
        raise UserError(f"the two sets have {a.shape[1]} and {b.shape[1]} features: take both from one backbone")
    shift = a.mean(0) - b.mean(0)
    x, y = _root(a), _root(b)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(0.0, float(shift @ shift + (x**2).sum() + (y**2).sum() - 2 * cross))


def _root(features: Floats) -> Floats:
    """Return a matrix R with RᵀR the covariance, of no more rows than columns."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    return centred if len(centred) <= centred.shape[1] else np.asarray(np.linalg.qr(centred, mode="r"))


@dataclass(frozen=True)
class ClassifierAccuracy:
    """Accuracy of a classifier of two sets of images.

    Attributes:
        accuracy: Cross-validated accuracy, on equally many images of each set; 0.5 is chance.
        stderr: Standard error of the accuracy, from the folds.
    """

    accuracy: float
    stderr: float


def domain_classifier(
    a: Floats, b: Floats, groups_a: NDArray[Any] | None = None, groups_b: NDArray[Any] | None = None, seed: int = 0
) -> ClassifierAccuracy:
    """Return the accuracy of logistic regression that classifies two sets of features, by five-fold cross-validation.

    Args:
        a: ``[N, F]``.
        b: ``[M, F]``; the larger set is reduced to the size of the smaller one at random.
        groups_a: Group of each image, ``[N]``; a group (views of one scene) is never divided between folds.
        groups_b: The same for ``b``, ``[M]``.
        seed: Seed of the draw and the folds.

    Raises:
        UserError: Fewer than 8 images, or fewer than five groups in a set.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(seed)
    count = min(len(a), len(b))
    parts, groups = [], []
    for side, (features, scenes) in enumerate(((_checked(a), groups_a), (_checked(b), groups_b))):
        chosen = np.sort(generator.choice(len(features), count, replace=False))
        parts.append(features[chosen])
        own = np.arange(len(features)) if scenes is None else np.unique(scenes, return_inverse=True)[1]
        if len(np.unique(own[chosen])) < _FOLDS:
            raise UserError(f"the images are of fewer than {_FOLDS} scenes: give more, to compare two sets")
        groups.append(2 * own[chosen] + side)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # only the score is used, not the weights
        scores = cross_val_score(
            model, np.concatenate(parts), np.repeat([0, 1], count), groups=np.concatenate(groups), cv=folds
        )
    return ClassifierAccuracy(float(scores.mean()), float(scores.std(ddof=1) / _FOLDS**0.5))


@dataclass(frozen=True)
class Gap:
    """Distances between two sets of images.

    Attributes:
        frechet: Squared Fréchet distance between equally many images of each set.
        floor: The same between two halves of each set: the distance that chance gives with half as many images.
        images: Number of images of each set.
        classifier: Accuracy of a classifier of the two sets.
    """

    frechet: float
    floor: tuple[float, float]
    images: int
    classifier: ClassifierAccuracy


def gap(
    a: Floats, b: Floats, groups_a: NDArray[Any] | None = None, groups_b: NDArray[Any] | None = None, seed: int = 0
) -> Gap:
    """Compare two sets of features by the Fréchet distance and a classifier; arguments as ``domain_classifier``."""
    generator = np.random.default_rng(seed)
    count = min(len(a), len(b))
    a_some, b_some = (x[generator.permutation(len(x))[:count]] for x in (_checked(a), _checked(b)))
    half = count // 2
    if half < 8:
        raise UserError(f"{count} images of each set: at least 16 are needed to compare them")
    floor = tuple(frechet_distance(x[:half], x[half:]) for x in (a_some, b_some))
    classifier = domain_classifier(a, b, groups_a, groups_b, seed)
    return Gap(frechet_distance(a_some, b_some), (floor[0], floor[1]), count, classifier)


def _checked(features: Floats) -> Floats:
    features = np.asarray(features, np.float64)
    if len(features) < 8:
        raise UserError(f"{len(features)} images: at least 8 are needed to fit a Gaussian to their features")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
        raise UserError(f"features of image {row} are not finite: the checkpoint's weights are broken")
    return features


def as_json(own: Entropy, apart: Gap | None) -> dict[str, Any]:
    """Return the results as plain values; ``complexity`` is the entropy H in nats: larger is more complex."""
    facts: dict[str, Any] = {"entropy": asdict(own), "complexity": own.value}
    return facts if apart is None else facts | {"gap": asdict(apart)}
