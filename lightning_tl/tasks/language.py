"""Language modelling: the next token of a text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError, nearest
from lightning_tl.models.causal_lm import HUGGING_FACE, load_causal_lm
from lightning_tl.models.decoder import Decoder, DecoderShape, decoder_shape
from lightning_tl.models.weights import KeyReport, load_backbone, load_head
from lightning_tl.tasks.base import TransferTask, wrong_batch
from lightning_tl.tasks.image_results import Array, ImageResults, SumScores

_SAME_TOKENIZER = (
    "use the tokenizer of its training (data.tokenizer, or build the corpus with --tokenizer FOLDER, the corpus that "
    "it was trained on)"
)
#: Targets with this value are not predicted.
IGNORED = -100


class CausalLanguageModel(TransferTask):
    """``language``: the next token of a text. Cross-entropy in nats per token; score: share of right predictions.

    Batches are ``(tokens, targets)``, both ``[B, T]`` int64: ``targets[b, t]`` is the token that follows
    ``tokens[b, :t + 1]``, or -100 where none is to be predicted.

    Logged besides what every task logs, for ``val`` and ``test``: ``perplexity`` = exp(nats per token), and, where the
    data module knows how many bytes each token stands for, ``bits_per_byte`` = bits over the bytes of the text.

    The backbone gives features ``[B, T, width]``, the head logits. Gains of norms get no weight decay.

    Args:
        num_classes: Size of the vocabulary. On the command line it comes from the data module.
        backbone: One of ``lightning_tl.models.decoder.DECODERS``, or ``hf:FOLDER`` for a causal model of Hugging Face
            (also ``hf:OWNER/NAME`` of its Hub).
        shape: Instead of the backbone's name: ``width``, ``layers``, ``heads`` and ``hidden`` of a decoder.
        dropout: Of the decoder.
        pretrained: Whether a Hugging Face model starts from its weights; else from random ones.
        tie_head: Whether the decoder's head has the embedding's weights.
        keep_head: Whether the head, too, starts from the checkpoint of ``init_from``. It must then have the same
            vocabulary, and counts as a part of the network when forgetting is measured.
        mup_base_width: Width at which the learning rate was tuned. The rate of all matrices inside the blocks, and of
            the head, is then divided by (width / this width); the head's weights start smaller by the square root of
            that, and the embedding's as at this width, as in muP for Adam (Yang et al., *Tensor Programs V*, 2022,
            Table 8; for attention heads of a constant size; not with ``tie_head``). Default: one rate for all.
        checkpoint_blocks: Whether activations inside the blocks are computed twice instead of kept.
        compile_backbone: Whether the backbone runs by ``torch.compile``; measurements run it uncompiled.
        kwargs: Those of ``TransferTask`` but for ``in_chans`` and ``channels_last``.

    Raises:
        UserError: As ``TransferTask``; the backbone is unknown or cannot be loaded; an argument is out of range, or
            does not apply to this backbone.
    """

    task = "language"
    metric_name = "accuracy"
    smaller_backbones = "for a CPU there are --model.backbone decoder_6k, decoder_18k and decoder_100k"

    def __init__(
        self,
        num_classes: int,
        backbone: str = "decoder_6k",
        shape: dict[str, int] | None = None,
        dropout: float = 0.0,
        pretrained: bool = True,
        tie_head: bool = False,
        keep_head: bool = True,
        mup_base_width: int | None = None,
        checkpoint_blocks: bool = False,
        compile_backbone: bool = False,
        **kwargs: Any,
    ) -> None:
        if backbone.startswith(HUGGING_FACE):
            own = {"shape": shape, "dropout": dropout, "tie_head": tie_head, "mup_base_width": mup_base_width}
            if given := [name for name, value in own.items() if value]:
                raise UserError(f"model.{given[0]} is for our own decoder; {backbone} has its own: leave it out")
        if kwargs.get("backbone_options"):
            raise UserError("model.backbone_options is for networks of timm; leave it out")
        if mup_base_width is not None and mup_base_width < 1:
            raise UserError(f"model.mup_base_width is {mup_base_width}; it must be at least 1")
        if mup_base_width is not None and tie_head:
            raise UserError(
                "model.mup_base_width needs a head with weights of its own, which start smaller and have a smaller "
                "rate than the embedding's: leave out model.tie_head"
            )
        # before the base makes the network
        self.dropout, self.pretrained, self.tie_head = dropout, pretrained, tie_head
        self.keeps_head = keep_head
        self.mup_base_width, self.checkpoint_blocks = mup_base_width, checkpoint_blocks
        self._start_made_by: Mapping[str, Any] = {}
        self.shape = None if backbone.startswith(HUGGING_FACE) else _shape(backbone, shape)
        super().__init__(num_classes, backbone, **kwargs)
        if compile_backbone:
            self.backbone.compile()

    def configure_models(self) -> None:
        """Make the backbone and a head without bias."""
        if self.shape is None:
            path = self.backbone_name.removeprefix(HUGGING_FACE)
            self.backbone, self.head = load_causal_lm(path, self.num_classes, self.pretrained)
            if self.checkpoint_blocks:
                cast(Any, self.backbone).gradient_checkpointing_enable({"use_reentrant": False})
            return
        self.backbone = Decoder(self.shape, self.num_classes, self.dropout, self.checkpoint_blocks, self.mup_base_width)
        self.head = nn.Linear(self.shape.width, self.num_classes, bias=False)
        nn.init.normal_(self.head.weight, std=(self.shape.width * self._width_factor) ** -0.5)
        if self.tie_head:
            self.head.weight = self.backbone.embed_tokens.weight

    def load_start(self, checkpoint: str | Path) -> KeyReport:
        """Copy the weights that a fine-tuning starts from: the backbone's and, with ``keep_head``, the head's."""
        content = read_checkpoint(checkpoint)
        made_by = content.get("lightning_tl")
        self._start_made_by = dict(made_by) if isinstance(made_by, Mapping) else {}
        tokens = self._start_made_by.get("num_classes", self.num_classes)
        of_text = any(str(name).endswith("embed_tokens.weight") for name in content.get("state_dict", ()))
        if self.shape is not None and of_text and tokens != self.num_classes:
            raise UserError(
                f"model.init_from {checkpoint}: has a vocabulary of {tokens} tokens, and that of the data has "
                f"{self.num_classes}: {_SAME_TOKENIZER}"
            )
        report = load_backbone(content, self.backbone, source_name=str(checkpoint))
        if self.keeps_head:
            load_head(content, self.head, source_name=str(checkpoint))
        return report

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to what every task saves which tokenizer the data have; there are no channels."""
        super().on_save_checkpoint(checkpoint)
        del checkpoint["lightning_tl"]["in_chans"]
        if (identity := self._tokenizer_of_data()) is not None:
            checkpoint["lightning_tl"]["tokenizer"] = identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse data of another tokenizer, besides what every task refuses."""
        super().on_load_checkpoint(checkpoint)
        self._check_tokenizer(checkpoint.get("lightning_tl", {}), "the checkpoint")

    def _tokenizer_of_data(self) -> str | None:
        identity: str | None = getattr(getattr(self._trainer, "datamodule", None), "tokenizer_identity", None)
        return identity

    def _check_tokenizer(self, made_by: Mapping[str, Any], where: str) -> None:
        ours, theirs = self._tokenizer_of_data(), made_by.get("tokenizer")
        if ours is not None and theirs is not None and ours != theirs:
            raise UserError(
                f"{where} was trained on texts of another tokenizer than that of the data, though both have "
                f"{self.num_classes} tokens: {_SAME_TOKENIZER}"
            )

    def freshly_initialised(self) -> nn.Module:
        """Return a module with newly drawn weights under the same names; a Hugging Face model's are drawn too."""
        pretrained, self.pretrained = self.pretrained, False
        try:
            return super().freshly_initialised()
        finally:
            self.pretrained = pretrained

    @property
    def _width_factor(self) -> float:
        return self.shape.width / self.mup_base_width if self.shape is not None and self.mup_base_width else 1.0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the gains of norms without weight decay, and under muP the matrices of blocks and head with a rate."""
        groups: dict[str, list[nn.Parameter]] = {"matrices": [], "scaled": [], "gains": []}
        for name, parameter in self.named_parameters():
            scaled = name.startswith(("backbone.layers.", "head.")) and self._width_factor != 1
            groups["gains" if parameter.ndim < 2 else "scaled" if scaled else "matrices"].append(parameter)
        options = {"matrices": {}, "scaled": {"lr_factor": 1 / self._width_factor}, "gains": {"weight_decay": 0.0}}
        return [{"params": groups[name], **options[name]} for name in groups if groups[name]]

    def setup(self, stage: str) -> None:
        """Take over from the data module how many bytes each token stands for."""
        super().setup(stage)
        self._check_tokenizer(self._start_made_by, f"model.init_from {self.init_from}")
        lengths = getattr(getattr(self.trainer, "datamodule", None), "token_bytes", None)
        for metric in (self.val_score, self.test_score):
            if isinstance(metric, _NextToken):
                metric.set_token_bytes(lengths)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits ``[B, T, num_classes]`` of the token after each of ``tokens`` ``[B, T]``."""
        if self.shape is None:
            features = self.backbone(input_ids=tokens, use_cache=False).last_hidden_state
        else:
            features = self.backbone(tokens)
        logits: Tensor = self.head(features)
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy, in nats, of the tokens that are to be predicted; 0 where there are none."""
        total = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / self.loss_terms(targets)

    def loss_terms(self, targets: Tensor) -> Tensor:
        """Return the number of tokens that are to be predicted, at least 1."""
        return (targets != IGNORED).sum().clamp(min=1)

    def batch_weight(self, images: Any, targets: Any) -> int:
        """Return the number of tokens that are to be predicted: losses of batches are averaged by it."""
        return int(self.loss_terms(targets))

    def build_metric(self) -> Metric:
        """Return the share of right predictions, the perplexity and the bits per byte."""
        return _NextToken()

    def build_image_results(self) -> ImageResults:
        """Return the right predictions of each sample."""
        return _RightTokens()

    def check_batch(self, images: Any, targets: Any, stage: str) -> None:
        """Refuse what are no tokens and targets ``[B, T]`` of the vocabulary."""
        fits = isinstance(images, Tensor) and isinstance(targets, Tensor) and images.ndim == 2
        if not fits or images.dtype != torch.int64 or targets.dtype != torch.int64 or targets.shape != images.shape:
            raise wrong_batch(self, "int64 tokens [B, T] and int64 targets [B, T]", (images, targets))
        self.check_tokens(images, targets)

    def check_tokens(self, tokens: Tensor, targets: Tensor) -> None:
        """Refuse tokens that are not of the vocabulary.

        Raises:
            UserError: One is not.
        """
        least, most = int(tokens.min()), int(max(tokens.max(), targets.max()))
        if least < 0 or most >= self.num_classes:
            raise UserError(
                f"a token is {least if least < 0 else most}, but the model's vocabulary has {self.num_classes} tokens "
                f"(0 to {self.num_classes - 1}): use the tokenizer that the model was trained with"
            )


def _shape(backbone: str, shape: dict[str, int] | None) -> DecoderShape:
    if shape is None:
        return decoder_shape(backbone)
    known = DecoderShape.__dataclass_fields__
    for name in shape:
        if name not in known:
            raise UserError(f"model.shape has no '{name}'{nearest(name, known)}")
    if lacking := [name for name in known if name not in shape]:
        raise UserError(f"model.shape lacks {lacking[0]}; give width, layers, heads and hidden")
    return DecoderShape(**shape)


class _NextToken(Metric):
    """Share of right predictions, perplexity, bits per byte. All are sums over tokens until the end."""

    full_state_update = False

    sums: Tensor  # nats, right predictions, tokens, bytes

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.token_bytes: Tensor | None = None

    def set_token_bytes(self, lengths: Any) -> None:
        self.token_bytes = None if lengths is None else torch.as_tensor(lengths, dtype=torch.float64)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        logits, truth = outputs.flatten(0, -2), targets.flatten()
        counted = truth != IGNORED
        nats = F.cross_entropy(logits.float(), truth, ignore_index=IGNORED, reduction="sum")
        length = truth.new_zeros(())
        if self.token_bytes is not None:
            self.token_bytes = self.token_bytes.to(truth.device)
            length = self.token_bytes[truth[counted]].sum()
        self.sums += torch.stack([nats, (logits.argmax(-1) == truth).sum(), counted.sum(), length])

    def compute(self) -> dict[str, Tensor]:
        nats, right, tokens, length = self.sums
        values = {"score": right / tokens, "perplexity": (nats / tokens).exp()}
        if self.token_bytes is not None:
            values["bits_per_byte"] = nats / math.log(2) / length
        return {name: value.float() for name, value in values.items()}


class _RightTokens(SumScores):
    """By sample: right predictions, and tokens that are to be predicted."""

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([(outputs.argmax(-1) == targets).sum(1), (targets != IGNORED).sum(1)], 1)

    def from_sums(self, sums: Array) -> Array:
        right, tokens = sums.T
        return cast(Array, right / tokens)
