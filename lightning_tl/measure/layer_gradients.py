"""The gradients of single samples at one layer, in factors: from its inputs, and the gradient at its outputs.

The gradient of a linear layer for sample n is Σ_t g_nt a_ntᵀ, with its inputs a and the gradients g at its outputs; a
convolution is a linear layer on unfolded patches. The factors give norms, sums and inner products of the samples'
gradients without storing one gradient per sample (Goodfellow 2015, arXiv 1510.01799; Rochette et al. 2019, arXiv
1912.06015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_CHUNK = 1 << 25  # elements of a temporary


@dataclass(frozen=True)
class Outer:
    """Gradients Σ_t left_t right_tᵀ of a matrix, or of one matrix for each group of channels.

    Attributes:
        left: [N, G, O, T]: samples, groups, rows of the matrix, positions.
        right: [N, G, I, T].
        shape: The parameter's shape, of G·O·I elements.
    """

    left: Tensor
    right: Tensor
    shape: tuple[int, ...]

    def squared_norm(self) -> Tensor:
        """Return Σ_n ‖gradient of sample n‖², a scalar."""
        left, right = self.left.flatten(0, 1), self.right.flatten(0, 1)
        if left.shape[2] == 1:
            return (right.square().sum((1, 2)) * left.square().sum((1, 2))).sum()
        if self._few_positions:
            # ‖Σ_t g_t a_tᵀ‖² = Σ_tt' ⟨a_t, a_t'⟩⟨g_t, g_t'⟩
            return ((right.transpose(1, 2) @ right) * (left.transpose(1, 2) @ left)).sum()
        step = max(1, _CHUNK // (left.shape[1] * right.shape[1]))
        pieces = range(0, len(left), step)
        products = (torch.bmm(left[i : i + step], right[i : i + step].transpose(1, 2)) for i in pieces)
        return torch.stack([product.square_().sum() for product in products]).sum()

    def total(self) -> Tensor:
        """Return the gradient summed over samples, of the parameter's shape."""
        if self._few_positions:
            left, right = (t.permute(1, 2, 0, 3).flatten(2) for t in (self.left, self.right))
            return (left @ right.transpose(1, 2)).reshape(self.shape)
        step = max(1, _CHUNK // (self.left.shape[1] * self.left.shape[2] * self.right.shape[2]))
        pieces = range(0, len(self.left), step)
        products = (self.left[i : i + step] @ self.right[i : i + step].transpose(2, 3) for i in pieces)
        return torch.stack([product.sum(0) for product in products]).sum(0).reshape(self.shape)

    def scaled(self, scale: Tensor) -> Outer:
        """Return the gradients times one number for each index of the parameter's first dimension, [rows, 1, …]."""
        return replace(self, left=self.left * scale.reshape(1, self.left.shape[1], -1, 1))

    @property
    def _few_positions(self) -> bool:
        """Whether products over pairs of positions are cheaper than a matrix for each sample."""
        positions, tall, wide = self.left.shape[3], self.left.shape[2], self.right.shape[2]
        return positions == 1 or positions * (wide + tall) < wide * tall


@dataclass(frozen=True)
class Rows:
    """Gradients of a table of which each position uses one row: Σ_t e_index(t) value_tᵀ.

    Attributes:
        index: [N, T]: which row.
        value: [N, T, D].
        shape: The table's shape.
    """

    index: Tensor
    value: Tensor
    shape: tuple[int, ...]

    def squared_norm(self) -> Tensor:
        """Return Σ_n ‖gradient of sample n‖², a scalar."""
        same = self.index[:, :, None] == self.index[:, None, :]
        return ((self.value @ self.value.transpose(1, 2)) * same).sum()

    def total(self) -> Tensor:
        """Return the gradient summed over samples, of the parameter's shape."""
        return self.value.new_zeros(self.shape).index_add_(0, self.index.flatten(), self.value.flatten(0, 1))

    def scaled(self, scale: Tensor) -> Rows:
        """Return the gradients times one number for each row, [rows, 1]."""
        return replace(self, value=self.value * scale.flatten()[self.index].unsqueeze(-1))


@dataclass(frozen=True)
class Whole:
    """Gradients as they are, for small parameters.

    Attributes:
        value: [N, *shape of the parameter].
    """

    value: Tensor

    def squared_norm(self) -> Tensor:
        """Return Σ_n ‖gradient of sample n‖², a scalar."""
        return self.value.square().sum()

    def total(self) -> Tensor:
        """Return the gradient summed over samples, of the parameter's shape."""
        return self.value.sum(0)

    def scaled(self, scale: Tensor) -> Whole:
        """Return the gradients times numbers that broadcast against the parameter."""
        return replace(self, value=self.value * scale)


SampleGradients = Outer | Rows | Whole


def squared_norm(uses: Sequence[SampleGradients]) -> Tensor:
    """Return Σ_n ‖g_n‖² where g_n is the sum of a sample's gradients over several uses of one parameter.

    Args:
        uses: The gradients by use, for instance as an embedding and, transposed, as the last layer of a language model.

    Raises:
        RuntimeError: The uses are of kinds that do not combine.
    """
    merged = merge(uses)
    norm = torch.stack([use.squared_norm() for use in merged]).sum()
    if len(merged) == 1:
        return norm
    table, matrix = sorted(merged, key=lambda use: isinstance(use, Outer))
    if not isinstance(table, Rows) or not isinstance(matrix, Outer) or matrix.left.shape[1] != 1:
        raise RuntimeError("these uses of one parameter do not combine")
    # ⟨Σ_t e_i(t) v_tᵀ, Σ_s l_s r_sᵀ⟩ = Σ_ts l_s[i(t)] ⟨v_t, r_s⟩
    left, right = matrix.left[:, 0], matrix.right[:, 0]
    at_rows = left.gather(1, table.index[:, :, None].expand(-1, -1, left.shape[2]))
    return norm + 2 * (at_rows * (table.value @ right)).sum()


def total(uses: Sequence[SampleGradients]) -> Tensor:
    """Return the gradient summed over samples and uses, of the parameter's shape."""
    return torch.stack([use.total() for use in uses]).sum(0)


def merge(uses: Sequence[SampleGradients]) -> list[SampleGradients]:
    """Join the uses of each kind to one with more positions."""
    merged: list[SampleGradients] = []
    outer = [use for use in uses if isinstance(use, Outer)]
    rows = [use for use in uses if isinstance(use, Rows)]
    whole = [use for use in uses if isinstance(use, Whole)]
    if outer:
        left, right = (outer[0].left, outer[0].right) if len(outer) == 1 else _joined(outer)
        merged.append(Outer(left, right, outer[0].shape))
    if rows:
        first = rows[0]
        index = torch.cat([use.index for use in rows], 1) if len(rows) > 1 else first.index
        value = torch.cat([use.value for use in rows], 1) if len(rows) > 1 else first.value
        merged.append(Rows(index, value, first.shape))
    if whole:
        merged.append(Whole(torch.stack([use.value for use in whole]).sum(0)))
    return merged


def _joined(uses: Sequence[Outer]) -> tuple[Tensor, Tensor]:
    return torch.cat([use.left for use in uses], 3), torch.cat([use.right for use in uses], 3)
