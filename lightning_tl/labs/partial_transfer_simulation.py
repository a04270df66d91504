"""Networks of the partial-transfer lab, trained upstream and, with a share of the filters inherited, downstream."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_tl.labs.patch_network import Patches, draw_patches, train, without
from lightning_tl.labs.patch_network import accuracy as test_accuracy
from lightning_tl.transfer.partial import Partial

if TYPE_CHECKING:
    from lightning_tl.labs.outcome import Array
    from lightning_tl.labs.partial_transfer_parameters import PartialTransferParameters

_TEST_NOISES = 500


def simulate(lab: PartialTransferParameters) -> tuple[dict[float, Array], dict[tuple[int, float, float], Array]]:
    """Train all networks of a lab.

    Args:
        lab: The parameters.

    Returns:
        Test accuracies, shape (networks,): from scratch by τ; by upstream samples, τ and share. A network has the
        same downstream samples, test noises and first weights in all of them.
    """
    generator = torch.Generator().manual_seed(lab.seed)
    upstream_signal, signal = _signals(lab)
    networks = len(signal)
    shape = (networks, 2 * lab.filters, lab.d)
    fresh = lab.start * torch.randn(lab.networks, *shape[1:], generator=generator).repeat(len(lab.shared), 1, 1)
    data = draw_patches(signal, lab.downstream, generator)
    noise = torch.randn(lab.networks, _TEST_NOISES, lab.d, generator=generator).repeat(len(lab.shared), 1, 1)
    noise = without(noise, signal)

    def tested(start: Tensor, samples: Patches) -> Array:
        right = test_accuracy(train(start, samples, lab.loss), signal, noise)
        by_shared: Array = right.double().numpy().reshape(len(lab.shared), lab.networks)
        return by_shared

    scratch = dict(zip(lab.shared, tested(fresh, data), strict=True))
    found = {}
    for count in lab.upstream:
        first = lab.start * torch.randn(shape, generator=generator)
        pretrained = train(first, draw_patches(upstream_signal, count, generator), lab.loss)
        for share in lab.shares:
            start = pretrained if share == 1 else inherited(pretrained, fresh, share, lab.seed)
            for shared, accuracies in zip(lab.shared, tested(start, data), strict=True):
                found[count, shared, share] = accuracies
    return scratch, found


def _signals(lab: PartialTransferParameters) -> tuple[Tensor, Tensor]:
    """Return μ upstream and downstream of each network, those of one τ side by side, shape (all, d)."""
    shared = torch.tensor(lab.shared, dtype=torch.float32).repeat_interleave(lab.networks)
    both = torch.zeros(2, len(shared), lab.d)
    both[:, :, 0] = shared.sqrt()
    both[0, :, 1] = both[1, :, 2] = (1 - shared).sqrt()
    first, second = lab.strength * both
    return first, second


def inherited(pretrained: Tensor, fresh: Tensor, share: float, seed: int) -> Tensor:
    """Return weights of which the method ``Partial`` has inherited a share of each output's filters.

    All networks are put into one convolution as its input channels, so that the same filters are chosen in each.

    Args:
        pretrained: Shape (networks, 2m, d).
        fresh: New weights, of the same shape.
        share: Share of the filters, between 0 and 1.
        seed: Of the choice of filters.
    """
    halves = []
    for place, (old, new) in enumerate(zip(pretrained.chunk(2, 1), fresh.chunk(2, 1), strict=True)):
        task = SimpleNamespace(
            backbone=_one_convolution(old),
            init_from="upstream",
            freshly_initialised=lambda new=new: SimpleNamespace(backbone=_one_convolution(new)),
        )
        with _quiet():
            Partial(share=share, seed=2 * seed + place).start(task)
        halves.append(task.backbone.conv1.weight.detach()[:, :, 0].transpose(0, 1))
    return torch.cat(halves, 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from printing how many parameters are inherited, once for each share."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _one_convolution(weights: Tensor) -> Any:
    """Return a module whose only layer reads each network's patch (networks, m, d) as a channel."""
    backbone: Any = nn.Module()
    networks, filters, d = weights.shape
    backbone.conv1 = nn.Conv2d(networks, filters, (1, d), bias=False)
    backbone.conv1.weight = nn.Parameter(weights.transpose(0, 1)[:, :, None].clone())
    return backbone
