"""The same measurements on saved checkpoints, after the fact, into a table and a plot."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_tl.callbacks.base import find_mode
from lightning_tl.callbacks.quiet import quiet, step_loss
from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.batchnorm import Statistics
from lightning_tl.measure.distance import distance
from lightning_tl.measure.noise import Reference, load_state, noise_scales
from lightning_tl.measure.objective import LossFn, Objective
from lightning_tl.measure.params import Groups, _listed, select
from lightning_tl.measure.perturbation import check_gammas, loss_along, perturbation_sensitivity
from lightning_tl.measure.trace import hessian_trace

CheckpointStatistics = Literal["kept", "re-estimated", "interpolated"]
CHECKPOINT_STATISTICS: tuple[CheckpointStatistics, ...] = ("kept", "re-estimated", "interpolated")
Rest = Literal["own", "reference"]
RESTS: tuple[Rest, ...] = ("own", "reference")
QUANTITIES = ("distance", "trace", "sensitivity", "direction")
COLUMNS = ("run_id", "step", "quantity", "group", "gamma", "value", "stderr")
#: λ of the curves along reference → checkpoint
STEPS = tuple(i / 8 for i in range(-4, 17))

Row = dict[str, Any]


def measure_checkpoints(
    module: nn.Module,
    checkpoints: Sequence[str | Path],
    batches: Sequence[Any] = (),
    *,
    out: str | Path | None = None,
    quantities: Iterable[str] = QUANTITIES,
    reference: str | Path | None = None,
    loss_fn: LossFn | None = None,
    gammas: Sequence[float] = (0.005, 0.01, 0.02, 0.05),
    draws: int = 8,
    noise: str = "init",
    init_reference: Reference = None,
    products: int = 24,
    include: str | None = None,
    exclude: str | None = None,
    groups: Groups = None,
    rest: Rest = "own",
    bn: CheckpointStatistics = "kept",
    seed: int = 0,
    run_id: str | None = None,
) -> list[Row]:
    """Measure saved checkpoints of one module: distance, Hessian trace, sensitivity, and the loss along the way.

    Args:
        module: The module, a LightningModule unless ``loss_fn`` is given; it ends with its own weights.
        checkpoints: Their paths, in the order in which to measure.
        batches: Micro-batches to measure the loss on; not needed if only ``distance`` is measured.
        out: A folder for ``measurements.csv`` and ``measurements.png``; an earlier table there is replaced.
        quantities: Any of ``distance``, ``trace``, ``sensitivity``, ``direction`` (the loss along the straight line
            from the reference through the checkpoint, with its quadratic approximation; Springer et al., App. D).
        reference: The checkpoint from which distances and directions are taken; default: the first one.
        loss_fn: ``(module, batch) -> scalar tensor``; default: the module's ``training_step``.
        gammas: Scales of the noise.
        draws: Antithetic pairs by scale.
        noise: ``init``, ``relative`` or ``isotropic``.
            With ``trace`` and ``sensitivity`` together, the trace weighted by its variances is measured too.
        init_reference: For ``init``, as in :func:`~lightning_tl.measure.noise.noise_scales`.
        products: Budget of a trace, in Hessian-vector products.
        include: Regular expression of parameter names to measure.
        exclude: Regular expression of parameter names to leave out.
        groups: Regular expression → group name.
        rest: Where what ``include`` leaves out comes from: ``own``, each checkpoint; or always the ``reference``. With
            ``include="^backbone"`` the latter measures fine-tuned backbones under the pre-training head.
        bn: BatchNorm's statistics. ``kept``: each checkpoint's; on the line from the reference, the reference's.
            ``re-estimated``: on the batches, for the weights at each evaluation of the loss. ``interpolated``: as
            ``kept``, but on the line they move from the reference's to the checkpoint's as the weights do.
        seed: Draws probes and noise.
        run_id: For the table; default: the name of the folder the checkpoints are in.

    Returns:
        Rows with ``run_id, step, quantity, group, gamma, value, stderr``; what does not apply is an empty string. For
        ``loss_along`` and ``quadratic_along`` the column gamma holds λ. ``hessian/weighted_trace`` is Tr(ΣH).

    Raises:
        UserError: A quantity is unknown; a checkpoint cannot be read or does not fit the module; there is no batch.
    """
    quantities = tuple(quantities)
    for quantity in quantities:
        if quantity not in QUANTITIES:
            raise UserError(f"quantity {quantity!r} is unknown{nearest(quantity, QUANTITIES)}")
    if not checkpoints:
        raise UserError("there is no checkpoint to measure; name at least one")
    if not len(batches) and set(quantities) - {"distance"}:
        raise UserError(f"{', '.join(sorted(set(quantities) - {'distance'}))}: needs batches to measure the loss on")
    for key, given, valid in (("rest", rest, RESTS), ("bn", bn, CHECKPOINT_STATISTICS)):
        if given not in valid:
            raise UserError(f"{key}={given!r} is unknown{nearest(str(given), valid)}")
    if rest == "reference" and include is None:
        raise UserError("rest='reference' needs include=, a regular expression of what comes from each checkpoint")
    gammas = check_gammas(gammas)
    start = load_state(reference if reference is not None else checkpoints[0])
    own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    name = run_id or _run_name(Path(checkpoints[0]))
    rows: list[Row] = []

    def add(step: int, quantity: str, value: float, group: str = "", gamma: Any = "", stderr: Any = "") -> None:
        values = (name, step, quantity, group, gamma, value, stderr)
        rows.append(dict(zip(COLUMNS, values, strict=True)))

    mode: str | None = None
    scales: dict[str, Tensor] | None = None
    try:
        for index, path in enumerate(checkpoints):
            state = load_state(path)
            if rest == "reference" and include is not None:
                state = start | {n: value for n, value in state.items() if re.search(include, n)}
            _load(module, state, path)
            step = _step(path, index)
            params = select(module, include, exclude)
            if "distance" in quantities:
                moved = distance(params, start, groups)
                for key in ("total", "relative", "cosine"):
                    add(step, f"param_distance/{key}", getattr(moved, key))
                for group, value in moved.groups.items():
                    add(step, "param_distance", value, group)
            if not len(batches):
                continue

            def build(mode: str, params: Mapping[str, nn.Parameter] = params) -> Objective:
                statistics: Statistics = "re-estimated" if bn == "re-estimated" else "kept"
                return Objective(module, loss_fn or step_loss, batches, params, mode=mode, seed=seed, bn=statistics)

            with quiet(module):
                mode = mode or find_mode(build, own_loss=loss_fn is None)
                objective = build(mode)
                if "sensitivity" in quantities and (scales is None or noise != "init"):
                    scales = noise_scales(module, params, noise, init_reference, seed)
                if "trace" in quantities:
                    found = hessian_trace(objective, products, scales=scales, groups=groups, seed=seed)
                    for key, trace in (("hessian/trace", found), ("hessian/weighted_trace", found.weighted)):
                        if trace is not None:
                            add(step, key, trace.value, stderr=trace.stderr)
                            for group, value in trace.groups.items():
                                add(step, key, value, group, stderr=trace.group_stderr[group])
                if scales is not None:
                    levels = perturbation_sensitivity(objective, scales, gammas, draws, seed)
                    add(step, "perturbed_loss", levels[0].loss, gamma=0)
                    for level in levels:
                        add(step, "perturbed_loss", level.perturbed_loss, gamma=level.gamma, stderr=level.stderr)
                        add(step, "sensitivity", level.sensitivity, gamma=level.gamma, stderr=level.stderr)
                if "direction" in quantities:
                    _along(module, build(mode), start, add, step, moving=bn == "interpolated")
    finally:
        module.load_state_dict(own)
    if out is not None:
        write_table(rows, Path(out) / "measurements.csv")
        plot_measurements(rows, Path(out) / "measurements.png")
    return rows


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write ``measurements.csv`` beside, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".csv.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def plot_measurements(rows: Sequence[Row], path: Path) -> None:
    """Plot what a table holds: curves over training steps, and the loss along reference → checkpoint."""
    from matplotlib.figure import Figure

    panels = [
        ("param_distance/total", "distance from the reference", None),
        ("hessian/trace", "trace of the Hessian", None),
        ("hessian/weighted_trace", "Tr(ΣH), Σ the noise's variances", None),
        ("perturbed_loss", "loss under noise", "γ"),
        ("sensitivity", "rise under noise", "γ"),
        ("loss_along", "loss along reference → checkpoint", "step"),
    ]
    shown = [panel for panel in panels if any(r["quantity"] == panel[0] and r["group"] == "" for r in rows)]
    figure = Figure(figsize=(4.2 * len(shown), 3.4), layout="constrained")
    for axes, (quantity, title, key) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        mine = [r for r in rows if r["quantity"] == quantity and r["group"] == ""]
        along = quantity == "loss_along"
        line, x = ("step", "gamma") if along else ("gamma", "step")
        for value in sorted({r[line] for r in mine}, key=float) if key else [""]:
            curve = sorted((r for r in mine if not key or r[line] == value), key=lambda r: float(r[x]))
            xs, ys = [float(r[x]) for r in curve], [r["value"] for r in curve]
            errors = [float(r["stderr"] or 0) for r in curve]
            label = f"{key} = {value}" if key else None
            (drawn,) = axes.plot(xs, ys, marker="" if along else "o", label=label)
            if any(errors):
                low = [y - 2 * e for y, e in zip(ys, errors, strict=True)]
                axes.fill_between(xs, low, [y + 2 * e for y, e in zip(ys, errors, strict=True)], alpha=0.2)
            if along:
                parabola = [r for r in rows if r["quantity"] == "quadratic_along" and r["step"] == value]
                parabola.sort(key=lambda r: float(r["gamma"]))
                axes.plot(xs, [r["value"] for r in parabola], "--", color=drawn.get_color(), linewidth=1)
                axes.set_ylim(0, 2 * max(ys))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("λ (0: reference, 1: checkpoint; dashed: quadratic)" if along else "step")
        if key:
            axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _along(
    module: nn.Module, objective: Objective, start: Mapping[str, Tensor], add: Any, step: int, moving: bool
) -> None:
    """Measure L(θ₀ + λ(θ − θ₀)) with θ₀ the reference's weights where it has them, θ the present ones.

    Buffers are the reference's too; with ``moving`` they become the present ones as λ goes to 1.
    """
    shared = {n: p for n, p in objective.params.items() if n in start and start[n].shape == p.shape}
    direction = {n: p.detach() - start[n].to(p.device, p.dtype) for n, p in shared.items()}
    if not any(bool(d.any()) for d in direction.values()):
        return  # the reference itself
    known = {n: b for n, b in module.named_buffers() if n in start and start[n].shape == b.shape}
    change = {n: b.detach().clone() - start[n].to(b.device, b.dtype) for n, b in known.items()} if moving else {}
    with torch.no_grad():
        for n, tensor in {**shared, **known}.items():
            tensor.copy_(start[n])
    curve = loss_along(objective, direction, STEPS, buffers=change)
    for at, loss, parabola in zip(curve.steps, curve.loss, curve.quadratic, strict=True):
        add(step, "loss_along", loss, gamma=at)
        add(step, "quadratic_along", parabola, gamma=at)


def _load(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    expected = module.state_dict()
    wrong = [n for n in expected if n not in state or state[n].shape != expected[n].shape]
    more = [n for n in state if n not in expected]
    if wrong or more:
        raise UserError(
            f"{path} does not fit {type(module).__name__}: it lacks, or has in another shape, {_listed(wrong)}; "
            f"it also holds {_listed(more)}. Is the configuration that of its run? To measure a part under the "
            "reference's other layers, such as the backbone of a fine-tuned network under the pre-training head: "
            "include='^backbone', rest='reference'"
        )
    module.load_state_dict({n: state[n] for n in expected})


def _step(path: str | Path, index: int) -> int:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return int(loaded.get("global_step", index))


def _run_name(path: Path) -> str:
    folder = path.resolve().parent
    return folder.parent.name if folder.name == "checkpoints" else folder.name
