"""A table of the shape that Mikami et al. published, made by simulation: extrapolation and the full law."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from lightning_tl.cli.law import main

SIZES = np.array([*1000 * 2 ** np.arange(11), 1_280_000])
MODELS = {"r50": (0.42, 0.30), "r101": (0.45, 0.27), "r152": (0.47, 0.25)}
COLUMNS = [
    "n_eval",
    "value",
    "pretrain.data",
    "pscale",
    "ptask",
    "fdata",
    "fratio",
    "ftask",
    "model",
    "nparam",
    "pdata",
]
POOL = ("64k", "1280k")  # the collection that pre-training images were drawn from
FULL = {"alpha": 0.544, "beta": 0.322, "gamma": 0.478, "delta": 1.9}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows of several tasks, models, fractions and renderings, with the published columns; ``value`` is a score."""
    rng = np.random.default_rng(0)
    rows = []
    for model, (alpha, gap) in MODELS.items():
        for pdata in ("bop", "bop-lv3"):
            for n in SIZES:
                error = (0.48 * n**-alpha + gap + 0.05 * (pdata == "bop-lv3")) * np.exp(0.002 * rng.standard_normal())
                rows.append(
                    (10_000, 1 - error, n, POOL[int(n > 64_000)], "objdet", "coco", 1, "objdet", model, 23.9, pdata)
                )
    images = 118_287
    for percent in (1, 2, 4, 10, 16, 32, 64):
        for n in SIZES[::2]:
            error = FULL["delta"] * (FULL["gamma"] + n ** -FULL["alpha"]) * (percent * images / 1e5) ** -FULL["beta"]
            error *= np.exp(0.01 * rng.standard_normal())
            score = 1 - min(error, 1.0)
            rows.append(
                (
                    10_000,
                    score,
                    n,
                    POOL[int(n > 64_000)],
                    "mulclass",
                    "imagenet",
                    percent,
                    "sinclass",
                    "r50",
                    23.9,
                    "bop",
                )
            )
    frame = pd.DataFrame(rows, columns=COLUMNS)
    path = tmp_path_factory.mktemp("published") / "results.csv"
    frame.sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def law(table, out, *options: str) -> dict:
    assert main([str(table), "--out", str(out), "--plots", "none", "--size", "pretrain.data", "--score", "value",
                 "--score-is", "accuracy", *options]) == 0  # fmt: skip
    return json.loads((out / "fits.json").read_text())


@pytest.mark.parametrize("fix_d", ["free", "shared", "0.48"])
def test_extrapolation_beats_the_power_law(table, tmp_path, fix_d: str) -> None:
    where = "ptask == 'objdet' and pdata == 'bop'"
    record = law(table, tmp_path, "--where", where, "--by", "model", "--hold-out-from", "64000", "--fix-d", fix_d)
    assert sorted(group["label"] for group in record["groups"]) == sorted(MODELS)
    held = {group["label"]: group["hold_out"] for group in record["groups"]}
    for out in held.values():
        assert out["n"] == sorted(SIZES[SIZES >= 64_000])
        assert out["rmse"] < out["power_rmse"]
        assert out["rmse"] == pytest.approx(
            np.sqrt(np.mean((np.array(out["predicted"]) - np.array(out["observed"])) ** 2)), rel=1e-9
        )
        if fix_d == "free":
            assert out["inside"]
    assert np.mean([out["rmse"] for out in held.values()]) < 0.0019


def test_renderings_are_told_apart_by_a_column_and_by_dotted_names(table, tmp_path) -> None:
    record = law(
        table,
        tmp_path,
        "--where",
        "ptask == 'objdet' and not (`pretrain.data` == 1000 and pdata == 'bop')",
        "--by",
        "model,pdata",
    )
    assert len(record["groups"]) == 6
    rows = {group["label"]: len(group["runs"]) for group in record["groups"]}
    assert rows["r50 / bop"] == len(SIZES) - 1
    assert rows["r50 / bop-lv3"] == len(SIZES)


def test_the_full_law(table, tmp_path) -> None:
    record = law(table, tmp_path, "--where", "ftask == 'sinclass'", "--by", "model", "--target-size", "fratio")
    fitted = record["groups"][0]["law"]
    assert fitted["form"]["name"] == "full"
    params = fitted["params"]
    assert params["beta"]["value"] == pytest.approx(FULL["beta"], abs=0.02)
    low, high = params["alpha"]["interval"]
    assert low < FULL["alpha"] < (np.inf if high is None else high)
    frame = pd.read_csv(tmp_path / "fits.csv")
    assert {"delta", "gamma", "alpha", "beta", "beta_stderr", "gamma_low", "log_rmse"} <= set(frame)


def test_appendix_d_is_not_told_apart(tmp_path) -> None:
    """D = 0.5, alpha = 0.4 and D = 1, alpha = 0.5 at C = 0.5, log-noise 0.5 %: each inside the other's interval."""
    sizes, rng = 1000 * 2.0 ** np.arange(7), np.random.default_rng(1)
    pairs = {"first": (0.5, 0.4), "second": (1.0, 0.5)}
    rows = [
        {"curve": name, "pretrain.data": n, "value": 1 - (d * n**-alpha + 0.5) * np.exp(0.005 * rng.standard_normal())}
        for name, (d, alpha) in pairs.items()
        for n in sizes
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "results.csv", index=False)
    record = law(tmp_path / "results.csv", tmp_path, "--by", "curve")
    for group in record["groups"]:
        for i, name in enumerate(("D", "alpha")):
            low, high = group["law"]["params"][name]["interval"]
            for pair in pairs.values():
                assert low <= pair[i] <= (np.inf if high is None else high)
    difference = record["comparisons"][0]["alpha"]["interval"]
    assert difference[0] is None or difference[0] < 0
    assert difference[1] is None or difference[1] > 0
