"""Changes of weights, by a strength and a draw: noise, quantisation, pruning, a step along a direction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.measure.arguments import choice, numbers, whole
from lightning_tl.measure.params import clean_name
from lightning_tl.measure.sharded import is_sharded

# Noise is drawn in blocks of rows of about this many elements, each from a seed of its own.
_BLOCK = 1 << 16


class Modification:
    """A change of the weights, of a strength. Subclasses define :meth:`__call__`, and may be one's own.

    Attributes:
        random: Draws differ.
        antithetic: The loss is the mean of that at +strength and at −strength.
    """

    random = False
    antithetic = False

    def __call__(self, name: str, weight: Tensor, strength: float, draw: int = 0) -> Tensor:
        """Return the changed weight, in memory of its own or the weight itself; always the same for equal arguments.

        Args:
            name: Of the parameter.
            weight: Whole, detached; it must not be written.
            strength: How much.
            draw: Number of the draw.
        """
        raise NotImplementedError

    def write(self, parameter: Tensor, name: str, weight: Tensor, strength: float, draw: int = 0) -> None:
        """Write the changed weight into a parameter."""
        parameter.copy_(self(name, weight, strength, draw))

    def check(self, strengths: Sequence[float]) -> list[float]:
        """Return the strengths as numbers.

        Raises:
            UserError: One is out of range.
        """
        return [float(strength) for strength in strengths]

    @contextmanager
    def reusing(self) -> Iterator[None]:
        """Within, what is drawn may be kept for further strengths, at the cost of memory."""
        yield


class Noise(Modification):
    """Gaussian noise, W + strength · √Σ · z, z ~ N(0, 1) (Springer et al. 2025, §3.3).

    z is a function of seed, draw, the parameter's name and the position in it: it is equal on any number of processes
    and whichever other parameters are measured. (Generators of CPUs and GPUs differ.)

    Args:
        scales: √Σ by parameter, as from :func:`~lightning_tl.measure.noise_scales.noise_scales`.
        seed: Seed of z.

    Raises:
        UserError: All scales are zero.
    """

    random = antithetic = True

    def __init__(self, scales: Mapping[str, Tensor], seed: int = 0) -> None:
        if all(float(scale.abs().max()) == 0 for scale in scales.values()):
            raise UserError(
                f"none of the {len(scales)} measured parameters gets noise: their initialisation is constant; "
                "choose noise='relative' or 'isotropic'"
            )
        self.scales, self.seed = scales, seed
        self._kept: dict[str, tuple[int, Tensor]] | None = None

    def __call__(self, name: str, weight: Tensor, strength: float, draw: int = 0) -> Tensor:
        """Return the weight with noise."""
        noise = self.noise(name, weight, draw)
        if self._kept is None:  # in the noise's memory
            return noise.mul_(strength).add_(weight)
        return torch.add(weight, noise, alpha=strength)

    def write(self, parameter: Tensor, name: str, weight: Tensor, strength: float, draw: int = 0) -> None:
        """Write the weight with noise into a parameter."""
        torch.add(weight, self.noise(name, weight, draw), alpha=strength, out=parameter)

    def noise(self, name: str, weight: Tensor, draw: int) -> Tensor:
        """Return √Σ · z, of the shape of the weight."""
        kept = None if self._kept is None else self._kept.get(name)
        if kept is not None and kept[0] == draw:
            return kept[1]
        # into the same memory, as new memory for every draw costs 40 % more; contiguous, as other layouts are slow
        out = torch.empty_like(weight) if kept is None else kept[1]
        drawn = normal(out if out.is_contiguous() else out.contiguous(), f"{self.seed}/{draw}/{name}")
        torch.mul(drawn, self.scales[name].to(out.device, out.dtype), out=out)
        if self._kept is not None:
            self._kept[name] = (draw, out)
        return out

    def check(self, strengths: Sequence[float]) -> list[float]:
        """Return the γ as numbers."""
        return check_gammas(strengths)

    @contextmanager
    def reusing(self) -> Iterator[None]:
        """Within, the noise of one draw is kept."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None


class Quantise(Modification):
    """Weights rounded to the nearest of 2^b − 1 equidistant values; the strength is the number of bits b.

    Symmetric: by output channel or group, s = max|W| / (2^(b−1) − 1) and s · round(W / s). Tensors of one dimension
    (biases, gains) stay as they are, as is usual.

    Args:
        group: Number of weights of one channel that share a scale; None: a whole channel. The last group of a channel
            may be smaller.
        channel_dims: Name → dimension of a parameter's output channels, from :func:`channel_dims`; default: 0.

    Raises:
        UserError: The group is not a positive whole number.
    """

    def __init__(self, group: int | None = None, channel_dims: Mapping[str, int] | None = None) -> None:
        if group is not None:
            whole("group", group, why=", or None for whole channels")
        self.group, self.channel_dims = group, channel_dims or {}

    def __call__(self, name: str, weight: Tensor, strength: float, draw: int = 0) -> Tensor:
        """Return the rounded weight."""
        if weight.dim() < 2:
            return weight
        dim = self.channel_dims.get(name, 0)
        rows = weight.movedim(dim, 0).flatten(1)
        top = 2 ** (int(strength) - 1) - 1
        if self.group is None or self.group >= rows.shape[1]:
            rounded = _rounded(rows, top)
        else:
            end = rows.shape[1] // self.group * self.group  # of the full groups
            full = _rounded(rows[:, :end].reshape(-1, self.group), top).view(-1, end)
            rest = _rounded(rows[:, end:], top) if end < rows.shape[1] else rows[:, end:]
            rounded = torch.cat([full, rest], 1)
        moved = weight.movedim(dim, 0).shape
        return rounded.view(moved).movedim(0, dim)

    def check(self, strengths: Sequence[float]) -> list[float]:
        """Return the numbers of bits."""
        bits = numbers("quantise", strengths)
        if any(b != int(b) or not 2 <= b <= 16 for b in bits):
            raise UserError(f"quantise: bits must be whole numbers from 2 to 16; got {strengths}")
        return bits


class Prune(Modification):
    """The smallest weights set to zero; the strength is their share.

    Tensors of one dimension (biases, gains) stay as they are.

    Args:
        by: Compare weights within each ``tensor``, or within each output channel (``row``).
        channel_dims: As for :class:`Quantise`.

    Raises:
        UserError: ``by`` is unknown.
    """

    def __init__(self, by: str = "tensor", channel_dims: Mapping[str, int] | None = None) -> None:
        choice("by", by, ("tensor", "row"))
        self.by, self.channel_dims = by, channel_dims or {}

    def __call__(self, name: str, weight: Tensor, strength: float, draw: int = 0) -> Tensor:
        """Return the weight with zeros."""
        if weight.dim() < 2:
            return weight
        dim = self.channel_dims.get(name, 0)
        moved = weight.movedim(dim, 0)
        rows = moved.flatten(1) if self.by == "row" else moved.reshape(1, -1)
        count = round(strength * rows.shape[1])
        if count == 0:
            return weight
        size = rows.abs()
        smaller = size <= size.kthvalue(count, dim=1, keepdim=True).values
        if int(smaller.sum()) > count * rows.shape[0]:  # equal weights: as many of them as there must be
            smaller = torch.zeros_like(smaller).scatter_(1, size.argsort(dim=1, stable=True)[:, :count], True)
        return rows.masked_fill(smaller, 0).view(moved.shape).movedim(0, dim)

    def check(self, strengths: Sequence[float]) -> list[float]:
        """Return the shares."""
        shares = numbers("prune", strengths)
        if max(shares) >= 1:
            raise UserError(f"prune: shares of weights must be between 0 and 1; got {strengths}")
        return shares


class Direction(Modification):
    """W + strength · d: a step along a direction, such as from pre-trained to fine-tuned weights.

    Args:
        direction: d by parameter, whole tensors or, of a sharded module, DTensors; other parameters do not move.
    """

    def __init__(self, direction: Mapping[str, Tensor]) -> None:
        self.direction = direction

    def __call__(self, name: str, weight: Tensor, strength: float, draw: int = 0) -> Tensor:
        """Return the moved weight."""
        d = self.direction.get(name)
        if d is None:
            return weight
        d = d.full_tensor() if is_sharded(d) else d  # type: ignore[attr-defined]
        return torch.add(weight, d.to(weight.device, weight.dtype), alpha=strength)


def channel_dims(module: nn.Module) -> dict[str, int]:
    """Return the dimension of output channels by name of the parameters where it is not the first.

    These are the weights of transposed convolutions and of Hugging Face's ``Conv1D``.
    """
    found = {}
    for prefix, child in module.named_modules():
        transposed = isinstance(child, nn.modules.conv._ConvTransposeNd)
        if transposed or (type(child).__name__ == "Conv1D" and hasattr(child, "nf")):
            found[clean_name(f"{prefix}.weight".lstrip("."))] = 1
    return found


def normal(out: Tensor, key: str) -> Tensor:
    """Fill a contiguous tensor with standard normal numbers, in blocks of rows with seeds of their own.

    Args:
        out: The tensor.
        key: What the numbers depend on, with their position.
    """
    if not out.numel():
        return out
    generator = torch.Generator(out.device)
    rows = out.view(out.shape[0], -1) if out.dim() else out.view(1, 1)
    size = max(1, _BLOCK // max(1, rows.shape[1]))
    for block, part in enumerate(rows.split(size)):
        digest = hashlib.blake2b(f"{key}/{block}".encode(), digest_size=8).digest()
        generator.manual_seed(int.from_bytes(digest, "big") >> 1)
        part.normal_(generator=generator)
    return out


def check_gammas(gammas: Sequence[float]) -> list[float]:
    """Return the scales as floats.

    Raises:
        UserError: There are none, or they are not all positive and different.
    """
    return numbers("gammas", gammas)


def _rounded(rows: Tensor, top: int) -> Tensor:
    scale = rows.abs().amax(1, keepdim=True) / top
    scale = torch.where(scale > 0, scale, 1)
    return (rows / scale).round_().mul_(scale)
