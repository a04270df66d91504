"""Sharpness-aware minimisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_tl.errors import UserError
from lightning_tl.losses.training_step import quiet
from lightning_tl.measure.batchnorm import own_statistics
from lightning_tl.transfer.method import TransferMethod


class SAM(TransferMethod):
    """Each step takes the gradient where the loss is about largest, within a distance of the weights.

    Foret et al. 2020 (arXiv 2010.01412), Eqs. 2 and 3: with g the gradient at θ, the optimiser's step at θ uses the
    gradient at θ + rho·g/‖g‖, the norm being over all trained parameters. For fine-tuning and pre-training; a step
    takes about twice the time.

    Both gradients are of the same images with the same random numbers. What is logged, and BatchNorm's running
    statistics, are those of the first. With several processes both gradients are averages over all of them. Gradient
    clipping acts on both gradients: by norm, it does not change the first one's direction, which is all that counts of
    it; by value, it does.

    Args:
        rho: The distance from the weights.

    Raises:
        UserError: It is not above 0, gradients are accumulated over several batches, or scaled (``16-mixed``).
    """

    name = "sam"
    part = "optimiser"

    def __init__(self, rho: float = 0.05) -> None:
        if not rho > 0:
            raise UserError(f"SAM: rho is {rho:g}; it must be above 0")
        self.rho = rho

    def attach(self, task: Any, optimizer: Optimizer) -> Optimizer:
        """Put an optimiser of two passes around the given one."""
        trainer = task.trainer
        if trainer.accumulate_grad_batches > 1:
            raise UserError(
                "transfer SAM: trainer.accumulate_grad_batches is above 1, and SAM needs both gradients of a batch at "
                "once; set it to 1, with a larger data.batch_size"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise UserError(
                f"transfer SAM: trainer.precision is {trainer.precision}, which scales gradients and so allows only "
                "one pass per step; use bf16-mixed or 32-true"
            )
        return TwoPasses(optimizer, self.rho, task)


class TwoPasses(Optimizer):
    """An optimiser around another one, whose parameters and state it shares.

    Args:
        optimizer: It makes the step.
        rho: The distance between the weights of the two passes.
        task: The task that is trained.
    """

    def __init__(self, optimizer: Optimizer, rho: float, task: Any) -> None:
        # not Optimizer's own, which would make groups and a state beside those of the inner one
        self.inner, self.rho, self._task = optimizer, rho, task
        self.defaults = optimizer.defaults

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the inner optimiser."""
        return self.inner.state

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the inner optimiser."""
        return self.inner.param_groups

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the inner optimiser."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the inner optimiser."""
        self.inner.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset all gradients."""
        self.inner.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimiser."""
        self.inner.add_param_group(param_group)

    def register_step_pre_hook(self, hook: Any) -> Any:
        """Call a hook before the inner optimiser's step, after both passes."""
        return self.inner.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Any) -> Any:
        """Call a hook after the inner optimiser's step."""
        return self.inner.register_step_post_hook(hook)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step.

        Args:
            closure: Computes the gradients and returns the loss; it is called twice.

        Returns:
            The loss of the first pass.
        """
        if closure is None:
            raise UserError("transfer SAM: the optimiser needs a closure; manual optimisation is not supported")
        devices = [self._task.device] if self._task.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            loss = closure()
        parameters, away = self._perturbation()
        if parameters:
            before = [parameter.clone() for parameter in parameters]
            torch._foreach_add_(parameters, away)
            with quiet(self._task), own_statistics(self._task):
                closure()
            torch._foreach_copy_(parameters, before)  # adding and subtracting would round
        self.inner.step()
        return loss

    def _perturbation(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the trained parameters, and rho·g/‖g‖."""
        parameters = [each for group in self.param_groups for each in group["params"] if each.grad is not None]
        if not parameters:
            return [], []
        gradients = [each.grad for each in parameters]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return parameters, list(torch._foreach_mul(gradients, self.rho / (norm + 1e-12)))
