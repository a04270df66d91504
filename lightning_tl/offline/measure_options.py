"""The options of measuring saved checkpoints, in Python and on the command line. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_tl.errors import UserError, nearest

Quantity = Literal["distance", "trace", "sensitivity", "quantise", "prune", "direction"]
#: What is measured on a series of language models by default: all but the loss along a line.
SERIES_QUANTITIES: tuple[Quantity, ...] = ("distance", "trace", "sensitivity", "quantise", "prune")
#: The same as lightning_tl.measure.noise_scales.NoiseKind, which cannot be imported without torch.
NoiseKind = Literal["init", "relative", "isotropic"]
Rest = Literal["own", "reference"]
LineStatistics = Literal["kept", "re-estimated", "interpolated"]
#: Limits beyond which numbers overflow, or a measurement never ends.
_LARGEST_GAMMA = 1e6
_MOST_DRAWS = 10_000
_MOST_PRODUCTS = 100_000


@dataclass(frozen=True, kw_only=True)
class SeriesOptions:
    """Which language models of a series are measured, and on which text.

    Args:
        model: A folder with one sub-folder per revision, or a repository on the Hugging Face Hub (``owner/model``).
        text: A UTF-8 file, held-out text of the kind that the model was trained on.
        revisions: Names of branches, tags or sub-folders; default: all whose name tells a step or tokens.
        spread: Take so many of them, evenly spaced in the logarithm of the training seen.
        tokens: Tokens seen in training, one value for each of ``revisions``, in their order, as ``4B``.
        tokens_per_step: Gives the tokens where names tell only the step, as ``2M``.
        windows: Windows of text.
        length: Tokens of a window.
        batch_size: Windows per batch; batches are the units of the standard errors.
        dtype: Of the weights in memory: ``fp32``, ``bf16`` or ``fp16``.
        device: As torch names it; ``auto``: spread over all devices, with the package accelerate.
        discard_downloads: Download into the results' folder, and delete each revision once it is measured.
        finetune: A UTF-8 file of another text. Each revision is fine-tuned on a part of it, and its loss then measured
            on the rest of it and on ``text``.
        finetune_lr: Peak learning rates of this, each by itself.
        finetune_windows: Windows of that text to fine-tune on.
        finetune_epochs: Passes over them.
        finetune_draws: How often, each time on other windows.

    Raises:
        UserError: A number is out of range, or ``finetune`` is given with weights of half precision.
    """

    model: str
    text: str
    revisions: Sequence[str] = ()
    spread: int | None = None
    tokens: Sequence[str] = ()
    tokens_per_step: str | None = None
    windows: int = 64
    length: int = 256
    batch_size: int = 8
    dtype: str = "fp32"
    device: str = "cpu"
    discard_downloads: bool = False
    finetune: str | None = None
    finetune_lr: Sequence[float] = (1e-5, 3e-5, 1e-4)
    finetune_windows: int = 128
    finetune_epochs: int = 4
    finetune_draws: int = 2

    def __post_init__(self) -> None:
        for name, value, least in (
            ("finetune_windows", self.finetune_windows, self.batch_size),
            ("finetune_epochs", self.finetune_epochs, 1),
            ("finetune_draws", self.finetune_draws, 1),
            ("windows", self.windows, 2),
            ("length", self.length, 2),
            ("batch_size", self.batch_size, 1),
            ("spread", 3 if self.spread is None else self.spread, 3),
        ):
            if value < least:
                raise UserError(f"{name}={value}: must be at least {least}")
        if self.windows % self.batch_size:
            raise UserError(f"windows={self.windows} is not a multiple of batch_size={self.batch_size}")
        rates = list(self.finetune_lr)
        if not rates or len(set(rates)) < len(rates) or not all(0 < rate < float("inf") for rate in rates):
            raise UserError(f"finetune_lr must be learning rates above 0, different from each other; got {rates}")
        if self.finetune is not None and self.dtype != "fp32":
            raise UserError(
                f"--finetune needs --dtype fp32: in {self.dtype} most steps at small rates are lost in rounding"
            )


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How saved checkpoints are measured.

    Args:
        quantities: Any of ``distance``, ``trace``, ``sensitivity``, ``quantise``, ``prune``, ``direction`` (the loss
            along the straight line from the reference through the checkpoint, with its quadratic approximation;
            Springer et al. 2025, App. D).
        gammas: Scales γ of the noise.
        bits: Bits to which weights are rounded, by output channel.
        sparsities: Shares of the weights of each tensor that are set to 0, the smallest ones.
        draws: Antithetic pairs ±ε of noise per scale.
        noise: Variances Σ of the noise at γ = 1: ``init``, ``relative`` or ``isotropic``, as for
            PerturbationSensitivity. With ``trace`` and ``sensitivity`` together, Tr(ΣH) is measured too.
        products: Budget of a trace, in Hessian-vector products; default: 24 where that makes it exact, else 8.
        include: Regular expression of the names of the parameters to measure; default: all trainable ones.
        exclude: Regular expression of the names of parameters to leave out.
        rest: Source of the parameters that ``include`` leaves out: ``own``: each checkpoint; ``reference``: always the
            reference. With ``include`` ``^backbone``, ``reference`` measures fine-tuned backbones under the
            pre-training head.
        bn: BatchNorm's statistics. ``kept``: each checkpoint's; on the line from the reference, the reference's.
            ``re-estimated``: estimated on the batches for the weights at each evaluation of the loss. ``interpolated``:
            as ``kept``, but on the line they move from the reference's to the checkpoint's as the weights do.
        seed: Seed of the random probes and of the noise.

    Raises:
        UserError: A value is unknown or out of range, or ``rest`` is ``reference`` without ``include``.
    """

    quantities: Sequence[Quantity] = get_args(Quantity)
    gammas: Sequence[float] = (0.005, 0.01, 0.02, 0.05)
    bits: Sequence[int] = (3, 4, 8)
    sparsities: Sequence[float] = (0.3, 0.5, 0.7)
    draws: int = 8
    noise: NoiseKind = "init"
    products: int | None = None
    include: str | None = None
    exclude: str | None = None
    rest: Rest = "own"
    bn: LineStatistics = "kept"
    seed: int = 0

    def __post_init__(self) -> None:
        for quantity in self.quantities:
            if quantity not in get_args(Quantity):
                raise UserError(f"quantity {quantity!r} is unknown{nearest(str(quantity), get_args(Quantity))}")
        choices: dict[str, tuple[Any, Any]] = {
            "noise": (self.noise, NoiseKind),
            "rest": (self.rest, Rest),
            "bn": (self.bn, LineStatistics),
        }
        for name, (value, literal) in choices.items():
            if value not in get_args(literal):
                raise UserError(f"{name}={value!r} is unknown{nearest(str(value), get_args(literal))}")
        if not all(0 < gamma <= _LARGEST_GAMMA for gamma in self.gammas):
            raise UserError(f"gammas must be above 0 and at most {_LARGEST_GAMMA:g}; got {list(self.gammas)}")
        if not self.bits or not all(2 <= bits <= 16 for bits in self.bits):
            raise UserError(f"bits must be whole numbers from 2 to 16; got {list(self.bits)}")
        if not self.sparsities or not all(0 < share < 1 for share in self.sparsities):
            raise UserError(f"sparsities must be shares between 0 and 1; got {list(self.sparsities)}")
        for name, values in (("gammas", self.gammas), ("bits", self.bits), ("sparsities", self.sparsities)):
            if len(set(values)) < len(values):
                raise UserError(f"{name} must be different from each other; got {list(values)}")
        for name, count, most in (("draws", self.draws, _MOST_DRAWS), ("products", self.products, _MOST_PRODUCTS)):
            if count is not None and not 2 <= count <= most:
                raise UserError(f"{name}={count}: must be between 2, for a standard error, and {most:,}")
        if self.rest == "reference" and self.include is None:
            raise UserError("rest='reference' needs include=, a regular expression of what comes from each checkpoint")
