"""Fit the scaling law to a table of runs, and say what more pre-training images would bring.

python examples/law_from_a_table.py                  # a simulated table, whose truth is known
python examples/law_from_a_table.py results.csv      # your own: columns pretrain_images, error, draw_seed
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from lightning_tl.laws import TransferLaw, fit

TRUTH = {"D": 1.2, "alpha": 0.4, "C": 0.05}


def simulated_table() -> pd.DataFrame:
    """Return seven sizes with three draws of fine-tuning images; a draw is lucky or not at every size alike."""
    rng = np.random.default_rng(0)
    luck = 0.02 * rng.standard_normal(3)
    rows = []
    for size in 500 * 2 ** np.arange(7):
        for draw in range(3):
            error = TRUTH["D"] * size ** -TRUTH["alpha"] + TRUTH["C"]
            noise = luck[draw] + 0.01 * rng.standard_normal()
            rows.append({"pretrain_images": size, "draw_seed": draw, "error": error * np.exp(noise)})
    return pd.DataFrame(rows)


def main() -> None:
    """Print the law's parameters and what follows from them, each with its 95 % interval."""
    table = pd.read_csv(sys.argv[1]) if len(sys.argv) > 1 else simulated_table()
    if missing := [name for name in ("pretrain_images", "error", "draw_seed") if name not in table]:
        sys.exit(f"error: no column {', '.join(missing)} in {sys.argv[1]}; lightning-tl law takes other names")
    table = table[table["pretrain_images"] > 0]
    law = fit(TransferLaw(), n=table["pretrain_images"], error=table["error"], draw=table["draw_seed"])
    for name in ("alpha", "C"):
        low, high = law.interval(name)
        true = f", in truth {TRUTH[name]}" if len(sys.argv) == 1 else ""
        print(f"{name} = {law.params[name]:.3g} ({low:.3g} to {high:.3g}{true})")
        if reason := law.unidentified(name):
            print(f"  not identified: {reason}")
    largest = table["pretrain_images"].max()
    low, high = (float(end[0]) for end in law.predict_interval([10 * largest]))
    print(f"error at {10 * largest:,} images: {law.predict([10 * largest])[0]:.3g} ({low:.3g} to {high:.3g})")


if __name__ == "__main__":
    main()
