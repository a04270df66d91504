"""Two processes on gloo see, step by step, what one process with twice the batch size sees."""

from __future__ import annotations

import json
import os
from itertools import chain
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from ports import free_port
from torch import nn

from lightning_tl.data import Rendered
from lightning_tl.data.sample_order import EvalBatches, StepBatches

STEPS, EPOCH = 6, 4


class Noting(pl.LightningModule):
    """Notes a fingerprint of every image of every step; its BatchNorm makes the processes wait for each other."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out, self.net = out, nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.LazyLinear(1))
        self.net(torch.zeros(2, 3, 16, 16))
        self.seen: dict[str, list[list[float]]] = {"train": [], "val": []}

    def note(self, stage, images):
        self.seen[stage].append([round(float(image.double().abs().sum()), 2) for image in images])

    def training_step(self, batch, batch_idx):
        self.note("train", batch[0])
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.note("val", batch[0])
        self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def on_train_end(self):
        (self.out / f"rank{self.global_rank}.json").write_text(json.dumps(self.seen))


def fit(out: Path, renders: Path, settings: dict, processes: int, checkpoint: Path | None = None) -> list[dict]:
    out.mkdir()
    data = Rendered(renders, n=50, batch_size=8 // processes, steps_per_epoch=EPOCH, eval_batch_size=5, **settings)
    os.environ["MASTER_PORT"] = str(free_port())
    try:
        pl.Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp_spawn" if processes > 1 else "auto",
            max_steps=STEPS,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[ModelCheckpoint(out, every_n_train_steps=3, save_top_k=-1, filename="{step}")],
        ).fit(Noting(out), datamodule=data, ckpt_path=checkpoint)
    finally:
        del os.environ["MASTER_PORT"]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(processes)]


def together(ranks: list[dict], stage: str) -> list[list[float]]:
    return [sorted(chain.from_iterable(parts)) for parts in zip(*(rank[stage] for rank in ranks), strict=True)]


def alike(a, b):
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert left == pytest.approx(right, abs=0.05)


SETTINGS = {
    "batches": {"transform": {"size": 16, "crop_scale": [0.5, 0.9], "hflip": 0.5, "invert": 0.3}},
    "one by one": {"transform": {"size": 16, "scale": [0.3, 1.0], "eval_resize": 16}, "target": "sinclass"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["batches", pytest.param("one by one", marks=pytest.mark.slow)])
def test_two_processes_see_what_one_sees(renders, tmp_path, kind):
    two = fit(tmp_path / "two", renders, SETTINGS[kind], 2)
    (one,) = fit(tmp_path / "one", renders, SETTINGS[kind], 1)
    assert [len(batch) for batch in two[0]["train"]] == [4] * STEPS
    alike(together(two, "train"), [sorted(batch) for batch in one["train"]])
    # in evaluation every image counts once, and the processes have as many batches
    assert len(two[0]["val"]) == len(two[1]["val"])
    alike(
        [sorted(chain.from_iterable(batch for r in two for batch in r["val"]))],
        [sorted(chain.from_iterable(one["val"]))],
    )
    assert sum(len(batch) for batch in one["val"]) == 24


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_in_an_epoch(renders, tmp_path, workers):
    settings = SETTINGS["one by one"] | {"num_workers": workers}
    (whole,) = fit(tmp_path / "whole", renders, settings, 1)
    (rest,) = fit(tmp_path / "rest", renders, settings, 1, tmp_path / "whole" / "step=3.ckpt")
    assert len({tuple(batch) for batch in whole["train"]}) == STEPS
    assert rest["train"] == whole["train"][3:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_resumed_in_an_epoch(renders, tmp_path):
    whole = fit(tmp_path / "whole", renders, SETTINGS["batches"], 2)
    rest = fit(tmp_path / "rest", renders, SETTINGS["batches"], 2, tmp_path / "whole" / "step=3.ckpt")
    for before, after in zip(whole, rest, strict=True):
        assert after["train"] == before["train"][3:]


@given(st.integers(1, 60), st.integers(1, 7), st.sampled_from([1, 2, 3, 4]), st.integers(0, 20), st.integers(0, 3))
def test_processes_share_a_step(length, batch_size, processes, step, seed):
    whole = StepBatches(length, batch_size * processes, seed).batch(step)
    parts = [StepBatches(length, batch_size, seed, rank=r, processes=processes).batch(step) for r in range(processes)]
    assert list(chain.from_iterable(parts)) == list(whole)


@given(st.integers(1, 80), st.integers(1, 9), st.sampled_from([1, 2, 3, 4]))
def test_evaluation_counts_each_image_once(length, batch_size, processes):
    parts = [EvalBatches(length, batch_size, rank, processes) for rank in range(processes)]
    assert len({len(part) for part in parts}) == 1
    batches = [batch for part in parts for batch in part]
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    seen = sorted(chain.from_iterable(batches))
    repeated = parts[0].repeated
    assert len(seen) == length + repeated
    assert set(seen) == set(range(length))
    if repeated:  # only where there are too few images for a batch each, or batches of one
        assert batch_size == 1 or length < processes
        assert repeated < processes
