"""Simulated studies whose networks err on test images that are a sample, some images being hard for all of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtri

from lightning_tl.tasks.image_results import bootstrap_weights

SIZES = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000)


class World:
    """Curves over pre-training size, tested on the same images.

    An image's difficulty is normal; a network of error p errs where difficulty and its own luck on that image, mixed
    with correlation ``alike``, are in the highest share p. Its mean error over all images that exist is exactly p.
    """

    def __init__(self, rng, images, alike=0.7, seed_noise=0.02, replicates=200):
        self.rng, self.alike, self.seed_noise = rng, alike, seed_noise
        self.difficulty = rng.standard_normal(images)
        self.weights = bootstrap_weights(images, replicates)
        self.rows, self.replicates = [], {}

    def run(self, group, n, error, test_set="all"):
        true = error * np.exp(self.seed_noise * self.rng.standard_normal())
        luck = self.rng.standard_normal(len(self.difficulty))
        wrong = self.alike**0.5 * self.difficulty + (1 - self.alike) ** 0.5 * luck > -ndtri(true)
        name = f"{group}-{len(self.rows)}"
        self.replicates[name] = self.weights @ wrong / len(wrong)
        row = {"run_id": name, "render": group, "pretrain_images": n, "pretrain_seed": len(self.rows)}
        stderr = self.replicates[name].std(ddof=1)
        self.rows.append(row | {"error": wrong.mean(), "error_stderr": stderr, "test_set": test_set})

    def table(self):
        return pd.DataFrame(self.rows).astype(str)


def law(n, scale, alpha, gap):
    return scale * (np.asarray(n, float) / 1000) ** -alpha + gap
