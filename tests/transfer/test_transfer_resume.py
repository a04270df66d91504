"""A training that goes on from a checkpoint ends with the weights of one that was never interrupted."""

from __future__ import annotations

import pytest
import torch
from training import equal, every_step, finetuning, state

from lightning_tl.run import run
from lightning_tl.tasks import Classification

METHODS = {
    "probe": "LinearProbe",
    "lpft": "{class_path: LPFT, init_args: {probe_steps: 3}}",
    "unfreeze": "{class_path: Unfreeze, init_args: {schedule: [1, 4]}}",
    "batchnorm": "BNOnly",
    "lora": "{class_path: LoRA, init_args: {rank: 4, dropout: 0.1}}",
    "share": "{class_path: Partial, init_args: {share: 0.5, inherited: frozen}}",
    "pull": "[{class_path: L2SP, init_args: {strength: 1.0}}, {class_path: FreezeStages, init_args: {stages: 1}}]",
    "decay": "[{class_path: L2SP, init_args: {strength: 1.0, decoupled: true}}, "
    "{class_path: Layerwise, init_args: {decay: 0.5}}]",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
def test_resumed_equals_uninterrupted(tmp_path, name):
    torch.manual_seed(1)
    torch.save(Classification(3, "resnet10_w16", 1).state_dict(), tmp_path / "start.ckpt")
    out = tmp_path / "out"
    args = finetuning(
        out,
        f"--model.transfer={METHODS[name]}",
        f"--model.init_from={tmp_path / 'start.ckpt'}",
        "--model.scheduler=null",
        "--model.schedule=Cosine",
        "--model.schedule.images=48",
        "--trainer.logger=false",
        every_step(out),
    )
    whole = run(args)
    (tmp_path / "start.ckpt").unlink()  # a resumed training does not need it
    resumed = run([*args, f"--ckpt_path={out}/steps/step=2.ckpt"])
    assert resumed.trainer.global_step == 6
    assert equal(state(resumed.model), state(whole.model))
    frozen = [[p.requires_grad for p in each.model.parameters()] for each in (whole, resumed)]
    assert frozen[0] == frozen[1]
