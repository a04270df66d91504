"""Language models of our checkpoints as a folder that Hugging Face's libraries read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError
from lightning_tl.models.decoder import NORM_EPS, ROTARY_BASE, DecoderShape, decoder_shape
from lightning_tl.models.low_rank import is_adapter, merge_updates
from lightning_tl.models.weights import network_state, tensor_problem


def write_hugging_face_folder(checkpoint: str | Path, out: Path, positions: int = 2048) -> str:
    """Write a checkpoint's decoder, with its head, as a folder that ``AutoModelForCausalLM.from_pretrained`` reads.

    It is a ``LlamaForCausalLM``, whose arithmetic is the decoder's. Low-rank updates (LoRA) are added to the weights.

    Args:
        checkpoint: Of :class:`~lightning_tl.tasks.language.CausalLanguageModel` with a decoder; a path or URL.
        out: New folder.
        positions: Longest text that the configuration names; the rotary positions themselves have no limit.

    Returns:
        What was written.

    Raises:
        UserError: The checkpoint cannot be read or holds no such decoder, or one with bottleneck adapters; ``out``
            exists.
    """
    if out.exists():
        raise UserError(f"export: --out {out} exists already; give another name, or delete it")
    content = read_checkpoint(checkpoint)
    arguments = content.get("hyper_parameters")
    shape = _shape(arguments) if isinstance(arguments, Mapping) else None
    if shape is None or not isinstance(arguments, Mapping):
        raise UserError(
            f"export: checkpoint {checkpoint} is not of CausalLanguageModel with one of our decoders; for other "
            "networks use --format backbone"
        )
    state, _ = network_state(content)
    if adapters := [name for name in state if is_adapter(name)]:
        raise UserError(
            f"export: checkpoint {checkpoint} has bottleneck adapters ({adapters[0]}, …), which Llama has not; export "
            "the checkpoint that it was fine-tuned from, or use LoRA"
        )
    merged, layers = merge_updates(state, f"checkpoint {checkpoint}")
    tensors = {}
    for name, tensor in merged.items():
        if problem := tensor_problem(tensor, tensor):
            raise UserError(f"export: checkpoint {checkpoint}: {name} {problem}; use another checkpoint")
        if name.startswith("backbone."):
            tensors[f"model.{name.removeprefix('backbone.')}"] = tensor
        elif name == "head.weight" and not arguments.get("tie_head"):
            tensors["lm_head.weight"] = tensor
    _write(out, _configuration(shape, arguments, positions), tensors)
    values = sum(tensor.numel() for tensor in tensors.values())
    text = f"LlamaForCausalLM of {checkpoint}: {len(tensors)} entries, {values:,} numbers"
    return text + (f"\n  low-rank updates (LoRA) added to the weights of {len(layers)} layers" if layers else "")


def _shape(arguments: Mapping[str, Any]) -> DecoderShape | None:
    """Return the shape of the decoder that a task's arguments describe; None where they describe none."""
    if arguments.get("shape"):
        return DecoderShape(**arguments["shape"])
    try:
        return decoder_shape(str(arguments.get("backbone")))
    except UserError:
        return None


def _configuration(shape: DecoderShape, arguments: Mapping[str, Any], positions: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(arguments["num_classes"]),
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROTARY_BASE,
        "max_position_embeddings": positions,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": bool(arguments.get("tie_head")),
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
    }


def _write(out: Path, configuration: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    beside = out.with_name(f".{out.name}.incomplete")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    plain = {name: tensor.to(torch.float32).contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, beside / "model.safetensors", metadata={"format": "pt"})
    (beside / "config.json").write_text(json.dumps(configuration, indent=2) + "\n")
    beside.rename(out)
