"""Changes of weights against torch's own, and what they do to a loss: written, substituted, by hand."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, noise_scales, perturbation_sensitivity
from lightning_tl.measure.modifications import Direction, Modification, Noise, Prune, Quantise, channel_dims, normal
from lightning_tl.measure.modify import modified_loss
from tests.measure.cases import Attention, cross_entropy


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_quantisation_is_that_of_torch(bits):
    top = 2 ** (bits - 1) - 1
    linear, transposed = torch.randn(6, 10), torch.randn(10, 6)
    for weight, dim in ((linear, 0), (transposed, 1)):
        scale = weight.abs().amax(1 - dim) / top
        zero = torch.zeros(6, dtype=torch.int32)
        expected = torch.fake_quantize_per_channel_affine(weight, scale, zero, dim, -top, top)
        found = Quantise(channel_dims={"w": dim})("w", weight, bits)
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    kernel = torch.randn(3, 2, 5, 5)
    scale = kernel.abs().amax((1, 2, 3)) / top
    expected = torch.fake_quantize_per_channel_affine(kernel, scale, torch.zeros(3, dtype=torch.int32), 0, -top, top)
    assert torch.allclose(Quantise()("w", kernel, bits), expected, rtol=1e-6, atol=1e-6)


def test_groups_have_scales_of_their_own():
    weight = torch.randn(5, 10)
    expected = torch.empty_like(weight)
    for row in range(5):
        for start in range(0, 10, 4):  # 4, 4 and 2
            part = weight[row, start : start + 4]
            scale = part.abs().max() / 7
            expected[row, start : start + 4] = torch.round(part / scale) * scale
    assert torch.allclose(Quantise(group=4)("w", weight, 4), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(Quantise(group=10)("w", weight, 4), Quantise()("w", weight, 4))


def test_zeros_stay_zeros_and_vectors_stay():
    weight = torch.randn(3, 4)
    weight[1] = 0
    assert torch.equal(Quantise()("w", weight, 3)[1], torch.zeros(4))
    bias = torch.randn(4)
    assert Quantise()("b", bias, 2) is bias
    assert Prune()("b", bias, 0.5) is bias


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_pruning_is_that_of_torch(share):
    layer = nn.Linear(11, 7)
    weight = layer.weight.detach().clone()
    prune.l1_unstructured(layer, "weight", share)
    assert torch.equal(Prune()("w", weight, share), layer.weight.detach())
    rows = Prune("row")("w", weight, share)
    assert ((rows == 0).sum(1) == round(share * 11)).all()
    assert torch.equal(Prune("row", {"w": 1})("w", weight.T, share).T, rows)


def test_equal_weights_are_pruned_to_the_share():
    assert int((Prune()("w", torch.ones(10, 10), 0.3) == 0).sum()) == 30


def test_normal_numbers_are_normal_and_depend_on_the_name_only():
    one = normal(torch.empty(400, 1000), "0/0/a")
    assert abs(float(one.mean())) < 5 / one.numel() ** 0.5
    assert float(one.var()) == pytest.approx(1, abs=5 * (2 / one.numel()) ** 0.5)
    assert torch.equal(one, normal(torch.empty(400, 1000), "0/0/a"))
    other = normal(torch.empty(400, 1000), "0/0/b")
    assert abs(float((one * other).mean())) < 5 / one.numel() ** 0.5
    blocks = one[:390].view(6, -1)  # 65 rows each
    correlations = torch.corrcoef(blocks)
    assert float((correlations - torch.eye(6)).abs().max()) < 5 / blocks.shape[1] ** 0.5
    assert normal(torch.empty(0, 3), "0").shape == (0, 3)


def test_noise_of_a_parameter_does_not_depend_on_the_others():
    weight = torch.randn(3, 4)
    scale = torch.tensor(0.5)
    by_itself = Noise({"w": scale}, seed=3)("w", weight, 0.1, draw=2)
    among = Noise({"v": scale, "w": scale}, seed=3)
    with among.reusing():
        among("v", torch.randn(5), 0.1, draw=2)
        assert torch.equal(among("w", weight, 0.1, draw=2), by_itself)
        assert torch.equal(among("w", weight, 0.1, draw=1), Noise({"w": scale}, seed=3)("w", weight, 0.1, draw=1))
        assert torch.equal(among("w", weight, 0.1, draw=2), by_itself)


def model(tied=False):
    torch.manual_seed(0)
    module = Attention(tied=tied)
    ids = torch.randint(0, 7, (6, 9))
    batches = [(ids[i : i + 2, :-1], ids[i : i + 2, 1:]) for i in (0, 2, 4)]
    return module, batches


def loss(module, batch):
    return F.cross_entropy(module(batch[0]).flatten(0, 1), batch[1].flatten())


def by_hand(module, batches, modification, strength, draw=0):
    changed = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            parameter.copy_(modification(name, parameter.detach().clone(), strength, draw))
        return [float(loss(changed, batch)) for batch in batches]


def changes(module):
    names = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    return [
        (Quantise(), [8, 4, 3]),
        (Quantise(group=4), [3]),
        (Prune(), [0.3, 0.7]),
        (Prune("row"), [0.5]),
        (Direction(names), [-0.1, 0.2]),
    ]


@pytest.mark.parametrize("substitute", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_losses_are_those_of_a_changed_copy(substitute, tied):
    module, batches = model(tied)
    before = copy.deepcopy(module.state_dict())
    objective = Objective(module, loss, batches, weights=[1, 2, 3], substitute=substitute)
    for modification, strengths in changes(module):
        levels = modified_loss(objective, modification, strengths)
        for level, strength in zip(levels, strengths, strict=True):
            expected = by_hand(module, batches, modification, strength)
            plain = by_hand(module, batches, Direction({}), 0)
            mean = sum(w * v for w, v in zip([1, 2, 3], expected, strict=True)) / 6
            assert level.modified_loss == pytest.approx(mean, rel=1e-5)
            assert level.stderr == 0
            differences = [b - a for a, b in zip(plain, expected, strict=True)]
            change = sum(w * d for w, d in zip([1, 2, 3], differences, strict=True)) / 6
            assert level.change == pytest.approx(change, abs=1e-6)
            spread = sum((w / 6 * (d - change)) ** 2 for w, d in zip([1, 2, 3], differences, strict=True)) * 3 / 2
            assert level.batch_stderr == pytest.approx(spread**0.5, rel=1e-2, abs=1e-6)
    assert objective.substitute is substitute
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_substituted_noise_is_written_noise():
    module, batches = model()
    scales = noise_scales(module, dict(module.named_parameters()), "relative")
    written, substituted = (
        perturbation_sensitivity(Objective(module, loss, batches, substitute=s), scales, [0.1, 0.2], draws=3)
        for s in (False, True)
    )
    for left, right in zip(written, substituted, strict=True):
        assert left.draws == pytest.approx(right.draws, rel=1e-6)
        pairs = [
            sum(by_hand(module, batches, Noise(scales), sign * left.gamma, draw)) / 3
            for draw in range(3)
            for sign in (1, -1)
        ]
        assert left.draws == pytest.approx([sum(pairs[i : i + 2]) / 2 for i in (0, 2, 4)], rel=1e-6)


def test_standard_error_over_batches_covers():
    """Means over 8 random batches of a loss with a known mean: z has unit variance."""
    module = nn.Linear(1, 1, bias=False)
    generator = torch.Generator().manual_seed(0)
    shift = Direction({"weight": torch.ones(1, 1)})
    found = []
    for _ in range(60):
        batches = list(torch.randn(8, generator=generator))
        objective = Objective(module, lambda m, b: (m.weight * b).sum() + 1, batches)
        level = modified_loss(objective, shift, [1.0])[0]
        found.append(level.change / level.batch_stderr)
    assert 0.8 < torch.tensor(found).std() < 1.6  # Student's t of 7 degrees: 1.18
    one = modified_loss(Objective(module, lambda m, b: m.weight.sum(), [None]), shift, [1.0])[0]
    assert math.isnan(one.batch_stderr)


def test_draws_and_batches_in_full():
    module, batches = model()
    scales = noise_scales(module, dict(module.named_parameters()), "relative")
    level = modified_loss(Objective(module, loss, batches), Noise(scales), [0.1], draws=2)[0]
    assert level.loss_by_batch == pytest.approx(by_hand(module, batches, Direction({}), 0), rel=1e-6)
    for draw in (0, 1):
        up, down = (by_hand(module, batches, Noise(scales), s * 0.1, draw) for s in (1, -1))
        expected = [(a + b) / 2 for a, b in zip(up, down, strict=True)]
        assert level.by_batch[draw] == pytest.approx(expected, rel=1e-6)


def test_a_modification_of_ones_own():
    class Halved(Modification):
        def __call__(self, name, weight, strength, draw=0):
            return weight * strength if name == "head.weight" else weight

    module, batches = model()
    level = modified_loss(Objective(module, loss, batches), Halved(), [0.5])[0]
    assert level.modified_loss == pytest.approx(sum(by_hand(module, batches, Halved(), 0.5)) / 3, rel=1e-6)


def test_channels_that_are_not_first():
    from transformers.pytorch_utils import Conv1D

    module = nn.Sequential(nn.Linear(3, 4), nn.ConvTranspose2d(3, 4, 2), Conv1D(4, 3))
    assert channel_dims(module) == {"1.weight": 1, "2.weight": 1}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Quantise(group=0), "group=0 must be a whole number"),
        (lambda: Prune("size"), "by='size' is unknown"),
        (lambda: Quantise().check([4.5]), "bits must be whole numbers from 2 to 16; got"),
        (lambda: Quantise().check([1]), "bits must be"),
        (lambda: Prune().check([0.5, 1.0]), "shares of weights must be between 0 and 1"),
        (lambda: Noise({"w": torch.tensor(1.0)}).check([float("nan")]), "gammas must be positive"),
        (lambda: Noise({"w": torch.tensor(0.0)}), "none of the 1 measured parameters gets noise"),
        (lambda: modified_loss(Objective(nn.Linear(1, 1), cross_entropy, [0]), 3, [1]), "must be of a subclass"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(UserError, match=message):
        make()
