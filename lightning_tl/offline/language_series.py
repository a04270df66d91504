"""A series of causal language models measured on a text: noise, trace, distances, fine-tuning, at each revision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.measure.distance import Distance
from lightning_tl.measure.noise_scales import noise_scales
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.params import select
from lightning_tl.measure.trace import hessian_trace
from lightning_tl.measured_value import Measured
from lightning_tl.offline.default_loss import output_loss
from lightning_tl.offline.hub import Place, place_of
from lightning_tl.offline.language_models import (
    batches_of,
    dtype_named,
    load_model,
    load_tokenizer,
    release,
    text_windows,
)
from lightning_tl.offline.loss_records import loss_records
from lightning_tl.offline.loss_tables import LossTables, loss_tables
from lightning_tl.offline.measure_options import MeasureOptions, SeriesOptions
from lightning_tl.offline.revisions import Revision, count_of, ordered, revision_of, spread
from lightning_tl.offline.series import Result, check_names, measured_series
from lightning_tl.offline.series_finetuning import finetuned_losses, target_text
from lightning_tl.offline.stored_weights import StoredWeights, streamed_distance


def measure_language_models(
    series: SeriesOptions, options: MeasureOptions, out: Path
) -> tuple[list[Result], dict[str, Any]]:
    """Measure the revisions of a language model, one in memory at a time; what is finished in ``out`` is kept.

    Args:
        series: Which model, revisions and text.
        options: What is measured, and how.
        out: Folder of the results.

    Returns:
        The results in order of the training seen, and the settings.

    Raises:
        UserError: A package, the model, a revision or the text is missing or cannot be used.
    """
    if "direction" in options.quantities:
        raise UserError("--quantities direction: the loss along a line is measured between checkpoints of --ckpt only")
    place = place_of(series.model, out / "downloads" if series.discard_downloads else None)
    revisions = chosen_revisions(place, series)
    work = _LanguageSeries(place, revisions, series, options)
    settings = work.settings()
    sources = [{"model": place.name, "revision": revision.name} for revision in revisions]
    results = measured_series(revisions, sources, work.measure, settings, out)
    for revision in revisions:
        place.release(revision.name)
    return results, settings


def chosen_revisions(place: Place, series: SeriesOptions) -> list[Revision]:
    """Return the revisions to measure, ordered by the training that they have seen.

    Raises:
        UserError: As :func:`~lightning_tl.offline.revisions.ordered`; ``--tokens`` gives another number of values.
    """
    names = list(series.revisions) or place.revisions()
    per_step = None if series.tokens_per_step is None else count_of(series.tokens_per_step)
    revisions = [revision_of(name, per_step) for name in names]
    if series.tokens:
        if len(series.tokens) != len(series.revisions):
            raise UserError(
                f"--tokens has {len(series.tokens)} values for {len(series.revisions)} revisions; name the "
                "--revisions, and give --tokens with one value for each, in their order"
            )
        pairs = zip(revisions, series.tokens, strict=True)
        revisions = [Revision(revision.name, revision.step, count_of(tokens)) for revision, tokens in pairs]
    elif not series.revisions:  # such as main, whose name tells nothing
        revisions = [revision for revision in revisions if revision.budget is not None]
        if not revisions:
            raise UserError(
                f"{place.name}: no name of its {len(names)} revisions tells a step or tokens ({', '.join(names[:6])}); "
                "name them with --revisions, and give --tokens with one value for each"
            )
    check_names(revisions)
    chosen = ordered(revisions)
    return chosen if series.spread is None else spread(chosen, series.spread)


class _LanguageSeries:
    def __init__(
        self, place: Place, revisions: Sequence[Revision], series: SeriesOptions, options: MeasureOptions
    ) -> None:
        self.place, self.revisions, self.series, self.options = place, revisions, series, options
        self.dtype = dtype_named(series.dtype)
        first = place.folder(revisions[0].name, weights=False)
        tokenizer = load_tokenizer([first, first.parent])
        self.windows = text_windows(Path(series.text), tokenizer, series.windows, series.length)
        self.target = None if series.finetune is None else target_text(series, tokenizer)
        self._scales: dict[str, Tensor] | None = None

    def settings(self) -> dict[str, Any]:
        """Return everything that the values depend on but the revision, as plain types."""
        series = self.series
        kept = {name: value for name, value in asdict(self.options).items() if name not in ("rest", "bn")}
        return {
            "model": self.place.name,
            "text": Path(series.text).name,
            "windows": series.windows,
            "length": series.length,
            "batch_size": series.batch_size,
            "tokens_sha256": _sha256(self.windows),
            "dtype": series.dtype,
            "device": "cpu" if series.device == "cpu" else "accelerator",
            **{name: list(value) if isinstance(value, tuple | list) else value for name, value in kept.items()},
            **self._finetuning_settings(),
        }

    def _finetuning_settings(self) -> dict[str, Any]:
        series = self.series
        if self.target is None:
            return {}
        return {
            "finetune": Path(str(series.finetune)).name,
            "finetune_lr": list(series.finetune_lr),
            "finetune_windows": series.finetune_windows,
            "finetune_epochs": series.finetune_epochs,
            "finetune_draws": series.finetune_draws,
            "finetune_sha256": _sha256(torch.cat([self.target.held_out, *self.target.train])),
        }

    def measure(self, index: int) -> tuple[list[Measured], LossTables | None]:
        """Measure one revision."""
        revision = self.revisions[index]
        step = revision.step if revision.step is not None else int(revision.budget or 0)
        model = load_model(self.place.folder(revision.name), self.dtype, self.series.device)
        try:
            return self._measure(model, step, index)
        finally:
            release(model)
            if index > 1:  # the first one is needed for distances from it
                self.place.release(self.revisions[index - 1].name)

    def _measure(self, model: nn.Module, step: int, index: int) -> tuple[list[Measured], LossTables | None]:
        options, quantities = self.options, set(self.options.quantities)
        params = select(model, options.include, options.exclude)
        records = self._distances(params, step, index) if "distance" in quantities else []
        if quantities <= {"distance"} and self.target is None:
            return records, None
        device = next(iter(params.values())).device
        batches = batches_of(self.windows.to(device), self.series.batch_size)
        objective = Objective(model, output_loss, batches, params, seed=options.seed)
        scales = self._noise(model, params) if "sensitivity" in quantities else None
        tables = loss_tables(objective, scales, options)
        if self.target is not None:
            losses = finetuned_losses(model, self.target, batches, self.series, options.seed)
            tables = replace(tables, target=losses.before, finetuned=losses.target, forgotten=losses.pretrain)
        records += loss_records(tables, step)
        if "trace" in quantities:
            records += self._traces(objective, scales, step)
        return records, tables

    def _noise(self, model: nn.Module, params: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        if self._scales is None or self.options.noise != "init":  # that of the initialisation is the same for all
            scales = noise_scales(model, params, self.options.noise, seed=self.options.seed)
            self._scales = {name: scale.clone() for name, scale in scales.items()}
        return self._scales

    def _distances(self, params: dict[str, nn.Parameter], step: int, index: int) -> list[Measured]:
        records = []
        pairs = [("total", "relative", self.revisions[0])] if index else []
        pairs += [("previous", "previous_relative", self.revisions[index - 1])] if index else []
        for total, relative, other in pairs:
            moved = self._distance(params, self.place.folder(other.name))
            for group, value in ((total, moved.total), (relative, moved.relative)):
                records.append(Measured(step=step, quantity="param_distance", group=group, value=value))
        return records

    def _distance(self, params: dict[str, nn.Parameter], folder: Path) -> Distance:
        moved = streamed_distance(params, StoredWeights(folder))
        if not moved.missing:
            return moved
        # stored under other names than the model has, as the experts of some mixtures: transformers knows which
        other = load_model(folder, self.dtype, "cpu")
        try:
            return streamed_distance(params, dict(other.named_parameters()))
        finally:
            release(other)

    def _traces(self, objective: Objective, scales: dict[str, Tensor] | None, step: int) -> list[Measured]:
        options = self.options
        trace = hessian_trace(objective, options.products, scales=scales, seed=options.seed)
        pairs = [("trace", trace)] + ([("weighted_trace", trace.weighted)] if trace.weighted is not None else [])
        return [
            Measured(step=step, quantity="hessian", group=group, value=item.value, stderr=item.stderr)
            for group, item in pairs
        ]


def _sha256(windows: Tensor) -> str:
    return hashlib.sha256(windows.numpy().astype(np.int64).tobytes()).hexdigest()[:16]
