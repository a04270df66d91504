"""Draws the figures of the concept pages with the library's own functions: ``python docs/concepts/draw_figures.py``.

Everything is simulated from fixed seeds, so the same versions give the same figures. The numbers that the pages quote
are printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from lightning_tl.figure_style import COLOURS, STYLE, headed, new_figure, noted, plain_ticks, save_figures
from lightning_tl.labs.incremental_features import IncrementalFeatures
from lightning_tl.labs.incremental_features_theory import noisy_losses, tuned_losses, turn
from lightning_tl.laws import FittedLaw, TransferLaw
from lightning_tl.laws.curve_figures import law_figure
from lightning_tl.laws.fitted_law import prepare_regions
from lightning_tl.laws.fitting import fit_many, points_of
from lightning_tl.laws.group_fits import GroupFit, analyse
from lightning_tl.laws.identification import IDENTIFIED
from lightning_tl.laws.parameter_figures import landscape_figure
from lightning_tl.laws.results_table import groups
from lightning_tl.measure import Objective, hessian_trace, noise_scales, perturbation_sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
NOISE = 0.01  # of log error, from run to run
GAMMAS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
DRAWS = 512  # of the noise, each with both signs
SIZES = 1000 * 2.0 ** np.arange(9)


def transfer_law(n: Any, alpha: float, gap: float, start: float = 0.3) -> Any:
    """Return D·n^−α + C, of which D is such that the error at 1,000 images is ``start``."""
    return (start - gap) * (np.asarray(n) / 1000) ** -alpha + gap


def law_terms() -> Figure:
    """Draw what C and α do to the law."""
    n = np.geomspace(1000, 1e7, 200)
    figure, axes = new_figure(7.2, 3.2, 1, 2, sharey=True)
    for axis, values, name in (
        (axes[0, 0], [(0.4, 0.0), (0.4, 0.02), (0.4, 0.1)], "C"),
        (axes[0, 1], [(0.2, 0.02), (0.4, 0.02), (0.8, 0.02)], "alpha"),
    ):
        for index, (alpha, gap) in enumerate(values):
            label = f"C = {gap:g}" if name == "C" else f"α = {alpha:g}"
            axis.plot(n, transfer_law(n, alpha, gap), color=COLOURS[index], label=label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        plain_ticks(axis)
        axis.set_xlabel("pre-training images n")
        axis.legend()
    axes[0, 0].set_ylabel("test error")
    axes[0, 0].set_title("the transfer gap C, at α = 0.4", fontsize=9)
    axes[0, 1].set_title("the pre-training rate α, at C = 0.02", fontsize=9)
    headed(figure, "test error = D·n^−α + C")
    return figure


def two_renderings() -> Figure:
    """Draw a table of runs with its fitted laws, as `lightning-tl law` does."""
    rng = np.random.default_rng(2)
    rows = []
    for render, alpha, gap in (("first renderer", 0.45, 0.09), ("second renderer", 0.35, 0.01)):
        for n in SIZES[:7]:
            for seed in range(2):
                error = transfer_law(n, alpha, gap) * np.exp(0.02 * rng.standard_normal())
                rows.append((f"{render}-{n:g}-{seed}", render, n, seed, error))
    names = ["run_id", "render", "pretrain_images", "pretrain_seed", "error"]
    fits = analyse(groups(pd.DataFrame(rows, columns=names)), TransferLaw())
    for item in fits:
        assert isinstance(item, GroupFit)
        low, high = item.law.interval("C")
        print(f"two renderings, {item.label}: C {item.law.params['C']:.3g}, {low:.3g} to {high:.3g}")
    return law_figure(fits, title="Alike at 1,000 images, apart at 64,000")


@cache
def simulated(count: int, seeds: tuple[int, ...], gap: float = 0.05) -> list[FittedLaw]:
    """Return the laws fitted to the first so many sizes of simulated curves with α = 0.4, one for each seed."""
    cells = []
    for seed in seeds:
        noise = np.random.default_rng(seed).standard_normal(len(SIZES))
        error = transfer_law(SIZES, 0.4, gap) * np.exp(NOISE * noise)
        cells.append(points_of(TransferLaw(), SIZES[:count], error[:count]))
    laws = fit_many(TransferLaw(), cells)
    prepare_regions((law, IDENTIFIED) for law in laws)
    return laws


def more_sizes() -> Figure:
    """Draw what is known of C and α as sizes are added to one curve."""
    figure, axes = new_figure(7.2, 3.2, 1, 2)
    counts = range(4, 10)
    laws = {count: simulated(count, (3,))[0] for count in counts}
    for axis, name, truth in ((axes[0, 0], "C", 0.05), (axes[0, 1], "alpha", 0.4)):
        for count, law in laws.items():
            low, high = law.interval(name)
            known = law.unidentified(name) is None
            print(f"{count} sizes, {name}: {law.params[name]:.3g}, {low:.3g} to {high:.3g}, identified: {known}")
            face = COLOURS[0] if known else "white"
            axis.plot([count, count], [low, min(high, 2.0)], color=COLOURS[0])
            axis.plot(count, law.params[name], "o", color=COLOURS[0], markerfacecolor=face)
        axis.axhline(truth, color="0.4", linewidth=0.8, linestyle="--")
        axis.set_xticks(list(counts))
        axis.set_xlabel("sizes, each twice the one before")
    axes[0, 0].set_ylabel("transfer gap C")
    axes[0, 1].set_ylabel("pre-training rate α")
    axes[0, 1].set_ylim(0, 1.2)
    headed(figure, "One curve, more and more sizes")
    noted(figure, "Bars: 95 % intervals. Open: not identified. Dashed: the truth. Scatter of the runs: 1 %.")
    return figure


def how_often(worlds: int = 100) -> Figure:
    """Draw on what share of simulated curves C is identified, by the number of sizes and by C."""
    figure, axes = new_figure(5.0, 3.3)
    axis = axes[0, 0]
    counts = list(range(4, 10))
    for index, gap in enumerate((0.02, 0.05, 0.15)):
        shares = []
        for count in counts:
            laws = simulated(count, tuple(range(worlds)), gap)
            shares.append(float(np.mean([law.unidentified("C") is None for law in laws])))
        print(
            f"C = {gap}: identified in "
            + ", ".join(f"{share:.0%} ({n})" for n, share in zip(counts, shares, strict=True))
        )
        axis.plot(counts, shares, "os^"[index] + "-", color=COLOURS[index], label=f"C = {gap:g}")
    axis.set_ylim(-0.03, 1.03)
    axis.set_xticks(counts)
    axis.set_xlabel("sizes, each twice the one before")
    axis.set_ylabel("share of curves")
    axis.legend()
    headed(figure, "On how many curves is C identified?")
    noted(figure, f"{worlds} simulated curves each; α = 0.4, error 0.3 at 1,000 images, scatter 1 %.")
    return figure


def valley() -> Figure:
    """Draw the loss over α and D of one curve: short and long."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal(len(SIZES))
    rows = []
    for label, count in (("5 sizes", 5), ("9 sizes", 9)):
        for size, shift in zip(SIZES[:count], noise[:count], strict=True):
            rows.append((f"{label}-{size:g}", label, size, transfer_law(size, 0.4, 0.05) * np.exp(NOISE * shift)))
    table = pd.DataFrame(rows, columns=["run_id", "render", "pretrain_images", "error"])
    figure = landscape_figure(analyse(groups(table), TransferLaw()))
    assert figure is not None
    return figure


def turns() -> Figure:
    """Draw the closed forms of the lab `incremental-features`: noise, and fine-tuning."""
    lab = IncrementalFeatures()
    spectrum, count = np.array(lab.spectrum), range(1, len(lab.spectrum) + 1)
    figure, axes = new_figure(7.2, 3.3, 1, 2)
    for index, gamma in enumerate((0.0, 0.1, 0.185, 0.22)):
        losses = noisy_losses(spectrum, gamma)
        print(f"γ = {gamma}: turn after {turn(losses)} features")
        _curve(axes[0, 0], count, losses, index, f"γ = {gamma:g}")
    for index, pull in enumerate(lab.pulls):
        forgotten = tuned_losses(spectrum, np.array(lab.target(lab.spectrum)), pull, lab.tuning_time)[0]
        print(f"pull {pull}: turn after {turn(forgotten)} features")
        _curve(axes[0, 1], count, forgotten, index, f"fine-tuned, pull λ = {pull:g}")
    _curve(axes[0, 1], count, noisy_losses(spectrum, 0.0), 6, "before fine-tuning")
    for axis in axes[0]:
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])
        axis.legend(fontsize=7, ncols=2)
    axes[0, 0].set_ylabel("pre-training loss")
    axes[0, 0].set_title("under noise of scale γ in the weights", fontsize=9)
    axes[0, 1].set_title("after fine-tuning on another task", fontsize=9)
    headed(figure, "The loss still falls, but the network becomes fragile")
    noted(figure, "Closed forms of the lab incremental-features. Filled: the lowest value of each curve.")
    return figure


def _curve(axis: Axes, x: Any, y: Any, index: int, label: str) -> None:
    axis.plot(x, y, "o-", color=COLOURS[index], markerfacecolor="white", markersize=4, label=label)
    lowest = int(np.argmin(y))
    axis.plot(list(x)[lowest], y[lowest], "o", color=COLOURS[index], markersize=6)
    axis.set_xlabel("features learnt in pre-training")


def trained(activation: type[torch.nn.Module]) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Return a small network that tells points inside a circle from those outside, and its data."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    points = torch.randn(256, 2, generator=generator)
    inside = (points.norm(dim=1) < 1.2).long()
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 32), activation(), torch.nn.Linear(32, 32), activation(), torch.nn.Linear(32, 2)
    )
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        cross_entropy(network(points), inside).backward()
        optimizer.step()
    return network, points, inside


@cache
def measured(activation: type[torch.nn.Module]) -> tuple[Any, Any, Any]:
    """Return, for each γ, the rise of such a network's loss under noise, its standard error, and ½γ²Tr(ΣH)."""
    network, points, inside = trained(activation)
    objective = Objective(network, lambda module, batch: cross_entropy(module(batch[0]), batch[1]), [(points, inside)])
    scales = noise_scales(network, objective.params)
    trace = hessian_trace(objective, scales=scales, products=64)
    assert trace.weighted is not None
    levels = perturbation_sensitivity(objective, scales, gammas=GAMMAS, draws=DRAWS)
    rises = np.array([level.sensitivity for level in levels])
    errors = np.array([level.stderr for level in levels])
    second = 0.5 * np.square(GAMMAS) * trace.weighted.value
    ratios = ", ".join(f"{a:.2f} ± {b:.2f}" for a, b in zip(rises / second, errors / second, strict=True))
    print(f"{activation.__name__}: Tr H {trace.value:.4g} ± {trace.stderr:.2g} ({trace.method}); ratios {ratios}")
    return rises, errors, second


def noise_and_curvature() -> Figure:
    """Draw the measured rise of the loss under noise over ½γ²Tr(ΣH), for a smooth network and one with kinks."""
    figure, axes = new_figure(5.6, 3.3)
    axis = axes[0, 0]
    for index, activation in enumerate((torch.nn.Tanh, torch.nn.ReLU)):
        rises, errors, second = measured(activation)
        name = activation.__name__
        axis.errorbar(GAMMAS, rises / second, errors / second, fmt="os"[index] + "-", color=COLOURS[index], label=name)
    axis.axhline(1, color="0.4", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.set_ylim(0, None)
    axis.set_xticks(GAMMAS, [f"{gamma:g}" for gamma in GAMMAS])
    axis.minorticks_off()
    axis.set_xlabel("scale of the noise γ")
    axis.set_ylabel("Δ / ½γ²Tr(ΣH)")
    axis.legend()
    headed(figure, "The rise of the loss under noise, over what the curvature predicts")
    noted(figure, f"Bars: standard errors over {DRAWS} draws of the noise, which all scales share.")
    return figure


FIGURES: Mapping[str, Callable[[], Figure]] = {
    "law_terms": law_terms,
    "two_renderings": two_renderings,
    "more_sizes": more_sizes,
    "how_often": how_often,
    "valley": valley,
    "turns": turns,
    "noise_and_curvature": noise_and_curvature,
}


def main(folder: Path) -> None:
    """Draw all figures into a folder, also for narrow screens."""
    with mpl.rc_context(STYLE):
        save_figures(lambda: {name: draw() for name, draw in FIGURES.items()}, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
