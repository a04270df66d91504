"""Language models of our checkpoints as a folder that Hugging Face's libraries read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError
from lightning_tl.hub_names import TOKENIZER_FILES
from lightning_tl.models.causal_lm import HUGGING_FACE, causal_lm
from lightning_tl.models.decoder import NORM_EPS, ROTARY_BASE, DecoderShape, decoder_shape
from lightning_tl.models.low_rank import is_adapter, merge_updates
from lightning_tl.models.weights import network_state, tensor_problem


def write_hugging_face_folder(checkpoint: str | Path, out: Path, positions: int = 2048) -> str:
    """Write a checkpoint's language model as a folder that ``AutoModelForCausalLM.from_pretrained`` reads.

    One of our decoders becomes a ``LlamaForCausalLM``, whose arithmetic is the decoder's. A model of Hugging Face keeps
    its class and configuration. Low-rank updates (LoRA) are added to the weights.

    Args:
        checkpoint: Of :class:`~lightning_tl.tasks.language.CausalLanguageModel`; a path or URL.
        out: New folder.
        positions: Of a decoder: longest text that the configuration names; the rotary positions themselves have no
            limit.

    Returns:
        What was written.

    Raises:
        UserError: The checkpoint cannot be read or holds no language model, or one with bottleneck adapters; the
            configuration of a model of Hugging Face is not where it was; ``out`` exists.
    """
    if out.exists():
        raise UserError(f"export: --out {out} exists already; give another name, or delete it")
    content = read_checkpoint(checkpoint)
    arguments = content.get("hyper_parameters")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    backbone = str(arguments.get("backbone", ""))
    shape = _shape(arguments)
    if shape is None and not backbone.startswith(HUGGING_FACE):
        raise UserError(
            f"export: checkpoint {checkpoint} is not of CausalLanguageModel; for other networks use --format backbone"
        )
    state, _ = network_state(content)
    if adapters := [name for name in state if is_adapter(name)]:
        raise UserError(
            f"export: checkpoint {checkpoint} has bottleneck adapters ({adapters[0]}, …), which these models have not; "
            "export the checkpoint that it was fine-tuned from, or use LoRA"
        )
    merged, layers = merge_updates(state, f"checkpoint {checkpoint}")
    for name, tensor in merged.items():
        if problem := tensor_problem(tensor, tensor):
            raise UserError(f"export: checkpoint {checkpoint}: {name} {problem}; use another checkpoint")
    with _written_beside(out) as folder:
        if shape is None:
            kind, tensors = _write_model(
                folder, backbone.removeprefix(HUGGING_FACE), merged, f"checkpoint {checkpoint}"
            )
        else:
            kind, tensors = "LlamaForCausalLM", _write_decoder(folder, shape, arguments, positions, merged)
    values = sum(tensor.numel() for tensor in tensors.values())
    text = f"{kind} of {checkpoint}: {len(tensors)} entries, {values:,} numbers"
    return text + (f"\n  low-rank updates (LoRA) added to the weights of {len(layers)} layers" if layers else "")


def _write_decoder(
    folder: Path, shape: DecoderShape, arguments: Mapping[str, Any], positions: int, merged: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    from safetensors.torch import save_file

    tensors = {}
    for name, tensor in merged.items():
        if name.startswith("backbone."):
            tensors[f"model.{name.removeprefix('backbone.')}"] = tensor
        elif name == "head.weight" and not arguments.get("tie_head"):
            tensors["lm_head.weight"] = tensor
    plain = {name: tensor.to(torch.float32).contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    configuration = _configuration(shape, arguments, positions)
    (folder / "config.json").write_text(json.dumps(configuration, indent=2) + "\n")
    return tensors


def _write_model(folder: Path, path: str, merged: Mapping[str, Tensor], where: str) -> tuple[str, dict[str, Tensor]]:
    """Write a model of Hugging Face, with the tokenizer where its own folder has one.

    Args:
        folder: To write into.
        path: Folder or name from which the model was loaded; only its configuration is read.
        merged: The checkpoint's weights.
        where: The checkpoint, for messages.

    Returns:
        The class of the model, and its weights.
    """
    model = causal_lm(path, pretrained=False)
    model.base_model.load_state_dict(_part(merged, "backbone.", model.base_model, where))
    model.get_output_embeddings().load_state_dict(_part(merged, "head.", model.get_output_embeddings(), where))
    model.save_pretrained(folder, max_shard_size="1000GB")
    for name in TOKENIZER_FILES:
        if (Path(path) / name).is_file():
            shutil.copy(Path(path) / name, folder)
    return type(model).__name__, dict(model.named_parameters())


def _part(merged: Mapping[str, Tensor], prefix: str, module: nn.Module, where: str) -> dict[str, Tensor]:
    state = {name.removeprefix(prefix): tensor for name, tensor in merged.items() if name.startswith(prefix)}
    own = module.state_dict()
    wrong = [name for name in own.keys() | state.keys() if name not in own or name not in state]
    wrong += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if wrong:
        raise UserError(
            f"export: {where}: {prefix}{min(wrong)} does not fit the configuration of its model of Hugging Face; was "
            "that folder changed since?"
        )
    return state


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


@contextmanager
def _written_beside(out: Path) -> Iterator[Path]:
    """Give a new folder, which gets its name once it is complete, and is deleted where that fails."""
    beside = out.with_name(f".{out.name}.incomplete")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
