"""Tables of results made by simulation, in the shape of our own results.csv."""

from __future__ import annotations

import numpy as np
import pandas as pd

SIZES = (64, 128, 256, 512, 1024, 2048)


def results(
    curves: dict[str, dict[int, float]],
    scratch: float,
    *,
    seed: int,
    draws: int = 3,
    draw_noise: float = 0.04,
    pretrain_noise: float = 0.015,
    run_noise: float = 0.015,
) -> pd.DataFrame:
    """Rows a fine-tuning run: one pre-training a size, the same draws everywhere, scratch once for each render.

    Args:
        curves: Mean error by render and pre-training size.
        scratch: Mean error without pre-training.
        seed: Of the noise.
        draws: Draws of few shots.
        draw_noise: Standard deviation of log error from draw to draw.
        pretrain_noise: From pre-training to pre-training.
        run_noise: From run to run.
    """
    rng = np.random.default_rng(seed)
    luck = draw_noise * rng.standard_normal(draws)
    scratch_errors = scratch * np.exp(luck + run_noise * rng.standard_normal(draws))
    rows = []
    for render, curve in curves.items():
        for size, mean in {0: scratch, **curve}.items():
            shared = pretrain_noise * rng.standard_normal()
            for draw in range(draws):
                error = mean * np.exp(shared + luck[draw] + run_noise * rng.standard_normal())
                error = scratch_errors[draw] if size == 0 else error
                rows.append(
                    {
                        "run_id": f"scratch-{draw}" if size == 0 else f"{render}-{size}-{draw}",
                        "render": render,
                        "pretrain_task": "mulclass" if size else "",
                        "pretrain_images": size,
                        "backbone": "resnet10",
                        "pretrain_seed": 0 if size else "",
                        "finetune_task": "classification",
                        "finetune_data": "mnist",
                        "finetune_images": 100,
                        "transfer": "full",
                        "draw_seed": draw,
                        "metric": "accuracy",
                        "score": 1 - error,
                        "error": error,
                    }
                )
    return pd.DataFrame(rows)


def falling(alpha: float, gap: float, first: float = 0.1) -> dict[int, float]:
    """A transfer law through ``first`` at 64 images, of which the share ``gap`` is C."""
    return {size: first * (gap + (1 - gap) * (size / 64) ** -alpha) for size in SIZES}


def flat(error: float) -> dict[int, float]:
    """The same error at every size."""
    return dict.fromkeys(SIZES, error)
