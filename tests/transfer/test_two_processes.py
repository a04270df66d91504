"""Two processes on gloo train as one process with the whole batch does, and none waits for an unused parameter."""

from __future__ import annotations

import csv

import pytest
import torch
from ports import free_port
from transferred import BACKBONE, data, different, fit, pretrained, sgd, state, task

from lightning_tl.tasks import MultiLabelClassification
from lightning_tl.transfer import EWC, L2SP, LPFT, SAM, Adapter, Average, FreezeStages, LoRA, Partial, Replay, WiSEFT

pytestmark = pytest.mark.filterwarnings("ignore")

WAYS = {
    "average": lambda: [SAM(0.2), Replay(0.5), EWC(5.0, images=8), Average(ema=0.5)],
    "interpolation": lambda: [Replay(1 / 3), WiSEFT([0, 0.5], take=0.5)],
    "lpft": lambda: [LPFT(probe_steps=1)],
    "frozen and pulled": lambda: [FreezeStages(1), L2SP(3.0)],
    "lora": lambda: [LoRA(2, alpha=8)],
    "adapter": lambda: [Adapter(4)],
    "partial": lambda: [Partial(share=0.5, inherited="slowed")],
}


class SavedStatistics(MultiLabelClassification):
    """Keeps the backbone's BatchNorm statistics: in train mode each process would normalise by its own images."""

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_equal_one(renders, tmp_path, monkeypatch, way):
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    start = pretrained(tmp_path / "pre.ckpt")

    def made(methods) -> SavedStatistics:
        torch.manual_seed(1)
        module = SavedStatistics(3, backbone=BACKBONE, init_from=start, transfer=methods, optimizer=sgd)
        return module.train()

    def trained(processes: int) -> dict[str, torch.Tensor]:
        methods = WAYS[way]()
        images = {"batch_size": 8 // processes}
        for method in methods:
            if hasattr(method, "use_pretraining"):
                network = task(None, seed=0)
                network.load_state_dict(torch.load(start, weights_only=True)["state_dict"])
                method.use_pretraining(network, data(renders, seed=4, **images))
        module = made(methods)
        strategy = {"devices": processes, "strategy": "ddp_spawn"} if processes > 1 else {}
        fit(module, data(renders, **images), tmp_path / str(processes), max_steps=2, **strategy)
        return state(module)

    one, two = trained(1), trained(2)
    moved = different(one, state(made(WAYS[way]())))
    assert any(name.startswith("backbone.layer4") for name in moved)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    if way == "interpolation":
        errors = []
        for processes in ("1", "2"):
            with (tmp_path / processes / "interpolations.csv").open() as file:
                errors.append([float(row["val_error"]) for row in csv.DictReader(file)])
        assert errors[0] == pytest.approx(errors[1], rel=1e-4)
