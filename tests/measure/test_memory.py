"""Peak memory of measurements that substitute weights, of all tensors that torch makes."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_tl.measure import Objective, hessian_trace, noise_scales, perturbation_sensitivity
from lightning_tl.measure.modifications import Prune, Quantise
from lightning_tl.measure.modify import modified_loss


class Peak(TorchDispatchMode):
    """Counts the bytes of storages that operations return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            size = storage.nbytes()
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 64)
        self.layers = nn.ModuleList(Block(64) for _ in range(8))
        self.head = nn.Linear(64, 40)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(x)))


def loss(module, ids):
    return F.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def peak(module, run, held=()):
    """Return the peak of bytes of weights, of other tensors that are held, and of all that ``run`` makes."""
    with Peak() as counter:
        for tensor in (*module.parameters(), *module.buffers(), *held):
            counter.add(tensor.detach())
        run()
    return counter.peak


def model():
    torch.manual_seed(0)
    module = Language().eval()
    return module, torch.randint(0, 40, (8, 33))


def evaluation(module, ids):
    with torch.no_grad():
        loss(module, ids)


def test_the_counter_counts():
    module = nn.Linear(100, 100, bias=False)

    def run():
        a = torch.zeros(100, 100)
        b = a + 1
        del a
        b.view(-1).add_(1)
        return b + 1

    assert peak(module, run) == 3 * 40_000


@pytest.mark.parametrize("kind", ["noise", "quantise", "prune"])
def test_loss_of_changed_weights_beside_a_forward_pass(kind):
    module, ids = model()
    bare = peak(module, lambda: evaluation(module, ids))
    scales = noise_scales(module, dict(module.named_parameters()), "relative")
    objective = Objective(module, loss, [ids], substitute=True)
    runs = {
        "noise": lambda: perturbation_sensitivity(objective, scales, [0.1], draws=2),
        "quantise": lambda: modified_loss(objective, Quantise(), [4]),
        "prune": lambda: modified_loss(objective, Prune(), [0.5]),
    }
    assert peak(module, runs[kind]) <= 1.1 * bare
    written = Objective(module, loss, [ids])
    assert peak(module, lambda: perturbation_sensitivity(written, scales, [0.1], draws=2)) > 1.5 * bare


def test_trace_beside_a_training_step():
    module, ids = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)

    def step():
        loss(module, ids).backward()
        optimizer.step()
        optimizer.zero_grad()

    bare = peak(module, step)
    objective = Objective(module, loss, [ids], substitute=True)
    assert peak(module, lambda: hessian_trace(objective, products=3)) <= 1.2 * bare
    assert objective.substitute
