"""Adapters of PEFT: distances of merged weights against the merged weights themselves; noise."""

import copy

import peft
import pytest
import torch
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import noise_scales, select, snapshot
from lightning_tl.measure.lora import find_adapters, merged_distance
from tests.measure.test_layer_kinds import tiny_gpt2, tiny_llama


def adapted(base, **options):
    torch.manual_seed(0)
    return peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=12, **options))


def move(module, size=0.1):
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "lora_" in name:
                p.add_(size * torch.randn_like(p))


def merged_weights(module):
    """Return the weight of each adapted layer as PEFT merges it, in float64."""
    merged = copy.deepcopy(module).double()
    layers = {name: layer for name, layer in merged.named_modules() if hasattr(layer, "get_delta_weight")}
    for layer in layers.values():
        layer.merge()
    return {name: layer.get_base_layer().weight.detach() for name, layer in layers.items()}


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 5, 3), nn.Linear(5, 4)


MODELS = {
    "llama": lambda: adapted(tiny_llama(), target_modules=["q_proj", "down_proj", "embed_tokens"]),
    "gpt2": lambda: adapted(tiny_gpt2(), target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),
    "rank-stabilised": lambda: adapted(tiny_llama(), target_modules=["v_proj"], use_rslora=True),
    "images": lambda: adapted(Images(), target_modules=["conv", "head"]),
}


@pytest.mark.parametrize("start", ["zero", "moved"])
@pytest.mark.parametrize("name", MODELS)
def test_the_merged_distance_is_that_of_merged_weights(name, start):
    module = MODELS[name]()
    if start == "moved":
        move(module)
    reference, before = snapshot(select(module)), merged_weights(module)
    assert max(merged_distance(module, reference).values()) == 0
    move(module)
    after = merged_weights(module)
    kept = {key: value.clone() for key, value in module.state_dict().items()}
    found = merged_distance(module, reference)
    assert found.keys() == after.keys()
    for layer, value in found.items():
        assert value == pytest.approx(float((after[layer] - before[layer]).norm()), rel=1e-9), layer
    assert all(torch.equal(value, kept[key]) for key, value in module.state_dict().items())


def test_small_steps_of_large_adapters_do_not_cancel():
    module = MODELS["llama"]().double()
    move(module, 100.0)
    reference, before = snapshot(select(module)), merged_weights(module)
    move(module, 1e-7)
    after = merged_weights(module)
    for layer, value in merged_distance(module, reference).items():
        assert value == pytest.approx(float((after[layer] - before[layer]).norm()), rel=1e-5)


def test_two_adapters_of_one_layer_and_a_reference_without_them():
    module = MODELS["llama"]()
    base = {name: value for name, value in module.state_dict().items() if "lora_" not in name}
    start = merged_weights(module)
    module.add_adapter("second", peft.LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj"]))
    module.base_model.set_adapter(["default", "second"])
    move(module)
    after = merged_weights(module)
    found = merged_distance(module, base)
    assert {adapter.scaling for adapter in find_adapters(module)} == {4.0, 1.0}
    for layer, value in found.items():
        assert value == pytest.approx(float((after[layer] - start[layer]).norm()), rel=1e-9), layer


def test_only_layers_that_are_measured_and_only_products():
    module = MODELS["llama"]()
    names = select(module, include="layers.0.self_attn.q_proj.lora_B")
    assert list(merged_distance(module, {}, names)) == ["base_model.model.model.layers.0.self_attn.q_proj"]
    assert merged_distance(module, {}, select(module, trainable=False, exclude="lora_")) == {}
    assert merged_distance(adapted(tiny_llama(), target_modules=["q_proj"], use_dora=True), {}) == {}
    assert find_adapters(tiny_llama()) == []


def test_an_adapter_without_a_library():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(4, 2))
            self.scaling = 0.5

    module = nn.Sequential(nn.ReLU(), Layer())
    expected = 0.5 * float((module[1].lora_B.detach().double() @ module[1].lora_A.detach().double()).norm())
    assert merged_distance(module, {})["1"] == pytest.approx(expected, rel=1e-9)


def test_noise_by_initialisation_is_for_the_frozen_weights():
    module = MODELS["llama"]()
    with pytest.raises(UserError, match=r"lora_embedding_A.*trainable=False, exclude='lora_'"):
        noise_scales(module, select(module))
    frozen = noise_scales(module, select(module, trainable=False, exclude="lora_"))
    plain_model = tiny_llama()
    fresh = noise_scales(plain_model, select(plain_model))
    assert len(frozen) == len(fresh)
    for name, scale in frozen.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        assert float(scale) == float(fresh[plain]), name
        assert (float(scale) == 0) == ("norm" in name), name
    relative = noise_scales(module, select(module), "relative")
    assert len(relative) == len(select(module))


def test_parameters_that_are_stored_as_integers():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.uint8), requires_grad=False)
    assert len(select(module)) == 3
    with pytest.raises(UserError, match=r"1.weight of Sequential are stored as integers .*exclude="):
        select(module, trainable=False)
