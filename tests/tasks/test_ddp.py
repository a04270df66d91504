"""Two processes on gloo train and score as one process with the whole batch does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from ports import free_port

from lightning_tl.data import Rendered
from lightning_tl.tasks import Classification, Cosine, MultiLabelClassification

pytestmark = pytest.mark.filterwarnings("ignore")


class Noting(MultiLabelClassification):
    """Notes what it ends with."""

    out = Path()

    def on_train_end(self):
        names = ("val/score", "val/error", "val/loss")
        values = {name: float(self.trainer.callback_metrics[name]) for name in names}
        values |= {"steps": self.trainer.global_step, "lr": self.optimizers().param_groups[0]["initial_lr"]}
        (self.out / f"rank{self.global_rank}.json").write_text(json.dumps(values))
        torch.save(self.state_dict(), self.out / f"rank{self.global_rank}.pt")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.4, momentum=0.9)


def fit(out: Path, renders: Path, processes: int) -> list[tuple[dict, dict]]:
    out.mkdir()
    torch.manual_seed(0)
    schedule = Cosine(images=16, batch=32, scale_lr="linear")
    module = Noting(3, backbone="resnet10_w16", optimizer=sgd, schedule=schedule)
    module.out = out
    module.backbone.eval()  # in training mode, batch norm would normalise by each process's own images
    data = Rendered(renders, n=50, batch_size=16 // processes, eval_batch_size=8)
    os.environ["MASTER_PORT"] = str(free_port())
    try:
        pl.Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp_spawn" if processes > 1 else "auto",
            max_epochs=-1,
            default_root_dir=out,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        ).fit(module, data)
    finally:
        del os.environ["MASTER_PORT"]
    ranks = range(processes)
    return [(json.loads((out / f"rank{r}.json").read_text()), torch.load(out / f"rank{r}.pt")) for r in ranks]


def test_the_first_step_of_two_processes_is_that_of_one(renders, tmp_path):
    ((values, alone),) = fit(tmp_path / "one", renders, 1)
    torch.manual_seed(0)
    start = Classification(3, backbone="resnet10_w16").state_dict()
    assert values["steps"] == 1
    assert values["lr"] == pytest.approx(0.2)  # 16 images of 32, however many processes share them
    moved = [name for name, value in alone.items() if not torch.equal(value, start[name])]
    assert "backbone.conv1.weight" in moved
    assert "backbone.bn1.running_mean" not in moved
    for found, weights in fit(tmp_path / "two", renders, 2):
        for name, value in alone.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)
        assert found == pytest.approx(values, rel=1e-4)
