"""Read the tables of a study with pandas: a pivot, the law of each rendering, one figure.

    python examples/read_a_study.py runs/quickstart    # a study of yours: its folder
    python examples/read_a_study.py                    # runs a small study first (needs 'lightning-tl[render]')

Without a folder it renders two small data sets, pre-trains a small network eight times and fine-tunes it on a few real
handwritten digits; nothing is downloaded. The figure is written into the study's folder, here ``runs/read_a_study``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from lightning_tl.errors import UserError
from lightning_tl.figure_style import plain_ticks
from lightning_tl.laws import FittedLaw, TransferLaw, fit

STUDY = """
title: Do rendered digits help to read handwritten ones?
render:
  product: {config: [render/digits, render/shapes]}
  set: {image.size: 32}
  val_images: 64
pretrain:
  config: [pretrain/small_images, callbacks/measure]   # measure: what measurements.csv is made of
  set: {trainer.max_steps: 200, data.steps_per_epoch: 200}
  product: {data.n: [16, 64, 256, 1024]}
finetune:
  config: finetune/digits
  set: {trainer.max_steps: 100, data.steps_per_epoch: 100, data.shots: 10}
  zip:
    - {data.draw: [0, 1, 2], data.seed: [0, 1, 2], seed_everything: [0, 1, 2]}
"""


def run_small_study(folder: Path) -> None:
    """Run the study above; where it was run before, nothing is run again."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "small_study.yaml"
    config.write_text(STUDY, encoding="utf-8")
    command = [sys.executable, "-m", "lightning_tl", "study", "run", "--config", str(config), "--out", str(folder)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        sys.exit("the study failed; its reason is above")


def table(folder: Path, name: str) -> pd.DataFrame:
    """Read a table of a study."""
    if not (folder / name).is_file():
        sys.exit(f"error: {folder} has no {name}; give the folder that 'lightning-tl study run' wrote (its --out)")
    return pd.read_csv(folder / name)


def mean_with_interval(errors: pd.Series[float]) -> str:
    """Return the mean over draws with its 95 % interval (Student's t); a single run has none."""
    mean, number = errors.mean(), len(errors)
    if number < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, number - 1) * errors.std() / np.sqrt(number)
    return f"{mean:.3f} ± {half:.3f}"


def errors_by_size(results: pd.DataFrame) -> pd.DataFrame:
    """Return a line for each pre-training size and a column for each rendering; size 0 is without pre-training."""
    return results.pivot_table(index="pretrain_images", columns="render", values="error", aggfunc=mean_with_interval)


def sensitivities(results: pd.DataFrame, measurements: pd.DataFrame) -> pd.DataFrame:
    """Return how much noise in the weights raises the loss of each pre-trained network, at its last step.

    ``measurements.csv`` has one row per measured value. Its ``run_id`` of a pre-training stands in ``results.csv`` as
    ``pretrain_run``, with the size and the rendering. Half of the interval is two standard errors.
    """
    rows = measurements[measurements["quantity"] == "sensitivity"]
    rows = rows[rows["step"] == rows.groupby("run_id")["step"].transform("max")]
    runs = results[["pretrain_run", "render", "pretrain_images"]].drop_duplicates().dropna()
    joined = runs.merge(rows, left_on="pretrain_run", right_on="run_id")
    joined["rise"] = [f"{v:.2g} ± {2 * e:.1g}" for v, e in zip(joined["value"], joined["stderr"], strict=True)]
    return joined.pivot_table(index=["render", "pretrain_images"], columns="gamma", values="rise", aggfunc="first")


def laws_of(results: pd.DataFrame) -> dict[str, FittedLaw]:
    """Fit the law to each rendering, and print its parameters with 95 % intervals."""
    laws = {}
    for render, runs in results[results["pretrain_images"] > 0].groupby("render"):
        try:
            law = fit(TransferLaw(), n=runs["pretrain_images"], error=runs["error"], draw=runs["draw_seed"])
        except UserError as error:  # such as too few sizes
            print(f"{render}: no law: {error}")
            continue
        laws[str(render)] = law
        for name in ("alpha", "C"):
            low, high = law.interval(name)
            reason = law.unidentified(name)
            doubt = f"; not identified: {reason}" if reason else ""
            ends = f"{low:.3g} to {high:.3g}" if np.isfinite(high) else f"{low:.3g} or more"
            print(f"{render}: {name} = {law.params[name]:.3g} (95 % interval {ends}{doubt})")
    return laws


def draw(results: pd.DataFrame, laws: dict[str, FittedLaw]) -> Figure:
    """Draw runs, laws with their 95 % bands, and the mean error without pre-training."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for number, (render, runs) in enumerate(results[results["pretrain_images"] > 0].groupby("render")):
        colour = f"C{number}"
        axes.plot(runs["pretrain_images"], runs["error"], "o", color=colour, alpha=0.6, label=str(render))
        if (law := laws.get(str(render))) is not None:
            sizes = np.geomspace(runs["pretrain_images"].min(), runs["pretrain_images"].max(), 50)
            axes.plot(sizes, law.predict(sizes), color=colour)
            axes.fill_between(sizes, *law.band(sizes), color=colour, alpha=0.15)
    scratch = results.loc[results["pretrain_images"] == 0].drop_duplicates("run_id")["error"]
    if len(scratch):
        axes.axhline(scratch.mean(), color="0.4", linestyle="--", label="no pre-training")
    axes.set(xscale="log", yscale="log", xlabel="pre-training images", ylabel="test error after fine-tuning")
    errors = results["error"]
    axes.set_ylim(errors.min() / 1.5, errors.max() * 1.5)  # a wide band must not squeeze the points
    plain_ticks(axes)
    axes.legend()
    return figure


def main() -> None:
    """Read a study's folder, or run a small study and read that."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/read_a_study")
    if len(sys.argv) == 1:
        run_small_study(folder)
    results, measurements = table(folder, "results.csv"), table(folder, "measurements.csv")
    print("Test error after fine-tuning: mean over draws, with the 95 % interval\n")
    print(errors_by_size(results).to_string(), "\n")
    if (measurements["quantity"] == "sensitivity").any():
        print("Rise of the pre-training loss under noise of scale gamma in the weights, with the 95 % interval\n")
        print(sensitivities(results, measurements).to_string(), "\n")
    draw(results, laws_of(results)).savefig(folder / "read_a_study.png", dpi=150)
    print(f"figure: {folder / 'read_a_study.png'}")


if __name__ == "__main__":
    main()
