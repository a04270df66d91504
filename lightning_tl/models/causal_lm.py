"""Causal language models of Hugging Face as a backbone and a head."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_tl.errors import UserError, one_line, shortened

#: Before the path or name of a model of Hugging Face.
HUGGING_FACE = "hf:"


def load_causal_lm(path: str, vocabulary: int, pretrained: bool) -> tuple[nn.Module, nn.Linear]:
    """Return the backbone (tokens → features) and the head (features → logits) of a causal language model.

    No code of the model's folder is run.

    Args:
        path: A folder with ``config.json`` and weights, or a name on the Hugging Face Hub.
        vocabulary: Number of tokens of the data. A model may have more, which never occur.
        pretrained: Whether the weights are loaded; else they are drawn.

    Raises:
        UserError: transformers is missing; the path holds no causal language model, or one with fewer tokens, or one
            that computes its logits otherwise than by a linear layer on the last features.
    """
    model = causal_lm(path, pretrained)
    backbone, head = model.base_model, model.get_output_embeddings()
    if backbone is model or not isinstance(head, nn.Linear) or not _is_head_on_backbone(model, backbone, head):
        raise UserError(
            f"model.backbone hf:{path}: {type(model).__name__} computes its logits otherwise than by a linear layer on "
            "its last features, so it cannot be split into a backbone and a head; use another model"
        )
    if head.out_features < vocabulary:
        raise UserError(
            f"model.backbone hf:{path}: has {head.out_features} tokens, and the data {vocabulary}: build the corpus "
            "with the model's own tokenizer.json"
        )
    return backbone, head


def causal_lm(path: str, pretrained: bool) -> Any:
    """Return a causal language model of Hugging Face, in fp32. No code of the model's folder is run.

    Args:
        path: A folder with ``config.json`` and weights, or a name on the Hugging Face Hub.
        pretrained: Whether the weights are loaded; else they are drawn.

    Raises:
        UserError: transformers is missing, or the path holds no causal language model.
    """
    try:
        transformers: Any = import_module("transformers")
    except ImportError:
        raise UserError(
            "model.backbone hf:… needs the package transformers; install it with: pip install 'lightning-tl[language]'"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    auto, options = transformers.AutoModelForCausalLM, {"trust_remote_code": False}
    try:
        if pretrained:
            model = auto.from_pretrained(path, dtype=torch.float32, **options)
        else:
            config = transformers.AutoConfig.from_pretrained(path, **options)
            model = auto.from_config(config, dtype=torch.float32, **options)
    except Exception as error:  # whatever transformers raises
        place = "" if "/" in path or Path(path).exists() else "no such folder, and "
        raise UserError(
            f"model.backbone hf:{path}: {place}cannot be loaded as a causal language model "
            f"({shortened(one_line(error), 300)})"
        ) from error
    return model.train()  # from_pretrained gives it in evaluation mode, and Lightning would leave it there


@torch.no_grad()
def _is_head_on_backbone(model: Any, backbone: Any, head: nn.Linear) -> bool:
    """Return whether the model's logits are its head's of its backbone's last features."""
    training = model.training
    model.eval()
    tokens = torch.arange(min(7, head.out_features))[None]
    logits = model(input_ids=tokens, use_cache=False).logits
    features = backbone(input_ids=tokens, use_cache=False).last_hidden_state
    model.train(training)
    return bool(torch.allclose(head(features), logits, rtol=1e-5, atol=1e-5))
