"""The methods of one task, as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_tl.errors import UserError, nearest
from lightning_tl.transfer.method import Full, TransferMethod
from lightning_tl.transfer.phases import Phases

#: What a task takes as ``transfer``; a specification is ``{"class_path": NAME, "init_args": {…}}``.
Given = TransferMethod | Mapping[str, Any] | str | Iterable[Any] | None


class TransferChain:
    """One or several methods, whose hooks are called in order.

    Args:
        given: A method, its name, its specification, or a list of these; None: :class:`Full`.

    Raises:
        UserError: No such method; two that cannot be combined.
    """

    def __init__(self, given: Given = None) -> None:
        several = isinstance(given, Iterable) and not isinstance(given, Mapping | str)
        self.methods: list[TransferMethod] = [as_method(each) for each in (given if several else [given])]  # type: ignore[union-attr]
        if not self.methods:
            raise UserError("model.transfer: the list is empty; leave it out, or name a method")
        _check_combination(self.methods)
        self.phases = Phases(self.methods)

    def label(self) -> str:
        """Return the names of the methods with their strengths, joined by `` + ``."""
        return " + ".join(method.label() for method in self.methods)

    def specification(self) -> list[dict[str, Any]]:
        """Return plain values from which the methods can be made again."""
        own = [method for method in self.methods if type(method) is not Full]
        return [{"class_path": type(method).__name__, "init_args": method.arguments()} for method in own]

    def check_resumed(self, checkpoint: Mapping[str, Any], place: str = "the checkpoint") -> None:
        """Refuse to resume a training that had other methods. Other arguments of the same methods are accepted.

        Args:
            checkpoint: Content of the checkpoint; one that is not of a task of this library is accepted.
            place: For messages.

        Raises:
            UserError: The methods differ, or only one of the two trainings has any.
        """
        if not isinstance(checkpoint.get("lightning_tl"), Mapping):
            return
        arguments = checkpoint.get("hyper_parameters")
        saved = arguments.get("transfer") if isinstance(arguments, Mapping) else None
        specifications = [each for each in saved if isinstance(each, Mapping)] if isinstance(saved, list) else []
        there, here = (sorted(_class_name(each) for each in given) for given in (specifications, self.specification()))
        if there != here:
            then, now = (" and ".join(names) or "no method" for names in (there, here))
            raise UserError(
                f"{place}: that training had {then} as transfer, and this one has {now}: resume with the same "
                "--model.transfer, or start a new training from its weights by --model.init_from"
            )

    def callbacks(self) -> list[Any]:
        """Return the callbacks of a training."""
        own = [method for method in self.methods if type(method) is not Full]
        return [*own, self.phases] if own else []

    def adapt(self, task: Any) -> None:
        """Change the network's structure."""
        for method in self.methods:
            method.adapt(task)

    def start(self, task: Any) -> None:
        """Begin from the initial weights: freeze what is never trained."""
        for method in self.methods:
            method.start(task)
        trains = self.trains(task)
        for name, parameter in task.named_parameters():
            if not trains(name):
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in task.parameters()):
            raise UserError(f"transfer {self.label()}: no parameter is trained")
        self.set_mode(task)

    def trains(self, task: Any) -> Callable[[str], bool]:
        """Return whether a parameter is ever trained, by its name."""
        each = [method.trains(task) for method in self.methods]
        return lambda name: all(trains(name) for trains in each)

    def parameter_counts(self, task: Any) -> tuple[int, int]:
        """Return how many parameters are trained at some step of the training, and how many there are."""
        trains = self.trains(task)
        sizes = [(parameter.numel(), trains(name)) for name, parameter in task.named_parameters()]
        held = sum(method.held_entries(task) for method in self.methods)
        return sum(size for size, trained in sizes if trained) - held, sum(size for size, _ in sizes)

    def set_mode(self, task: Any) -> None:
        """Put into eval mode what is frozen now, so that BatchNorm keeps its statistics and dropout is off.

        A task calls it at the end of its ``train``.
        """
        if task.training:
            frozen = {name for name, parameter in task.named_parameters() if not parameter.requires_grad}
            _freeze(task, frozen | self.phases.waiting(task))

    def parameter_groups(self, task: Any, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the optimiser's groups, without the parameters that are never trained."""
        for method in self.methods:
            groups = method.parameter_groups(task, groups)
        trains = self.trains(task)
        frozen = {id(parameter) for name, parameter in task.named_parameters() if not trains(name)}
        kept = [group | {"params": [each for each in group["params"] if id(each) not in frozen]} for group in groups]
        return self.phases.split(task, [group for group in kept if group["params"]])

    def attach(self, task: Any, optimizer: Optimizer) -> Optimizer:
        """Return the optimiser to use."""
        for method in self.methods:
            optimizer = method.attach(task, optimizer)
        return optimizer

    def training_loss(self, task: Any, loss: Tensor) -> Tensor:
        """Return the loss of a training step, given that of the target's batch; the terms added are logged."""
        for method in self.methods:
            loss = method.batch_loss(task, loss)
        for method in self.methods:
            penalty = method.penalty(task)
            if penalty is not None:
                task.log(f"train/{method.name}", penalty.detach(), on_step=True, on_epoch=False)
                loss = loss + penalty
        return loss

    def announce(self, task: Any) -> None:
        """Say, and log, how many parameters are trained, where the method is not the default."""
        if not self.callbacks():
            return
        trained, total = self.parameter_counts(task)
        rank_zero_info(f"transfer {self.label()}: {trained:,} of {total:,} parameters are trained")
        if task.global_step == 0:
            for logger in task.trainer.loggers:
                logger.log_metrics({"transfer/trainable_parameters": trained, "transfer/parameters": total}, step=0)


def as_method(given: Any) -> TransferMethod:
    """Return a method from itself, its name, its specification, or None.

    No module is imported: a checkpoint, which may come from anywhere, names only methods that are known already.

    Raises:
        UserError: There is no method of that name, or its arguments are wrong.
    """
    if given is None:
        return Full()
    if isinstance(given, TransferMethod):
        return given
    spec: Any = given if isinstance(given, Mapping) else {"class_path": given}
    name = _class_name(spec)
    known = known_methods()
    if name not in known:
        raise UserError(
            f"model.transfer: no method '{name}'{nearest(name, known)}; one of your own must be imported first"
        )
    try:
        return known[name](**(spec.get("init_args") or {}))
    except TypeError as error:
        raise UserError(f"model.transfer {name}: {error}") from error


def known_methods() -> dict[str, type[TransferMethod]]:
    """Return all methods that have been imported, by the name of their class."""
    return {each.__name__: each for each in _subclasses(TransferMethod) if not inspect.isabstract(each)}


def _class_name(specification: Mapping[str, Any]) -> str:
    return str(specification.get("class_path")).rpartition(".")[2]


def _subclasses(base: type[TransferMethod]) -> list[type[TransferMethod]]:
    children: list[type[TransferMethod]] = base.__subclasses__()
    return children + [other for child in children for other in _subclasses(child)]


def _check_combination(methods: list[TransferMethod]) -> None:
    for index, method in enumerate(methods):
        for other in methods[index + 1 :]:
            names = f"{type(method).__name__} and {type(other).__name__}"
            if type(method) is Full or type(other) is Full:
                raise UserError(f"model.transfer: {names}: Full means that there is no other method; leave it out")
            if method.part == other.part:
                raise UserError(f"model.transfer: {names} cannot be combined: both change the {method.part}")
            reason = method.excludes.get(type(other).__name__) or other.excludes.get(type(method).__name__)
            if reason:
                raise UserError(f"model.transfer: {names} cannot be combined: {reason}")


def _freeze(module: nn.Module, frozen: set[str], prefix: str = "") -> None:
    """Put the largest parts into eval mode of which all parameters are frozen."""
    own = [f"{prefix}{name}" for name, _ in module.named_parameters()]
    if own and frozen.issuperset(own):
        module.eval()
        return
    for name, child in module.named_children():
        _freeze(child, frozen, f"{prefix}{name}.")
