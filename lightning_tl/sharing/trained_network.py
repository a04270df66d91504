"""The network of a checkpoint, made again from what the checkpoint says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.data.preprocessing import input_size
from lightning_tl.errors import UserError, nearest, one_line, shortened
from lightning_tl.models.low_rank import is_adapter, merge_updates
from lightning_tl.models.weights import network_state, tensor_problem
from lightning_tl.tasks import CausalLanguageModel, TransferTask


@dataclass(frozen=True)
class TrainedNetwork:
    """A task with the weights of a checkpoint, in evaluation mode, with low-rank updates added to the weights.

    Attributes:
        checkpoint: Path or URL.
        task: The task.
        arguments: The checkpoint's ``hyper_parameters``, with which the task was made.
        description: What the checkpoint says of its network: ``classes``, ``preprocessing``, ``transfer``, …
        merged: Number of layers that had a low-rank update.
    """

    checkpoint: str
    task: Any
    arguments: Mapping[str, Any]
    description: Mapping[str, Any]
    merged: int

    @property
    def classes(self) -> list[str] | None:
        """The names of the head's outputs, where they are known."""
        names = self.description.get("classes")
        return [str(name) for name in names] if isinstance(names, list | tuple) and names else None

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How images are prepared in evaluation, where it is known."""
        steps = self.description.get("preprocessing")
        return dict(steps) if isinstance(steps, Mapping) else None

    def image_size(self, given: int | None = None) -> int | None:
        """Return the side of the images that the network was validated on, or another that is given; pixels."""
        return given or input_size(self.preprocessing)


def trained_network(checkpoint: str | Path, wanted: str) -> TrainedNetwork:
    """Return the network of a checkpoint of this library.

    Args:
        checkpoint: Path or URL.
        wanted: The format that needs it, for messages.

    Raises:
        UserError: The checkpoint is damaged, is not of a task of this library, is of a language model, or has adapters
            that the format has no place for.
    """
    content = read_checkpoint(checkpoint)
    made_by, arguments = content.get("lightning_tl"), content.get("hyper_parameters")
    state, _ = network_state(content)
    if not isinstance(made_by, Mapping) or not isinstance(arguments, Mapping):
        raise UserError(
            f"export: --format {wanted} needs a checkpoint of this library, which says what its network is; "
            f"{checkpoint} does not: use --format backbone"
        )
    kind = _task(str(made_by.get("task")), wanted)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    adapted = any(map(is_adapter, tensors))
    if adapted and wanted not in ("onnx", "torchscript"):
        raise UserError(
            f"export: checkpoint {checkpoint} has bottleneck adapters, which cannot be merged into the weights; use "
            "--format onnx or torchscript, or export the checkpoint that it was fine-tuned from"
        )
    merged, layers = ({}, []) if adapted else merge_updates(tensors, f"checkpoint {checkpoint}")
    given = dict(arguments) if adapted else {key: value for key, value in arguments.items() if key != "transfer"}
    try:
        with torch.random.fork_rng(devices=[]):
            task = kind(**given)
    except Exception as error:  # the arguments may be anything
        raise UserError(
            f"export: {kind.__name__} cannot be made with the arguments of checkpoint {checkpoint} "
            f"({shortened(one_line(error), 300)})"
        ) from error
    weights = tensors if adapted else merged
    own = task.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in own or name not in weights:
            problem = f"{name} is only in {'the network' if name in own else 'the checkpoint'}"
        else:
            problem = tensor_problem(weights[name], own[name])
            problem = problem and f"{name} {problem}"
        if problem:
            raise UserError(f"export: checkpoint {checkpoint} does not fit its own {kind.__name__}: {problem}")
    task.load_state_dict(weights)
    return TrainedNetwork(str(checkpoint), task.eval(), arguments, made_by, len(layers))


def _task(name: str, wanted: str) -> type[TransferTask]:
    known = {each.__name__: each for each in _subclasses(TransferTask) if not each.__name__.startswith("_")}
    if name not in known:
        raise UserError(
            f"export: --format {wanted} is for the tasks of this library, and the checkpoint is of '{shortened(name)}'"
            f"{nearest(name, known)}; use --format backbone"
        )
    if issubclass(known[name], CausalLanguageModel):
        raise UserError(f"export: --format {wanted} is for networks of images; use --format huggingface or backbone")
    return known[name]


def _subclasses(base: type[TransferTask]) -> list[type[TransferTask]]:
    return [each for child in base.__subclasses__() for each in (child, *_subclasses(child))]
