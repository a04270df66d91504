"""The callbacks on a model with PEFT's adapters."""

import math

import peft
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from tests.callbacks.modules import trainer
from tests.measure.test_lora import merged_weights


class Tuned(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.net = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=8, target_modules=["0", "2"]))

    def training_step(self, batch, index):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.05)


def test_distances_of_merged_weights_and_measurements_of_frozen_ones():
    module = Tuned()
    start = merged_weights(module.net)
    frozen = {"trainable": False, "exclude": "lora_"}
    measuring = [
        ParameterDistance(every_n_steps=4),
        ParameterDistance(every_n_steps=4, prefix="frozen/", **frozen),
        PerturbationSensitivity([0.1], draws=2, every_n_steps=4, **frozen),
        HessianTrace(4, noise="init", **frozen),
    ]
    data = DataLoader([(torch.randn(6), i % 3) for i in range(16)], batch_size=4)
    run = trainer(max_steps=4, callbacks=measuring)
    run.fit(module, data)
    after = merged_weights(module.net)
    moved = {layer: float((after[layer] - start[layer]).norm()) for layer in after}
    logged = run.callback_metrics
    for layer, value in moved.items():
        assert float(logged[f"param_distance/merged/net.{layer}"]) == pytest.approx(value, rel=1e-6)
    assert float(logged["param_distance/merged"]) == pytest.approx(math.hypot(*moved.values()), rel=1e-6)
    assert float(logged["param_distance/total"]) > 0
    assert float(logged["frozen/param_distance/total"]) == 0
    assert not any("frozen/param_distance/merged" in key for key in logged)
    assert float(logged["sensitivity/gamma_0.1_stderr"]) > 0
    assert set(measuring[2].of_noise.noise.state()["scales"]) == {
        f"net.base_model.model.{i}.base_layer.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }
    assert not any(p.requires_grad for name, p in module.named_parameters() if "base_layer" in name)
