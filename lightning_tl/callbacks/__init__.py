"""Lightning callbacks that measure a training run and leave it as it was."""

from lightning_tl.callbacks.distance import ParameterDistance
from lightning_tl.callbacks.forgetting import PretrainingLoss
from lightning_tl.callbacks.sensitivity import PerturbationSensitivity
from lightning_tl.callbacks.sensitivity_stop import SensitivityStop
from lightning_tl.callbacks.trace import HessianTrace

__all__ = ["HessianTrace", "ParameterDistance", "PerturbationSensitivity", "PretrainingLoss", "SensitivityStop"]
