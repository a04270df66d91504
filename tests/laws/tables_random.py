"""Random tables of every kind a fit may meet, with what is held: cases for the search to be checked on."""

from __future__ import annotations

import numpy as np

from .multistart import Array, Case

#: Every form, with what may be held in it, and whether a prior is hard (held) or soft.
KINDS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("transfer", "log", (), ()),
    ("transfer", "log", ("log_d",), ()),
    ("transfer", "log", ("log_d",), ()),
    ("transfer", "log", (), ("log_d",)),
    ("transfer", "linear", (), ()),
    ("transfer", "linear", ("log_d",), ()),
    ("power", "log", (), ()),
    ("power", "log", ("log_d",), ()),
    ("power", "log", ("alpha",), ()),
    ("power", "log", ("log_d", "alpha"), ()),
    ("power", "linear", (), ()),
    ("power", "linear", ("log_d",), ()),
    ("full", "log", (), ()),
    ("full", "log", ("log_d",), ()),
    ("full", "log", ("beta",), ()),
    ("full", "log", ("log_d", "beta"), ()),
    ("full", "log", (), ("log_d",)),
    ("full", "log", (), ("log_d", "beta")),
    ("full", "linear", (), ()),
    ("full", "linear", ("log_d",), ()),
    ("full+E", "log", (), ()),
    ("full+E", "log", ("log_d",), ()),
    ("full+E", "log", (), ("log_d",)),
    ("full+E", "linear", (), ()),
    ("full+E", "linear", ("log_d",), ()),
)


def sizes(rng: np.random.Generator, count: int) -> Array:
    """Sizes in one of several spacings."""
    first = float(rng.choice([1.0, 64.0, 1000.0, 1000.0, 30_000.0, 1e6]))
    kind = rng.integers(4)
    if kind == 0:
        return first * 2.0 ** np.arange(count)
    if kind == 1:
        return first * np.arange(1.0, count + 1)
    if kind == 2:
        return np.sort(first * np.exp(rng.uniform(0, np.log(10 ** rng.uniform(0.7, 3.0)), count)))
    steps = np.cumsum(rng.choice([0.25, 1.0, 1.0, 2.0], count))  # uneven, as sizes added one by one are
    return first * 2.0 ** (steps - steps[0])


def case(kind: int, seed: int) -> Case:
    """Return a random table of one of :data:`KINDS`."""
    form, space, held, soft = KINDS[kind]
    rng = np.random.default_rng([kind, seed])
    full = form.startswith("full")
    if full:
        n, s = (grid.ravel() for grid in np.meshgrid(
            sizes(rng, int(rng.integers(4, 8))), sizes(rng, int(rng.integers(2, 5))), indexing="ij"))  # fmt: skip
    else:
        n = sizes(rng, int(rng.integers(4, 13)))
        if rng.uniform() < 0.3:  # several runs at some sizes
            n = np.concatenate([n, rng.choice(n, int(rng.integers(1, len(n) + 1)))])
        s = np.ones_like(n)
    level, alpha = (
        float(np.exp(rng.uniform(np.log(0.02), np.log(0.9)))),
        float(np.exp(rng.uniform(np.log(0.02), np.log(2)))),
    )
    share = float(rng.choice([0.0, rng.uniform(), 1 - 10 ** rng.uniform(-3, 0), 1.0], p=[0.1, 0.5, 0.35, 0.05]))
    beta, floor = (float(rng.uniform(0.05, 0.8)), 0.0) if full else (0.0, 0.0)
    if form == "full+E":
        floor = float(rng.choice([0.0, rng.uniform(), 0.02]))
    shape = share + (1 - share) * (n / n.min()) ** -alpha
    mean = level * ((1 - floor) * shape * (s / s.min()) ** -beta + floor)
    if rng.uniform() < 0.06:  # the error rises, and no law here follows
        mean = mean[::-1]
    noise = float(10 ** rng.uniform(-4, -0.7)) if rng.uniform() < 0.97 else 0.0
    scatter = rng.standard_t(2, len(n)) if rng.uniform() < 0.15 else rng.standard_normal(len(n))
    error = np.clip(mean * np.exp(np.clip(noise * scatter, -2, 2)), 1e-6, 1.0)
    if rng.uniform() < 0.1:  # scores with few digits
        error = np.clip(np.round(error, 2), 0.01, 1.0)
    weight = np.exp(rng.uniform(-2, 2, len(n))) if rng.uniform() < 0.2 else None
    truth = {
        "log_d": np.log(level * max((1 - share) * (1 - floor), 1e-3))
        + alpha * np.log(n.min())
        + beta * np.log(s.min()),
        "alpha": alpha,
        "beta": beta,
    }
    width = {"log_d": float(rng.choice([0.0, 0.3, 1.0, 3.0])), "alpha": 0.2, "beta": 0.1}
    value = {name: truth[name] + width[name] * float(rng.standard_normal()) for name in truth}
    covariance = None
    if full and space == "log" and rng.uniform() < 0.3:  # runs of one pre-training share its luck
        covariance = np.eye(len(n)) + float(rng.uniform(0.5, 20)) * (n[:, None] == n[None])
        weight = None
    return Case(
        form=form,
        n=n,
        s=s,
        error=error,
        space=space,
        weight=weight,
        held={name: value[name] for name in held},
        priors={name: (value[name], float(10 ** rng.uniform(-4, 3))) for name in soft},
        covariance=covariance,
    )
