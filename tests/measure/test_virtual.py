"""Weights that layers have only while they run: losses and gradients are those of a changed copy."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_tl.measure import Objective, noise_scales, perturbation_sensitivity
from lightning_tl.measure.modifications import Direction
from lightning_tl.measure.modify import modified_loss
from lightning_tl.measure.virtual import CannotSubstitute, virtual, writes_refused
from tests.measure.cases import Attention


def language_model(tied=False):
    torch.manual_seed(0)
    module = Attention(tied=tied)
    return module, torch.randint(0, 7, (4, 9))


def language_loss(module, ids):
    return F.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("subset", [False, True])
def test_loss_and_gradients_are_those_of_a_changed_copy(tied, subset):
    module, ids = language_model(tied)
    step = {name: torch.randn_like(p) for name, p in module.named_parameters() if not subset or "embed" in name}
    changed = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if name in step:
                parameter.add_(step[name], alpha=0.1)
    expected = language_loss(changed, ids)
    expected.backward()
    found: dict[str, torch.Tensor] = {}

    def take(name, gradient):
        found[name] = found[name] + gradient if name in found else gradient

    before = [(p, p._version, p.clone()) for p in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    with virtual(module, step, lambda name, weight: weight + 0.1 * step[name], grad=take), writes_refused(module):
        loss = language_loss(module, ids)
        loss.backward()
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)
    assert found.keys() == step.keys()
    for name, parameter in changed.named_parameters():
        if name in step:
            assert torch.allclose(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    for parameter, (own, version, value) in zip(module.parameters(), before, strict=True):
        assert parameter is own
        assert parameter._version == version
        assert torch.equal(parameter, value)
        assert torch.equal(parameter.grad, torch.ones_like(parameter))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x):
        hidden = checkpoint(lambda y: self.first(y).tanh(), x, use_reentrant=False)
        return self.second(hidden)


def test_gradients_under_checkpointing():
    torch.manual_seed(0)
    module, x = Checkpointed(), torch.randn(3, 5)
    changed = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.5)
    changed(x).square().sum().backward()
    found = {}
    with virtual(module, dict(module.named_parameters()), lambda name, w: 1.5 * w, grad=found.__setitem__):
        module(x).square().sum().backward()
    for name, parameter in changed.named_parameters():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-5)


def test_half_precision_is_computed_in_fp32():
    module, ids = language_model()
    module.bfloat16()
    exact = copy.deepcopy(module).float()
    names = dict(module.named_parameters())
    with virtual(module, names, lambda name, weight: weight), torch.no_grad():
        assert torch.equal(language_loss(module, ids), language_loss(exact, ids))
    with virtual(module, [], lambda name, weight: weight), torch.no_grad():  # none of them changed
        assert torch.equal(language_loss(module, ids), language_loss(exact, ids))
    assert all(p.dtype == torch.bfloat16 for p in module.parameters())


def test_sensitivity_of_half_precision_is_that_of_an_fp32_copy():
    module, ids = language_model()
    module.bfloat16()
    exact = copy.deepcopy(module).float()
    scales = noise_scales(exact, dict(exact.named_parameters()), "relative")
    half, single = (
        perturbation_sensitivity(Objective(m, language_loss, [ids]), scales, [0.01], draws=3)[0]
        for m in (module, exact)
    )
    assert half.draws == pytest.approx(single.draws, rel=1e-7)


def test_recurrent_layers_and_exceptions():
    module, x = nn.LSTM(4, 3), torch.randn(2, 1, 4)
    before = module(x)[0]
    changed = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(1)
    with virtual(module, dict(module.named_parameters()), lambda name, weight: weight + 1):
        assert torch.equal(module(x)[0], changed(x)[0])
        with pytest.raises(RuntimeError):
            module(torch.randn(2, 1, 5))
    assert torch.equal(module(x)[0], before)
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def attention_loss(module, x):
    return module(x, x, x)[0].square().mean()


def test_weights_that_are_read_outside_their_module():
    """``out_proj`` of multi-head attention: refused by name, and measured by writing instead."""
    torch.manual_seed(0)
    module, x = nn.MultiheadAttention(8, 2), torch.randn(3, 2, 8)
    names = dict(module.named_parameters())
    with (
        virtual(module, names, lambda name, weight: weight),
        pytest.raises(CannotSubstitute, match=r"the weight 'out_proj.weight' is read in another way"),
    ):
        attention_loss(module, x)
    step = Direction({name: torch.randn_like(p) for name, p in names.items()})
    objective = Objective(module, attention_loss, [x], substitute=True)
    found = modified_loss(objective, step, [0.3])[0]
    assert not objective.substitute
    assert found.draws == modified_loss(Objective(module, attention_loss, [x]), step, [0.3])[0].draws
    half = Objective(module.bfloat16(), attention_loss, [x])
    with pytest.raises(CannotSubstitute, match="out_proj"):
        modified_loss(half, step, [0.3])


@pytest.mark.parametrize(
    "write",
    [
        lambda m: m.weight.data.mul_(2),
        lambda m: m.weight.detach().view(-1)[:2].zero_(),
        lambda m: torch._foreach_add_(list(m.parameters()), 1.0),
        lambda m: torch.add(m.bias.detach(), 1, out=m.bias.detach()),
    ],
)
def test_writing_is_refused_before_it_happens(write):
    module = nn.Linear(3, 2)
    before = copy.deepcopy(module.state_dict())

    def loss(m, x):
        with torch.no_grad():
            write(m)
        return m(x).sum()

    names = dict(module.named_parameters())
    with (
        virtual(module, names, lambda name, weight: weight),
        writes_refused(module),
        pytest.raises(CannotSubstitute),
    ):
        loss(module, torch.ones(1, 3))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
