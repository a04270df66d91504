"""Each revision of a series fine-tuned on another text: its losses afterwards there and on the pre-training text.

After Springer et al. 2025 (arXiv 2503.19206, App. B and E): AdamW without weight decay, a grid of learning rates, a
warm-up over the first tenth of the steps and a cosine to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_tl.offline.default_loss import output_loss
from lightning_tl.offline.language_models import batches_of, text_windows
from lightning_tl.offline.measure_options import SeriesOptions

_WARMUP = 0.1
_CLIP = 1.0


@dataclass(frozen=True)
class TargetText:
    """Windows of the text for fine-tuning.

    Attributes:
        held_out: ``[windows, length]``, never trained on.
        train: By draw, ``[finetune_windows, length]``.
    """

    held_out: Tensor
    train: tuple[Tensor, ...]


def target_text(series: SeriesOptions, tokenizer: Any) -> TargetText:
    """Return windows of ``series.finetune``; those of different draws, and the held-out ones, do not overlap.

    Args:
        series: The options.
        tokenizer: Of the model.

    Raises:
        UserError: The file cannot be read, or is too short.
    """
    draws, each = series.finetune_draws, series.finetune_windows
    count = series.windows + draws * each
    windows = text_windows(Path(str(series.finetune)), tokenizer, count, series.length, "--finetune")
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[[i * count // series.windows for i in range(series.windows)]] = True
    rest = windows[~held_out]
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(rest)))
    return TargetText(windows[held_out], tuple(rest[part] for part in order.split(each)))


@dataclass(frozen=True)
class FinetunedLosses:
    """Losses by batch.

    Attributes:
        before: On held-out windows of the text for fine-tuning, before it.
        target: On these, by learning rate and draw.
        pretrain: On the pre-training text, by learning rate and draw.
    """

    before: list[float]
    target: dict[float, list[list[float]]]
    pretrain: dict[float, list[list[float]]]


def finetuned_losses(
    model: nn.Module, text: TargetText, pretrain: Sequence[dict[str, Any]], series: SeriesOptions, seed: int
) -> FinetunedLosses:
    """Fine-tune a model at each learning rate on each draw, always from its own weights, which it has again at the end.

    Args:
        model: In eval mode; returns its loss.
        text: To fine-tune on.
        pretrain: Batches of the pre-training text.
        series: Learning rates, epochs, size of the batches.
        seed: Of the order of the windows, and of dropout where the model has any.
    """
    start = {name: value.detach().clone() for name, value in model.state_dict().items()}
    device = next(model.parameters()).device
    held_out = batches_of(text.held_out.to(device), series.batch_size)
    before = _losses(model, held_out)
    target: dict[float, list[list[float]]] = {}
    forgotten: dict[float, list[list[float]]] = {}
    for rate in series.finetune_lr:
        for draw, windows in enumerate(text.train):
            _finetune(model, windows.to(device), rate, series, [seed, draw])
            target.setdefault(rate, []).append(_losses(model, held_out))
            forgotten.setdefault(rate, []).append(_losses(model, pretrain))
            model.load_state_dict(start)
    return FinetunedLosses(before, target, forgotten)


def _finetune(model: nn.Module, windows: Tensor, rate: float, series: SeriesOptions, seed: list[int]) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    rng = np.random.default_rng(seed)
    per_epoch = len(windows) // series.batch_size
    steps = per_epoch * series.finetune_epochs
    warmup = round(_WARMUP * steps)
    devices = [windows.device] if windows.device.type == "cuda" else []
    model.train()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(rng.integers(2**31)))  # dropout
        for step in range(steps):
            if step % per_epoch == 0:
                batches = batches_of(windows[torch.from_numpy(rng.permutation(len(windows)))], series.batch_size)
            for group in optimizer.param_groups:
                group["lr"] = rate * _share(step, warmup, steps)
            optimizer.zero_grad()
            output_loss(model, batches[step % per_epoch]).backward()
            nn.utils.clip_grad_norm_(parameters, _CLIP)
            optimizer.step()
    optimizer.zero_grad()
    model.eval()


def _share(step: int, warmup: int, steps: int) -> float:
    """Return the factor on the peak rate: a linear warm-up, then a cosine that would be 0 after the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + cos(pi * (step - warmup) / (steps - warmup)))


@torch.no_grad()
def _losses(model: nn.Module, batches: Sequence[dict[str, Any]]) -> list[float]:
    return [float(output_loss(model, batch)) for batch in batches]
