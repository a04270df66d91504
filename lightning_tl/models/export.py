"""Writes parts of a checkpoint as files that other projects read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_tl._io.atomic import replacing
from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError, nearest
from lightning_tl.models.hugging_face_folder import write_hugging_face_folder
from lightning_tl.models.low_rank import is_adapter, merge_updates
from lightning_tl.models.weights import backbone_state, network_state, tensor_problem

#: What can be written, by the name of the format.
FORMATS = {
    "backbone": "state dict of the backbone, by torchvision's names",
    "huggingface": "folder of a language model, for Hugging Face's AutoModelForCausalLM",
}


def export(checkpoint: str | Path, out: Path, form: str = "backbone") -> str:
    """Write a part of a checkpoint into a new file.

    ``backbone``: a plain dict of tensors, that ``torch.load(out, weights_only=True)`` reads and torchvision's or timm's
    network of that architecture takes, without a classifier. Low-rank updates (LoRA) are added to the weights.

    ``huggingface``: see :func:`~lightning_tl.models.hugging_face_folder.write_hugging_face_folder`.

    Args:
        checkpoint: Of any task, of Lightning, or a state dict; a path or URL.
        out: The file or folder.
        form: One of :data:`FORMATS`.

    Returns:
        What was written.

    Raises:
        UserError: The format is unknown; the checkpoint cannot be read, holds no backbone, or one that is damaged or
            has bottleneck adapters; ``out`` exists.
    """
    if form not in FORMATS:
        raise UserError(f"export: no format '{form}'{nearest(form, FORMATS)}")
    if form == "huggingface":
        return write_hugging_face_folder(checkpoint, out)
    if out.exists():
        raise UserError(f"export: --out {out} exists already; give another name, or delete it")
    state, text = plain_backbone(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as beside:
        torch.save(state, beside)
    return text


def plain_backbone(checkpoint: str | Path) -> tuple[dict[str, Tensor], str]:
    """Return the backbone's state dict of a checkpoint, with low-rank updates merged, and a report.

    Args:
        checkpoint: Path or URL.

    Raises:
        UserError: As :func:`export`.
    """
    state, head = backbone_state(network_state(read_checkpoint(checkpoint))[0])
    if not state:
        raise UserError(f"export: checkpoint {checkpoint} holds no weights of a backbone")
    if adapters := [name for name in state if is_adapter(name)]:
        raise UserError(
            f"export: the backbone of checkpoint {checkpoint} has bottleneck adapters ({adapters[0]}, …), which cannot "
            "be merged into its weights; export the checkpoint that it was fine-tuned from, or use LoRA"
        )
    merged, layers = merge_updates(state, f"checkpoint {checkpoint}")
    for name, tensor in merged.items():
        if problem := tensor_problem(tensor, tensor):
            raise UserError(f"export: checkpoint {checkpoint}: {name} {problem}; use another checkpoint")
    plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in merged.items()}
    values = sum(tensor.numel() for tensor in plain.values())
    text = f"backbone of {checkpoint}: {len(plain)} entries, {values:,} numbers; {len(head)} of the head left out"
    if layers:
        text += f"\n  low-rank updates (LoRA) added to the weights of {len(layers)} layers"
    return plain, text
