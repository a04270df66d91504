"""From a study's tables to values by setting, method, pre-training and draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lightning_tl.errors import UserError
from lightning_tl.study.transfer_methods.image_variance import (
    Cells,
    replicates_of,
    variance_of_error,
    variance_of_ratio,
)
from lightning_tl.study.transfer_methods.labels import FULL, interpolation_label, order
from lightning_tl.study.transfer_methods.paired_statistics import Array, Estimate, estimate, without_gaps

#: Quantities, and the columns that they are made of.
QUANTITIES = {
    "error": "error",
    "val_error": "val_error",
    "forgetting": "forgetting",
    "distance": "param_distance",
    "seconds": "seconds",
}
_NEEDED = ("run_id", "transfer", "pretrain_images", "finetune_images", "draw_seed", "error")
_AXES = (
    "render",
    "pretrain_task",
    "backbone",
    "pretrain_steps",
    "finetune_task",
    "finetune_data",
    "finetune_fraction",
    "lr",
)
_ALPHAS = r"wiseft\(alphas=\[[^]]*\]\)"  # which interpolations were evaluated changes no network
#: Axes that say how a method is set; they go with ``transfer``.
_OF_METHOD = ("finetune.model.transfer", "finetune.model.init_args.transfer")


@dataclass(frozen=True)
class Setting:
    """Runs that differ only in method, pre-training seed and draw.

    Attributes:
        keys: What tells it from settings of the same n and s, such as the backbone; column → value.
        n: Pre-training images.
        s: Fine-tuning images.
        runs: Fine-tunings from a pre-training, with ``transfer`` (or a point of an interpolation, ``point``).
        scratch: Fine-tunings of the same s without pre-training.
        replicates: Run → error on bootstrap samples of the test images, where known.
    """

    keys: Mapping[str, str]
    n: float
    s: float
    runs: pd.DataFrame = field(repr=False)
    scratch: pd.DataFrame = field(repr=False)
    replicates: Mapping[str, Array] = field(default_factory=dict, repr=False)
    _tables: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)
    _cells: dict[str, Cells] = field(default_factory=dict, repr=False, compare=False)

    @property
    def methods(self) -> list[str]:
        """Labels of the methods and interpolations, ``full`` first."""
        return sorted(self.runs["point"].unique(), key=order)

    def values(self, point: str, quantity: str, less: str | None = None) -> Array:
        """Return a quantity ``[pre-trainings, draws]`` without gaps; empty where there is none.

        Args:
            point: Label of the method.
            quantity: A key of :data:`QUANTITIES`.
            less: Label of another method, of which the quantity is subtracted, run by run.
        """
        if QUANTITIES[quantity] not in self.runs:
            return np.zeros((0, 0))
        table = self._table(point, quantity)
        if less is not None:
            table = table.sub(self._table(less, quantity))
        return without_gaps(table.to_numpy(float))

    def estimate(self, point: str, quantity: str, less: str | None = None) -> Estimate:
        """Return the mean of :meth:`values`; that of the test error is also uncertain by the choice of the images."""
        found = estimate(self.values(point, quantity, less))
        if quantity != "error" or not self.replicates:
            return found
        return found.with_variance(variance_of_error(self._images(point), self._images(less) if less else None))

    def above_scratch(self, point: str) -> Estimate:
        """Return log(error / error without pre-training), paired by draw; the mean over pre-trainings and draws."""
        if self.scratch.empty:
            return estimate(np.zeros((0, 0)))
        table = self._table(point, "error")
        without = self.scratch.groupby("draw_seed")["error"].mean().reindex(table.columns)
        with np.errstate(divide="ignore"):
            ratio = np.log(table.to_numpy(float)) - np.log(without.to_numpy(float))
        found = estimate(without_gaps(np.where(np.isfinite(ratio), ratio, np.nan)))
        return found.with_variance(variance_of_ratio(self._images(point), replicates_of(self.scratch, self.replicates)))

    def _images(self, point: str) -> Cells:
        if point not in self._cells:
            rows = self.runs[self.runs["point"] == point]
            # of interpolations no replicates are recorded
            own = (rows["point"] == rows["transfer"]).all()
            self._cells[point] = replicates_of(rows, self.replicates) if own else {}
        return self._cells[point]

    def _table(self, point: str, quantity: str) -> pd.DataFrame:
        if (point, quantity) not in self._tables:
            rows = self.runs[self.runs["point"] == point]
            cells = rows.groupby(["pretrain_run", "draw_seed"])[QUANTITIES[quantity]].mean()
            self._tables[point, quantity] = cells.unstack("draw_seed")
        return self._tables[point, quantity]

    def trainable(self, point: str) -> float:
        """Return how many parameters the method trains; NaN where it is not recorded."""
        rows = self.runs[self.runs["point"] == point]
        return float(rows["trainable_params"].max()) if "trainable_params" in rows else float("nan")


def settings(
    results: pd.DataFrame,
    interpolations: pd.DataFrame | None = None,
    replicates: Mapping[str, Array] | None = None,
) -> list[Setting]:
    """Return the settings in which methods are compared.

    Args:
        results: As in ``results.csv``.
        interpolations: As in ``interpolations.csv``; its points become methods such as ``full, α = 0.5``.
        replicates: Run → error on bootstrap samples of the test images, as in ``error_replicates.csv``.

    Raises:
        UserError: A column is missing, or no fine-tuning starts from a pre-training.
    """
    table = checked(results)
    tuned = table[table["pretrain_images"] > 0]
    if tuned.empty:
        raise UserError("results.csv has no finished fine-tuning from a pre-training: no methods to compare")
    keys = setting_keys(tuned)
    table = table.assign(point=table["transfer"])
    tuned = table[table["pretrain_images"] > 0]
    scratch = table[table["pretrain_images"] == 0]
    full = scratch[scratch["transfer"] == FULL]
    scratch = scratch if full.empty else full
    if interpolations is not None and not interpolations.empty:
        tuned = pd.concat([tuned, _interpolated(tuned, interpolations)], ignore_index=True)
    groups = tuned.groupby([*keys, "pretrain_images", "finetune_images"], dropna=False, sort=True)
    same = [key for key in keys if scratch[key].notna().any()] if not scratch.empty else []
    found = []
    for values, rows in groups:
        *own, n, s = values if isinstance(values, tuple) else (values,)
        named = {key: _text(value) for key, value in zip(keys, own, strict=True)}
        without = scratch[scratch["finetune_images"] == s]
        for key in same:
            without = without[without[key].map(_text) == named[key]]
        without = without.drop_duplicates("run_id")
        found.append(Setting(named, float(str(n)), float(str(s)), rows, without, replicates or {}))
    return found


def checked(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with numbers in the columns that are needed.

    Raises:
        UserError: A column is missing.
    """
    for name in _NEEDED:
        if name not in results.columns:
            raise UserError(f"results.csv has no {name}, which the comparison of methods needs; run the study again")
    table = results.copy()
    if "pretrain_run" not in table:
        table["pretrain_run"] = table.get("pretrain_seed", "")
    numbers = ("pretrain_images", "finetune_images", "error", "val_error", "param_distance", "seconds", "lr")
    for name in (*numbers, "pretrain_loss_before", "pretrain_loss_after", "trainable_params"):
        if name in table:
            table[name] = pd.to_numeric(table[name], errors="coerce")
    if "pretrain_loss_after" in table and "pretrain_loss_before" in table:
        table["forgetting"] = table["pretrain_loss_after"] - table["pretrain_loss_before"]
    table["pretrain_run"] = table["pretrain_run"].fillna("").astype(str)
    table["transfer"] = table["transfer"].fillna(FULL).astype(str).str.replace(_ALPHAS, "wiseft", regex=True)
    return table.dropna(subset=["pretrain_images", "finetune_images", "draw_seed", "error"])


def setting_keys(tuned: pd.DataFrame) -> list[str]:
    """Return the columns in which settings differ beside n and s: those that vary where method and draw do not."""
    base = ["transfer", "pretrain_images", "finetune_images", "draw_seed"]
    axes = [name for name in tuned.columns if name in _AXES or name.startswith(("pretrain.", "finetune.", "render."))]
    kept: list[str] = []
    for name in axes:
        last = name.rpartition(".")[2]
        if name.startswith(_OF_METHOD) or "seed" in last or last == "draw":
            continue
        # what is chosen for each backbone, such as a learning rate, is no setting of its own
        varies = tuned.groupby([*base, *kept], dropna=False)[name].nunique(dropna=False).max() > 1
        if varies and not any(_one_to_one(tuned, name, other) for other in kept):
            kept.append(name)
    return kept


def _one_to_one(table: pd.DataFrame, first: str, second: str) -> bool:
    pairs = table[[first, second]].astype(str).drop_duplicates()
    return len(pairs) == pairs[first].nunique() == pairs[second].nunique()


def _interpolated(tuned: pd.DataFrame, interpolations: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each interpolation between a pre-trained and a fine-tuned network; the ends are left out.

    Raises:
        UserError: A column is missing.
    """
    for name in ("run_id", "alpha", "error"):
        if name not in interpolations:
            raise UserError(f"interpolations.csv has no {name}; run the study again")
    inner = interpolations[pd.to_numeric(interpolations["alpha"], errors="coerce") < 1].dropna(subset=["alpha"])
    replaced = ["error", "val_error", "forgetting", "param_distance", "seconds"]
    rows = inner.merge(tuned.drop(columns=[name for name in replaced if name in tuned]), on="run_id")
    if "pretrain_loss" in rows and "pretrain_loss_before" in rows:
        rows["forgetting"] = pd.to_numeric(rows["pretrain_loss"], errors="coerce") - rows["pretrain_loss_before"]
    rows["point"] = [
        interpolation_label(label, alpha) for label, alpha in zip(rows["transfer"], rows["alpha"], strict=True)
    ]
    return rows


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:g}"
    return str(value)


def name_of(keys: Mapping[str, str]) -> str:
    """Return what to call settings of these keys."""
    parts = [
        value if key in _AXES and key != "lr" else f"{key.rpartition('.')[2]} {value}" for key, value in keys.items()
    ]
    return ", ".join(filter(None, parts))
