"""The scales of the noise against the distributions that layers are initialised with."""

import logging
import math
import re

import pytest
import torch
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import noise_scales, select
from tests.measure.cases import (
    Attention,
)


def test_init_noise_has_the_variance_of_the_layers_own_initialisation():
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(50, 40), nn.Embedding(9, 12), nn.MultiheadAttention(8, 2)
    )
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(7).add_(1)  # training must not matter
    before = torch.get_rng_state()
    scales = noise_scales(module, select(module))
    assert torch.equal(before, torch.get_rng_state())
    # uniform on ±1/√fan_in by kaiming_uniform_(a=√5), and biases alike
    assert float(scales["0.weight"]) == pytest.approx(1 / math.sqrt(3 * 27), rel=0.03)
    assert float(scales["0.bias"]) == pytest.approx(1 / math.sqrt(3 * 27), rel=0.1)
    assert float(scales["2.weight"]) == pytest.approx(1 / math.sqrt(3 * 50), rel=0.03)
    assert float(scales["3.weight"]) == pytest.approx(1, rel=0.03)
    assert float(scales["4.in_proj_weight"]) == pytest.approx(math.sqrt(2 / (8 + 24)), rel=0.03)
    for constant in ("1.weight", "1.bias", "4.in_proj_bias", "4.out_proj.bias"):
        assert float(scales[constant]) == 0, constant


def test_init_noise_from_a_reference(tmp_path):
    module = Attention()

    def fresh():
        made = Attention()
        for p in made.parameters():
            nn.init.normal_(p, std=0.3) if p.dim() > 1 else nn.init.zeros_(p)
        return made

    by_function = noise_scales(module, select(module), reference=fresh)
    assert float(by_function["qkv.weight"]) == pytest.approx(0.3, rel=0.05)
    assert float(by_function["qkv.bias"]) == 0
    torch.save({"state_dict": fresh().state_dict()}, tmp_path / "fresh.ckpt")
    by_path = noise_scales(module, select(module), reference=tmp_path / "fresh.ckpt")
    assert float(by_path["qkv.weight"]) == pytest.approx(0.3, rel=0.2)
    for reference in (fresh().state_dict(), fresh()):
        assert float(noise_scales(module, select(module), reference=reference)["qkv.bias"]) == 0


def test_relative_noise_is_a_share_of_each_tensor_or_filter():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5))
    scales = noise_scales(module, select(module), "relative")
    ones = torch.ones(3, 2, 3, 3)
    norms = (scales["0.weight"] * ones).flatten(1).norm(dim=1)
    assert torch.allclose(norms, module[0].weight.flatten(1).norm(dim=1))
    noise = scales["1.weight"] * torch.ones(5, 4)
    assert float(noise.norm()) == pytest.approx(float(module[1].weight.detach().norm()))


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.linear = nn.Linear(3, 3)


def test_messages_name_the_layer_and_the_way_out(caplog):
    module = Bare()
    params = select(module)
    with caplog.at_level(logging.INFO):
        assert float(noise_scales(module, params)["gain"]) == 0
    summary, doubt = caplog.messages
    assert summary.endswith("from reset_parameters() (linear.weight, linear.bias); their present values (gain)")
    assert re.search(r"\(top\) \(Bare\)\. The spread of their present values is used\. .*noise='relative'", doubt)
    with pytest.raises(UserError, match="noise='gauss' is unknown"):
        noise_scales(module, params, "gauss")


def test_references_that_do_not_fit(tmp_path):
    module = Bare()
    params = select(module)
    with pytest.raises(UserError, match=r"the reference lacks 1 of 3 measured parameters.*gain"):
        noise_scales(module, params, reference={"linear.weight": torch.ones(3, 3), "linear.bias": torch.ones(3)})
    with pytest.raises(UserError, match="reference must build a module; it returned a list"):
        noise_scales(module, params, reference=lambda: [Bare()])
    with pytest.raises(UserError, match="no such file"):
        noise_scales(module, params, reference=tmp_path / "absent.ckpt")
