"""A decoder for text with the arithmetic and the parameter names of Llama."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_tl.errors import UserError, nearest

ROTARY_BASE = 10_000.0
NORM_EPS = 1e-6


@dataclass(frozen=True)
class DecoderShape:
    """The shape of a :class:`Decoder`.

    Attributes:
        width: Features of a token.
        layers: Number of blocks.
        heads: Attention heads; each has ``width / heads`` features, an even number.
        hidden: Features inside the feed-forward part.
    """

    width: int
    layers: int
    heads: int
    hidden: int

    def __post_init__(self) -> None:
        """Refuse what no decoder can have.

        Raises:
            UserError: A number below 1, or heads that do not fit the width.
        """
        for name, value in vars(self).items():
            if value < 1:
                raise UserError(f"shape.{name} is {value}; it must be at least 1")
        if self.width % (2 * self.heads):
            raise UserError(
                f"shape.width is {self.width} and shape.heads {self.heads}; each head needs an even number of "
                f"features: make the width a multiple of {2 * self.heads}"
            )


#: By name. The first three are for one CPU core; the others have 15, 30 and 90 million parameters besides the
#: embedding and the head, as the networks of Springer et al. 2025 (Table 3).
DECODERS: dict[str, DecoderShape] = {
    "decoder_6k": DecoderShape(width=16, layers=1, heads=1, hidden=32),
    "decoder_18k": DecoderShape(width=24, layers=2, heads=2, hidden=64),
    "decoder_100k": DecoderShape(width=64, layers=2, heads=4, hidden=160),
    "decoder_15m": DecoderShape(width=384, layers=8, heads=6, hidden=1152),
    "decoder_30m": DecoderShape(width=512, layers=9, heads=8, hidden=1472),
    "decoder_90m": DecoderShape(width=768, layers=13, heads=12, hidden=2048),
}


class Decoder(nn.Module):
    """A causal transformer: token ids ``[B, T]`` → features ``[B, T, width]``.

    Each block is pre-normalised attention with rotary positions, then a pre-normalised SwiGLU. No layer has a bias.
    All is as in Hugging Face's ``LlamaModel`` with as many key-value heads as heads, to rounding (the base of the
    rotation is 10,000, the norms' ε 1e-6), and the names of the parameters are its names.

    Weights are drawn from N(0, 1/inputs), those of the embedding from N(0, 1/``base_width``). The projections
    that add to the residual stream are divided by √(2·layers).

    Args:
        shape: Its size.
        vocabulary: Number of token ids.
        dropout: Share of the features set to 0 in training, after the embedding and after each part of a block.
        checkpoint_blocks: Whether a training keeps only the inputs of the blocks and computes the rest anew in the
            backward pass: slower by a third, with much less memory.
        base_width: Default: the width. Under muP, the same for all widths.
    """

    def __init__(
        self,
        shape: DecoderShape,
        vocabulary: int,
        dropout: float = 0.0,
        checkpoint_blocks: bool = False,
        base_width: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(f"model.dropout is {dropout}; it must be at least 0 and below 1")
        self.shape, self.num_features, self.checkpoint_blocks = shape, shape.width, checkpoint_blocks
        self.embed_tokens = nn.Embedding(vocabulary, shape.width)
        self.layers = nn.ModuleList(_Block(shape, dropout) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.base_width = base_width or shape.width
        self._rotations: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
                continue
            spread = (self.base_width if name == "embed_tokens.weight" else parameter.shape[1]) ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                spread /= math.sqrt(2 * len(self.layers))
            nn.init.normal_(parameter, std=spread)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the features of each token, which depend on it and on those before it."""
        x = self.embed_tokens(tokens)
        rotation = self._rotation(tokens.shape[1], x)
        x = self.dropout(x)
        for layer in self.layers:
            if self.checkpoint_blocks and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotation, use_reentrant=False)
            else:
                x = layer(x, rotation)
        features: Tensor = self.norm(x)
        return features

    def _rotation(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of the angles ``[length, features of a head]``, in the precision of ``like``."""
        key = (length, like.device, like.dtype)
        if key not in self._rotations:
            size = self.shape.width // self.shape.heads
            with torch.inference_mode(False):  # made in a validation, they must also serve the training after it
                rates = ROTARY_BASE ** (-torch.arange(0, size, 2, device=like.device, dtype=torch.float32) / size)
                angles = torch.outer(torch.arange(length, device=like.device, dtype=torch.float32), rates).repeat(1, 2)
                self._rotations = {key: (angles.cos().to(like.dtype), angles.sin().to(like.dtype))}
        return self._rotations[key]


class _Block(nn.Module):
    def __init__(self, shape: DecoderShape, dropout: float) -> None:
        super().__init__()
        self.self_attn = _Attention(shape)
        self.mlp = _SwiGLU(shape)
        self.input_layernorm = nn.RMSNorm(shape.width, eps=NORM_EPS)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), rotation))
        moved: Tensor = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return moved


class _Attention(nn.Module):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(shape.width, shape.width, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(
            _rotated(query, *rotation), _rotated(key, *rotation), value, is_causal=True
        )
        projected: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return projected


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate pairs of features ``(i, i + size/2)`` by the angles of each position."""
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat((-second, first), -1) * sine


class _SwiGLU(nn.Module):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


def decoder_shape(name: str) -> DecoderShape:
    """Return the shape of a name in :data:`DECODERS`.

    Raises:
        UserError: There is none.
    """
    if name not in DECODERS:
        raise UserError(
            f"no decoder '{name}'{nearest(name, DECODERS)}; a Hugging Face model is given as hf:FOLDER, and another "
            "shape by model.shape"
        )
    return DECODERS[name]
