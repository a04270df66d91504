"""Causal language models of a series, one in memory at a time, and the windows of text that they are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest, one_line
from lightning_tl.hub_names import TOKENIZER_FILES
from lightning_tl.measure.params import listed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Characters of a text that are read at most.
_LONGEST_TEXT = 20_000_000


def dtype_named(name: str) -> torch.dtype:
    """Return ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        UserError: It has another name.
    """
    if name not in DTYPES:
        raise UserError(f"--dtype {name} is unknown{nearest(name, DTYPES)}")
    return DTYPES[name]


def load_model(folder: Path, dtype: torch.dtype, device: str) -> nn.Module:
    """Return the causal language model that a folder holds, in eval mode; no code of the folder's is run.

    Args:
        folder: As ``save_pretrained`` writes it.
        dtype: Of its weights in memory.
        device: As torch names it; ``auto``: spread over all devices (needs the package accelerate).

    Raises:
        UserError: transformers, or accelerate for ``auto``, is missing; the folder holds no such model.
    """
    auto = _transformers().AutoModelForCausalLM
    options = {"dtype": dtype, "trust_remote_code": False, "output_loading_info": True}
    if device == "auto":
        options["device_map"] = "auto"
    try:
        model, loading = auto.from_pretrained(folder, **options)
        model = model if device == "auto" else model.to(device)
    except Exception as error:  # whatever transformers raises
        needs = device == "auto" and "accelerate" in str(error)
        remedy = "; pip install accelerate, or name one --device" if needs else ""
        reason = one_line(error)[:300]
        raise UserError(f"{folder}: cannot be loaded as a causal language model ({reason}){remedy}") from error
    if lacking := sorted(loading["missing_keys"]):
        raise UserError(f"{folder}: lacks weights of a {type(model).__name__}: {listed(lacking)}")
    network: nn.Module = model.eval()
    return network


def release(model: nn.Module) -> None:
    """Free the memory of a model's weights at once, whoever still refers to it."""
    model.to("meta")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_tokenizer(folders: Sequence[Path]) -> Any:
    """Return the tokenizer of the first folder that has one.

    Raises:
        UserError: None has.
    """
    auto = _transformers().AutoTokenizer
    errors = []
    for folder in folders:
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            continue
        try:
            return auto.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # whatever transformers raises
            errors.append(one_line(error)[:200])
    raise UserError(
        f"{folders[0]}: holds no tokenizer ({'; '.join(errors) or 'no ' + ' or '.join(TOKENIZER_FILES[:3])}); save it "
        "there, or in the folder above: tokenizer.save_pretrained(folder)"
    )


def text_windows(path: Path, tokenizer: Any, count: int, length: int, option: str = "--text") -> Tensor:
    """Return windows of a text as tokens ``[count, length]``, evenly spread over it, without overlap.

    Args:
        path: A UTF-8 file; its first 20 million characters are used.
        tokenizer: Of the model; no special tokens are added.
        count: Number of windows.
        length: Tokens of each.
        option: That named the file, for messages.

    Raises:
        UserError: The file cannot be read, or is too short.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST_TEXT)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option} {path}: cannot be read as UTF-8 text ({one_line(error)})") from None
    tokens = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    there = len(tokens) // length
    if there < count:
        fewer = f"--windows {max(there, 2)}" if option == "--text" else "fewer --windows or --finetune-windows"
        raise UserError(
            f"{option} {path}: has {len(tokens):,} tokens, so {there} windows of {length}, not {count}; name a longer "
            f"text, {fewer}, or a smaller --length"
        )
    starts = [length * (i * there // count) for i in range(count)]
    return torch.tensor([tokens[start : start + length] for start in starts])


def batches_of(windows: Tensor, size: int) -> list[dict[str, Any]]:
    """Return batches of windows as a causal language model takes them; each token is to be predicted from those before.

    Args:
        windows: ``[N, length]``, N a multiple of ``size``.
        size: Windows per batch.
    """
    return [{"input_ids": part, "labels": part, "use_cache": False} for part in windows.split(size)]


def _transformers() -> Any:
    try:
        transformers: Any = import_module("transformers")
    except ImportError:
        raise UserError(
            "--model hf:… needs the package transformers; install it with: pip install 'lightning-tl[transformers]'"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    return transformers
