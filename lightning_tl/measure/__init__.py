"""What can be measured on a model and a loss, in pure torch: distance, Hessian trace, perturbation sensitivity."""

from lightning_tl.measure.critical_sharpness import CriticalSharpness, critical_sharpness
from lightning_tl.measure.distance import Distance, distance
from lightning_tl.measure.eigen import Eigenvalues, top_eigenvalues
from lightning_tl.measure.estimate import TraceEstimate
from lightning_tl.measure.guard import measuring, untouched
from lightning_tl.measure.hvp import Hessian, hvp
from lightning_tl.measure.modifications import Noise, Prune, Quantise
from lightning_tl.measure.modify import ModifiedLoss, modified_loss
from lightning_tl.measure.noise_scales import noise_scales
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.params import select, snapshot
from lightning_tl.measure.perturbation import Curve, Sensitivity, loss_along, perturbation_sensitivity
from lightning_tl.measure.trace import hessian_trace

__all__ = [
    "CriticalSharpness",
    "Curve",
    "Distance",
    "Eigenvalues",
    "Hessian",
    "ModifiedLoss",
    "Noise",
    "Objective",
    "Prune",
    "Quantise",
    "Sensitivity",
    "TraceEstimate",
    "critical_sharpness",
    "distance",
    "hessian_trace",
    "hvp",
    "loss_along",
    "measuring",
    "modified_loss",
    "noise_scales",
    "perturbation_sensitivity",
    "select",
    "snapshot",
    "top_eigenvalues",
    "untouched",
]
