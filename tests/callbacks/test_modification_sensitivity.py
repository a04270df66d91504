"""ModificationSensitivity: records, keys and arguments."""

import copy
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_tl.callbacks import ModificationSensitivity
from lightning_tl.errors import UserError
from lightning_tl.losses.training_step import step_loss
from tests.callbacks.modules import Classifier, trainer


def data(size=12):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (size,), generator=generator)
    return torch.randn(size, 1, 8, 8, generator=generator) + y[:, None, None, None], y


def fit(callback):
    torch.manual_seed(0)
    module = Classifier()
    start = copy.deepcopy(module)
    run = trainer(max_steps=2, callbacks=[callback] if callback else [])
    run.fit(module, DataLoader(TensorDataset(*data()), batch_size=4))
    return start, module, run


def test_losses_are_those_of_changed_copies_and_training_is_the_same():
    probe = DataLoader(TensorDataset(*data()), batch_size=4)
    callback = ModificationSensitivity([8, 2], [0.5], every_n_steps=1, probe=probe, probe_batches=2, on_error="raise")
    start, module, run = fit(callback)
    _, plain, _ = fit(None)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    x, y = data()
    batches = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4)]

    def losses(change):
        changed = copy.deepcopy(start).eval()
        with torch.no_grad():
            for parameter in changed.parameters():
                if parameter.dim() > 1:
                    parameter.copy_(change(parameter))
            values = []
            for batch in batches:
                torch.manual_seed(0)  # as in every evaluation
                values.append(float(step_loss(changed, batch)))
            return values

    def two_bits(weight):
        scale = weight.flatten(1).abs().amax(1).view(-1, *(1,) * (weight.dim() - 1))
        return torch.round(weight / scale) * scale

    def halved(weight):
        keep = weight.abs().flatten().argsort()[round(weight.numel() / 2) :]
        return torch.zeros_like(weight).flatten().index_copy(0, keep, weight.flatten()[keep]).view_as(weight)

    found = {(r.quantity, r.gamma): r for r in callback.history if r.step == 0}
    before = losses(lambda weight: weight)
    cases = [
        ("quantised_loss", "quantisation_rise", 2.0, two_bits),
        ("pruned_loss", "pruning_rise", 0.5, halved),
    ]
    for quantity, rise_name, gamma, change in cases:
        after = losses(change)
        loss = found[quantity, gamma]
        assert loss.value == pytest.approx(sum(after) / 2, rel=1e-5)
        rise = found[rise_name, gamma]
        differences = [b - a for a, b in zip(before, after, strict=True)]
        assert rise.value == pytest.approx(sum(differences) / 2, rel=1e-3, abs=1e-6)
        assert rise.stderr == pytest.approx(abs(differences[0] - differences[1]) / 2, rel=1e-2, abs=1e-6)
    assert {"quantised_loss/gamma_0", "pruning_rise/gamma_0.5", "modification/seconds"} <= run.callback_metrics.keys()
    assert all(math.isfinite(r.value) for r in callback.history)


def test_one_batch_has_no_standard_error():
    callback = ModificationSensitivity([4], [], on_error="raise")
    fit(callback)
    rises = [record for record in callback.history if record.quantity == "quantisation_rise"]
    assert rises
    assert all(record.stderr is None for record in rises)
    assert not any("prun" in record.quantity for record in callback.history)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quantise": [1.5]}, "bits must be whole numbers from 2 to 16"),
        ({"quantise": ["a"]}, "quantise must be positive numbers"),
        ({"prune": [30]}, "shares of weights must be between 0 and 1"),
        ({"quantise": [], "prune": []}, "there is nothing to measure"),
        ({"group": 0}, "group=0 must be a whole number ≥ 1, or None for whole channels"),
        ({"by": "column"}, "by='column' is unknown"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(UserError, match=message):
        ModificationSensitivity(**arguments)
