"""What a module holds is put back: tensors that share memory with themselves, and what follows a failure."""

import pytest
import torch
from torch import nn

from lightning_tl.measure import untouched


class Expanded(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = torch.ones(1).expand(4)
        self.windows = torch.arange(5.0).unfold(0, 3, 1)
        self.centre = torch.zeros(2)


def test_tensors_that_share_memory_with_themselves():
    module = Expanded()
    with untouched(module):
        module.scale._base.fill_(3.0)
        module.windows._base.fill_(7.0)
        module.centre.add_(1)
        with torch.no_grad():
            module.layer.weight.add_(1)
        before = module.layer.weight.clone()
    assert module.scale.tolist() == [1.0] * 4
    assert module.windows.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert module.centre.tolist() == [0, 0]
    assert not torch.equal(before, module.layer.weight)


class Stubborn(dict):
    def clear(self):
        raise KeyError("no")


def test_what_cannot_be_restored_does_not_keep_the_rest_from_it():
    module = Expanded()
    module.first = Stubborn(a=1)
    weight = module.layer.weight.detach().clone()

    def body():
        with untouched(module):
            module.first["a"] = 2
            module.centre.add_(1)
            module.layer.weight.grad = torch.ones(2, 2)
            with torch.no_grad():
                module.layer.weight.add_(1)
            torch.manual_seed(77)

    with pytest.raises(KeyError, match="no"):
        body()
    assert module.centre.tolist() == [0, 0]
    assert torch.equal(weight, module.layer.weight)
    assert module.layer.weight.grad is None
    assert torch.initial_seed() != 77
