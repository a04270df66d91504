"""Lightning callbacks that measure a training run and do not change it."""

from lightning_tl.callbacks.hessian_trace import HessianTrace
from lightning_tl.callbacks.modification_sensitivity import ModificationSensitivity
from lightning_tl.callbacks.parameter_distance import ParameterDistance
from lightning_tl.callbacks.perturbation_sensitivity import PerturbationSensitivity
from lightning_tl.callbacks.sensitivity_stop import SensitivityStop
from lightning_tl.losses.pretraining import PretrainingLoss

__all__ = [
    "HessianTrace",
    "ModificationSensitivity",
    "ParameterDistance",
    "PerturbationSensitivity",
    "PretrainingLoss",
    "SensitivityStop",
]
