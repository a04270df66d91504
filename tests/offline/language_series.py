"""Tiny series of language models with a known answer, saved as a published series is.

A text is drawn from a Markov chain. Each model is a Llama without layers that mix positions (their outputs are 0): the
next token's logits are ``head @ normalised(embedding)``, and the head is set so that they approach the chain's true
logits as training goes on. RMSNorm makes the loss independent of the embedding's size, but noise of the
initialisation's spread is the larger against it the smaller the embedding is: so fragility is planted by shrinking it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnop"
WIDTH = 16
STEPS = (100, 200, 400, 800, 1600, 3200, 6400, 12800)


def chain(seed: int = 5) -> torch.Tensor:
    """Return the logits of the next letter by the letter before, [16, 16]."""
    return 1.5 * torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))


def write_text(path: Path, length: int = 8000, seed: int = 1, of: int = 5) -> Path:
    """Write a text of the chain ``of``."""
    generator = torch.Generator().manual_seed(seed)
    likely = chain(of).softmax(1)
    letters = [0]
    for _ in range(length - 1):
        letters.append(int(torch.multinomial(likely[letters[-1]], 1, generator=generator)))
    path.write_text("".join(LETTERS[i] for i in letters))
    return path


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single letters."""
    letters = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="a"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=letters)


def model(learned: float, size: float, seed: int = 0) -> LlamaForCausalLM:
    """Return a model.

    Args:
        learned: Share of the chain's logits that it gives: 0 is a uniform guess, 1 the truth.
        size: Root mean square of the embedding's elements.
        seed: Of the rotation of the embedding.
    """
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-12,
        initializer_range=0.05,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    network = LlamaForCausalLM(config)
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
    with torch.no_grad():
        layer = network.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        network.model.embed_tokens.weight.copy_(rotation * WIDTH**0.5 * size)  # rows of equal size
        # normalised rows are rotation · √width
        network.lm_head.weight.copy_(learned * chain().T @ rotation / WIDTH**0.5)
    return network


def write_series(
    folder: Path, learned: Sequence[float], sizes: Sequence[float], names: Sequence[str] | None = None
) -> Path:
    """Save one model for each step into a sub-folder of its own, with the tokenizer."""
    names = names or [f"step{step}-tokens{step // 100}M" for step in STEPS]
    for name, share, size in zip(names, learned, sizes, strict=True):
        model(share, size).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    return folder


LEARNED = (0.30, 0.45, 0.58, 0.69, 0.78, 0.85, 0.90, 0.93)
#: Embeddings shrink late, as weight decay makes them.
FRAGILE = (1.0, 0.9, 0.75, 0.55, 0.36, 0.22, 0.13, 0.08)
ROBUST = (1.0,) * 8
#: Neighbouring checkpoints differ by chance.
NOISY = (0.25, 0.12, 0.30, 0.1, 0.28, 0.11, 0.13, 0.10)
