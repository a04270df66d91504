"""Two processes on gloo train as one process with the whole batch does, and none waits for an unused parameter."""

from __future__ import annotations

import os
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from ports import free_port

from lightning_tl.data import Rendered
from lightning_tl.tasks import Classification, MultiLabelClassification
from lightning_tl.transfer import L2SP, LPFT, Adapter, FreezeStages, LoRA, Partial

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Saving(MultiLabelClassification):
    """Saves what it ends with."""

    out = Path()

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()  # else batch norm would normalise by each process's own images
        return self

    def on_train_end(self):
        torch.save(self.state_dict(), self.out / f"rank{self.global_rank}.pt")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def fit(out: Path, renders: Path, start: Path, transfer, processes: int):
    out.mkdir()
    torch.manual_seed(0)
    module = Saving(3, backbone="resnet10_w8", init_from=start, transfer=transfer, optimizer=sgd)
    module.out = out
    module.train()
    data = Rendered(renders, n=50, batch_size=16 // processes, eval_batch_size=8)
    os.environ["MASTER_PORT"] = str(free_port())
    try:
        pl.Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp_spawn" if processes > 1 else "auto",
            max_steps=3,
            max_epochs=-1,
            default_root_dir=out,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        ).fit(module, data)
    finally:
        del os.environ["MASTER_PORT"]
    return [torch.load(out / f"rank{rank}.pt") for rank in range(processes)]


METHODS = {
    "lpft": lambda: LPFT(probe_steps=2),
    "frozen_and_pulled": lambda: [FreezeStages(1), L2SP(3.0)],
    "lora": lambda: LoRA(2, alpha=8),
    "adapter": lambda: Adapter(4),
    "partial": lambda: Partial(share=0.5, inherited="slowed"),
}
SLOW = {"adapter", "partial"}


@pytest.mark.parametrize(
    "make", [pytest.param(each, id=key, marks=[pytest.mark.slow] * (key in SLOW)) for key, each in METHODS.items()]
)
def test_two_processes_train_as_one(renders, tmp_path, make):
    torch.manual_seed(1)
    start = tmp_path / "start.ckpt"
    torch.save(Classification(3, backbone="resnet10_w8").state_dict(), start)
    (whole,) = fit(tmp_path / "one", renders, start, make(), 1)
    first = torch.load(start)
    last = {name: value for name, value in whole.items() if name.startswith("backbone.layer4")}
    zeros = {name: torch.zeros_like(value) for name, value in last.items() if name.endswith((".lora_B", ".up.weight"))}
    assert any(not torch.equal(last[name], value) for name, value in (first | zeros).items() if name in last)
    for found in fit(tmp_path / "two", renders, start, make(), 2):
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
