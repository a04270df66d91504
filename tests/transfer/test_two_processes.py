"""Two processes on gloo train as one process with the whole batch does, by the methods together."""

from __future__ import annotations

import csv

import pytest
import torch
from ports import free_port
from transferred import data, different, fit, pretrained, state, task

from lightning_tl.transfer import EWC, SAM, Average, Replay, WiSEFT

pytestmark = pytest.mark.filterwarnings("ignore")

WAYS = {
    "average": lambda: [SAM(0.2), Replay(0.5), EWC(5.0, images=8), Average(ema=0.5)],
    "interpolation": lambda: [Replay(1 / 3), WiSEFT([0, 0.5], take=0.5)],
}


@pytest.mark.parametrize("way", ["average", pytest.param("interpolation", marks=pytest.mark.slow)])
def test_two_processes_equal_one(renders, tmp_path, monkeypatch, way):
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    start = pretrained(tmp_path / "pre.ckpt")

    def trained(processes: int) -> dict[str, torch.Tensor]:
        methods = WAYS[way]()
        images = {"batch_size": 8 // processes}
        for method in methods:
            if hasattr(method, "use_pretraining"):
                network = task(None, seed=0)
                network.load_state_dict(torch.load(start, weights_only=True)["state_dict"])
                method.use_pretraining(network, data(renders, seed=4, **images))
        module = task(start, methods)
        module.backbone.eval()  # in train mode BatchNorm normalises by each process's own images
        strategy = {"devices": processes, "strategy": "ddp_spawn"} if processes > 1 else {}
        fit(module, data(renders, **images), tmp_path / str(processes), max_steps=2, **strategy)
        return state(module)

    one, two = trained(1), trained(2)
    assert different(one, state(task(start)))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    if way == "interpolation":
        errors = []
        for processes in ("1", "2"):
            with (tmp_path / processes / "interpolations.csv").open() as file:
                errors.append([float(row["val_error"]) for row in csv.DictReader(file)])
        assert errors[0] == pytest.approx(errors[1], rel=1e-4)
