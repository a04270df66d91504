"""A training that goes on from a checkpoint ends with the weights of one that was never interrupted."""

from __future__ import annotations

import pytest
import torch
from tasks.toy import Toy, trainer
from training import equal, every_step, finetuning, state

from lightning_tl.errors import UserError
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
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("unfreeze", "lora", "pull"))) for name in METHODS],
)
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


LOW_RANK = {"class_path": "LoRA", "init_args": {"rank": 2}}
PULL = {"class_path": "L2SP", "init_args": {"strength": 1.0}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (None, LOW_RANK, "had no method as transfer, and this one has LoRA: resume with the same"),
        (LOW_RANK, None, "had LoRA as transfer, and this one has no method"),
        (PULL, "SAM", "had L2SP as transfer, and this one has SAM"),
        ([PULL, "SAM"], PULL, "had L2SP and SAM as transfer, and this one has L2SP"),
        (None, "SAM", "had no method as transfer, and this one has SAM"),
    ],
)
def test_another_method_is_refused(tmp_path, before, after, words):
    start = tmp_path / "start.ckpt"
    torch.save(Classification(3, "resnet10_w8").state_dict(), start)

    def fit(transfer, resume=None):
        module = Classification(3, "resnet10_w8", init_from=start, transfer=transfer)
        made = trainer(tmp_path, max_steps=1)
        made.fit(module, Toy("sinclass"), ckpt_path=resume)
        return made

    checkpoint = tmp_path / "one.ckpt"
    fit(before).save_checkpoint(checkpoint)
    with pytest.raises(UserError, match=words):
        fit(after, checkpoint)
    network = Classification(3, "resnet10_w8", transfer=before)  # a test trains nothing
    trainer(tmp_path).validate(network, Toy("sinclass"), ckpt_path=checkpoint, verbose=False)


@pytest.mark.filterwarnings("ignore")
def test_the_command_refuses_another_method(tmp_path):
    args = finetuning(tmp_path / "out", "--trainer.max_steps=1", "--model.scheduler=null", "--trainer.logger=false")
    run(args)
    again = f"--ckpt_path={tmp_path}/out/checkpoints/last.ckpt"
    with pytest.raises(UserError, match=r"--ckpt_path .*last\.ckpt: that training had no method as transfer, .* LoRA"):
        run([*args, "--model.transfer={class_path: LoRA, init_args: {rank: 2}}", again])
