"""The measuring callbacks on a two-layer linear network that Lightning trains, against the closed forms."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.callbacks.measurement import Measurement
from lightning_tl.labs.incremental_features_flow import Weights, World, world
from lightning_tl.labs.incremental_features_theory import noise_rise, trace
from lightning_tl.labs.outcome import Array, Comparison
from lightning_tl.measured_value import Measured

if TYPE_CHECKING:
    from lightning_tl.labs.incremental_features_parameters import IncrementalFeaturesParameters

#: Antithetic pairs of noises per measurement, and products for the estimated trace.
_DRAWS, _PRODUCTS = 64, 24
#: γ over this: noise so small that ½γ²Tr(ΣH) is all of its effect.
_SMALL = 6.0
#: Independent values behind the standard error of a quantity.
_RUNS = {"sensitivity": _DRAWS, "init/sensitivity": _DRAWS, "estimated/hessian": _PRODUCTS}


class TwoLayerLinear(LightningModule):
    """f(x) = W₁W₂x, trained to f(x) = Ax on inputs whose second moments are exactly the identity.

    Args:
        weights: W₁ and W₂, each of shape (d, d); ``None``: as ``nn.Linear`` draws them.
        target: A, likewise.
        inputs: One batch, shape (samples, d).
        epochs: For each epoch, the learning rate and the number of steps.
    """

    def __init__(self, weights: Weights | None, target: Array, inputs: Array, epochs: list[tuple[float, int]]) -> None:
        super().__init__()
        d = len(target)
        self.outer, self.inner = (nn.Linear(d, d, bias=False, dtype=torch.float64) for _ in range(2))
        if weights is not None:
            with torch.no_grad():
                for layer, matrix in zip((self.outer, self.inner), weights, strict=True):
                    layer.weight.copy_(torch.from_numpy(matrix))
        self.register_buffer("target", torch.from_numpy(target))
        self.inputs, self.epochs = torch.from_numpy(inputs), epochs

    def forward(self, batch: Tensor) -> Tensor:
        """Return the outputs for inputs of shape (samples, d)."""
        outputs: Tensor = self.outer(self.inner(batch))
        return outputs

    def training_step(self, batch: Tensor) -> Tensor:
        """Return the mean over samples of the squared error: ‖W₁W₂ − A‖²."""
        target = self.get_buffer("target")
        loss: Tensor = (self(batch) - batch @ target.T).square().sum(dim=1).mean()
        return loss

    def validation_step(self, batch: Tensor) -> None:
        """Do nothing: the callbacks measure."""

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return the batch as often as the epoch has steps."""
        return self.loader(self.epochs[self.current_epoch][1])

    def loader(self, count: int) -> DataLoader[Tensor]:
        """Return a loader of the batch, a number of times."""
        return DataLoader([self.inputs] * count, batch_size=None)  # type: ignore[arg-type]

    def on_train_epoch_start(self) -> None:
        """Set the epoch's learning rate."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.epochs[self.current_epoch][0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=self.epochs[0][0] if self.epochs else 0.1)

    def weights(self) -> Weights:
        """Return copies of W₁ and W₂."""
        first, second = (layer.weight.detach().numpy().copy() for layer in (self.outer, self.inner))
        return first, second


class _Weights(Callback):
    """Keeps the weights at the end of every epoch."""

    def __init__(self) -> None:
        self.kept: list[Weights] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TwoLayerLinear)
        self.kept.append(pl_module.weights())


def whitened_inputs(rng: np.random.Generator, d: int) -> Array:
    """Return 4d inputs with XᵀX/samples = I, shape (4d, d)."""
    basis: Array = np.linalg.qr(rng.standard_normal((4 * d, d)))[0]
    inputs: Array = basis * (4 * d) ** 0.5
    return inputs


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence what Lightning says of devices, loaders and missing loggers."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _trainer(callbacks: list[Callback], epochs: int = 0) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        limit_val_batches=0 if epochs else 1,
        callbacks=callbacks,
    )


def perturbed_by_callback(weights: Weights, target: Array, inputs: Array, gamma: float, draws: int, seed: int) -> float:
    """Return the loss under isotropic noise in the weights, as ``PerturbationSensitivity`` measures it.

    Args:
        weights: W₁ and W₂, each of shape (d, d).
        target: A, likewise.
        inputs: As :func:`whitened_inputs` makes them.
        gamma: γ.
        draws: Antithetic pairs.
        seed: Of the noise.
    """
    module = TwoLayerLinear(weights, target, inputs, [])
    callback = PerturbationSensitivity([gamma], draws, noise="isotropic", seed=seed, on_error="raise", loss_fn=_loss)
    with _quietly():
        _trainer([callback]).validate(module, module.loader(1), verbose=False)
    return next(item.value for item in callback.history if item.quantity == "perturbed_loss" and item.gamma == gamma)


def _loss(module: nn.Module, batch: Any) -> Tensor:
    assert isinstance(module, TwoLayerLinear)
    return module.training_step(batch)


def _epochs(place: World) -> list[tuple[float, int]]:
    """Return learning rate and steps from each budget to the next, so that gradient descent follows the flow."""
    spans = np.diff(place.budgets(), prepend=0.0)
    rates = np.minimum(0.25 / place.spectrum[0], 0.01 / place.spectrum)
    return [(float(rate), round(float(span / rate))) for rate, span in zip(rates, spans, strict=True)]


@dataclass(frozen=True)
class Training:
    """A training with Lightning, one epoch per feature.

    Attributes:
        place: The task and the start.
        weights: After each epoch.
        records: Of all callbacks, in order of the epochs.
        little: γ of the noise by initialisation.
        steps: Of all epochs.
    """

    place: World
    weights: tuple[Weights, ...]
    records: tuple[Measured, ...]
    little: float
    steps: int

    def nth(self, quantity: str, group: str, n: int) -> Measured:
        """Return what was measured after epoch n, from 0 on."""
        return [item for item in self.records if (item.quantity, item.group) == (quantity, group)][n]


def train(lab: IncrementalFeaturesParameters) -> Training:
    """Train a network, and measure it with the library's callbacks after each epoch."""
    rng = lab.random(1)
    place = world(lab.spectrum, lab.training_start, rng)
    d, little = place.width, lab.gamma / _SMALL / initial_scale(place.width)
    first, second = place.random_weights(rng, 1)
    target, inputs = place.matrix(place.spectrum), whitened_inputs(rng, d)
    module = TwoLayerLinear((first[0], second[0]), target, inputs, _epochs(place))
    when: dict[str, Any] = {
        "every_n_steps": None,
        "at_start": False,
        "at_epoch_end": True,
        "at_end": False,
        "on_error": "raise",
    }
    settings, other = {**when, "seed": lab.seed}, {**when, "seed": lab.seed + 1}
    fresh: dict[str, Any] = {"noise": "init", "reference": lambda: TwoLayerLinear(None, target, inputs, [])}
    callbacks: list[Measurement] = [
        HessianTrace(method="matvec", products=2 * d**2, **fresh, **settings),
        HessianTrace(method="hutchinson", products=_PRODUCTS, prefix="estimated/", **settings),
        PerturbationSensitivity([lab.gamma], _DRAWS, noise="isotropic", **settings),
        PerturbationSensitivity([little], _DRAWS, prefix="init/", **fresh, **other),
        ParameterDistance(**when),
    ]
    kept = _Weights()
    with _quietly():
        _trainer([kept, *callbacks], len(module.epochs)).fit(module)
    records = tuple(item for callback in callbacks for item in callback.history)
    return Training(place, tuple(kept.kept), records, little, sum(steps for _, steps in module.epochs))


def initial_scale(d: int) -> float:
    """Return the standard deviation of ``nn.Linear``'s initial weights, which are uniform within ±1/√d."""
    return float((3 * d) ** -0.5)


def measured_training(lab: IncrementalFeaturesParameters) -> tuple[list[Comparison], dict[str, Any]]:
    """Train a network with Lightning, and compare what the callbacks measure with the closed forms.

    Args:
        lab: The parameters.

    Returns:
        The comparisons of parts ``callback trace``, ``callback Δ`` and ``callback stage``; facts.
    """
    training = train(lab)
    found = with_theory(lab, training)
    return found, {
        "steps_of_training": training.steps,
        "deviations": [(item.simulation - item.theory) / item.stderr for item in found if item.part == "callback Δ"],
        "second_order": [0.5 * lab.gamma**2 * item.simulation for item in found if item.case == "exact"],
    }


def with_theory(lab: IncrementalFeaturesParameters, training: Training) -> list[Comparison]:
    """Compare a training's measurements with the closed forms for its weights, and with those for n features."""
    found, d, little = [], training.place.width, training.little
    learnt, both = np.cumsum(training.place.spectrum), (initial_scale(d), initial_scale(d))
    for n, weights in enumerate(training.weights):
        curved, rises = trace(*weights), (noise_rise(*weights, lab.gamma), noise_rise(*weights, little, both))
        second_order = 0.5 * little**2 * training.nth("hessian", "weighted_trace", n).value
        for part, case, theory, quantity, group, relative in (
            ("callback trace", "exact", curved, "hessian", "trace", 1e-6),
            ("callback trace", "weighted by Σ", trace(*weights, both), "hessian", "weighted_trace", 1e-6),
            ("callback trace", "estimated", curved, "estimated/hessian", "trace", 0.0),
            ("callback Δ", "isotropic noise", rises[0], "sensitivity", "", 0.0),
            ("callback Δ", "noise by initialisation", rises[1], "init/sensitivity", "", 0.0),
            ("callback Δ", "½γ²Tr(ΣH) as measured", second_order, "init/sensitivity", "", 0.0),
            ("callback stage", "trace", 4 * d * learnt[n], "hessian", "trace", 0.02),
            ("callback stage", "distance", (2 * learnt[n]) ** 0.5, "param_distance", "total", 0.02),
        ):
            measured = training.nth(quantity, group, n)
            error = measured.stderr or 0.0
            allowed = relative * float(theory)
            runs = _RUNS.get(quantity, 0)
            found.append(Comparison(part, case, n + 1, float(theory), measured.value, error, allowed, runs))
    return found
