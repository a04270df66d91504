"""Samples needed in sentences and as a table."""

from __future__ import annotations

import numpy as np

from lightning_tl.html_page import without_empty_columns
from lightning_tl.laws.samples_needed import Samples
from lightning_tl.laws.wording import images
from lightning_tl.study.transfer_methods.labels import WITHOUT
from lightning_tl.study.transfer_methods.samples import Fall, SampleNeeds, SampleRow

_BY = {"parameters": "the backbone's parameters", "n": "n"}


def sample_answers(needs: SampleNeeds) -> list[str]:
    """Return, for each error, which method needs the fewest fine-tuning images, at the largest model and n."""
    texts = []
    for target in dict.fromkeys(row.samples.target for row in needs.rows):
        rows = [row for row in needs.rows if row.samples.target == target and row.method != WITHOUT]
        if not rows:
            continue
        setting = max(rows, key=lambda row: (np.nan_to_num(row.parameters), row.n))
        here = [row for row in rows if (row.setting, row.n) == (setting.setting, setting.n)]
        reaching = sorted((row for row in here if row.samples.state == "reached"), key=lambda row: row.samples.estimate)
        where = ", ".join(filter(None, [setting.setting, f"n = {setting.n:,.0f}"]))
        if not reaching:
            texts.append(f"An error of {target:g} ({where}): no method reaches it within the sizes measured.")
            continue
        best = reaching[0]
        text = f"An error of {target:g} ({where}) takes the fewest fine-tuning images with {best.method}: "
        text += _count(best.samples)
        full = next((row for row in here if row.method == "full"), None)
        if full is not None and full is not best:
            text += f"; with full fine-tuning {_count(full.samples)}"
        without = [row for row in needs.rows if row.samples.target == target and row.method == WITHOUT]
        same = [row for row in without if row.setting == setting.setting]
        if same:
            text += f"; without pre-training {_count(same[0].samples)}"
        texts.append(f"{text}.")
    return texts


def fall_table(needs: SampleNeeds) -> tuple[list[str], list[list[str]]]:
    """Return how the samples needed fall with the size of the model and with n: heads and rows of a table."""
    heads = ["error", "method", "at", "by", "measured", "fine-tuning images fall as this to the power of minus"]
    rows = []
    for fall in needs.falls:
        count = f"{fall.exponent.curves} {'models' if fall.exponent.by == 'parameters' else 'sizes n'}"
        rows.append([f"{fall.target:g}", fall.method, fall.fixed, _BY[fall.exponent.by], count, _exponent(fall)])
    return heads, rows


def _exponent(fall: Fall) -> str:
    item = fall.exponent
    low, high = item.interval
    if np.isfinite(low) and np.isfinite(high):
        return f"{_signed(item.value)} ({_signed(low)} to {_signed(high)})"
    bounded = f" ({item.bounded} of {item.curves} only bounded)"
    if np.isfinite(low):
        return f"at least {_signed(low)}{bounded}"
    if np.isfinite(high):
        return f"at most {_signed(high)}{bounded}"
    return f"not known{bounded}" if item.bounded else f"{_signed(item.value)} (no interval)"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _count(item: Samples) -> str:
    low, high = item.interval
    most = item.curve.law.cells.n.max()
    if item.state == "not reached":
        start = f"it is not reached with up to {most:,.0f}"
        return f"{start} (if at all, with more than {images(low)})" if np.isfinite(low) and low > most else start
    least = item.curve.law.cells.n.min()
    if item.state == "already reached":
        return f"fewer than the smallest size, {least:,.0f}"
    upper = f"to {images(high)}" if np.isfinite(high) else "upwards"
    beyond = ", beyond the sizes measured" if not least <= item.estimate <= most else ""
    return f"{images(item.estimate)} ({images(low)} {upper}{beyond})"


def sample_table(needs: SampleNeeds) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of the table for readers; empty columns are left out."""
    heads = ["error", "setting", "backbone parameters", "n", "method", "fine-tuning images needed"]

    def cells(row: SampleRow) -> list[str]:
        parameters = f"{row.parameters:,.0f}" if np.isfinite(row.parameters) else ""
        return [f"{row.samples.target:g}", row.setting, parameters, f"{row.n:,.0f}", row.method, _count(row.samples)]

    rows = [cells(row) for row in needs.rows]
    return without_empty_columns(heads, rows)
