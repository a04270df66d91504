"""The files of the pre-training that a fine-tuning starts from: its configuration and its checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError
from lightning_tl.models.weights import network_state, tensor_problem
from lightning_tl.transfer.pretraining import UsesPretraining


def pretraining_config(method: UsesPretraining, checkpoint: str) -> Path:
    """Return the configuration of a pre-training: the one that a method names, or that of the checkpoint's run.

    Raises:
        UserError: There is no such file.
    """
    name = f"transfer {type(method).__name__}"
    config = Path(method.config or Path(checkpoint).parent.parent / "config.yaml")
    if config.is_file():
        return config
    if method.config is not None:
        raise UserError(f"{name}: config is {config}, and there is no such file")
    raise UserError(
        f"{name}: there is no {config}, the configuration of the pre-training of --model.init_from; name it by "
        "init_args.config"
    )


def load_pretrained(task: nn.Module, checkpoint: str, name: str) -> None:
    """Put all weights of a pre-training's checkpoint, those of the head too, into its task.

    Args:
        task: The task, as the pre-training's configuration makes it.
        checkpoint: The checkpoint.
        name: How messages call what needs it.

    Raises:
        UserError: It is missing, also where a training is resumed, or holds another network.
    """
    try:
        state, _ = network_state(read_checkpoint(checkpoint))
    except UserError as error:
        raise UserError(f"{name} needs the pre-training's network, also to resume: {error}") from error
    own = task.state_dict()
    different = sorted(own.keys() ^ state.keys())
    problem = f"only one of the two has {different[0]}" if different else ""
    for key in () if different else own:
        problem = problem or (f"{key} {reason}" if (reason := tensor_problem(state[key], own[key])) else "")
    if problem:
        raise UserError(f"{name}: {checkpoint} is not of the network of the pre-training's configuration: {problem}")
    task.load_state_dict(state)
