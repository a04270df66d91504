"""A segmentation, whose network drops out, killed and resumed ends with the weights of one never killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import pytest
from training import DRIVER, equal, every_step, state

from lightning_tl.run import run

STEPS = 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_killed_and_resumed_equals_uninterrupted(renders, tmp_path):
    def arguments(out, *more):
        return [
            "fit",
            "--config=pretrain/semseg_small",
            f"--data.root={renders}",
            "--data.batch_size=4",
            "--data.steps_per_epoch=3",
            f"--model.schedule.images={4 * STEPS}",
            f"--trainer.default_root_dir={out}",
            "--trainer.enable_progress_bar=false",
            *more,
        ]

    whole = run(arguments(tmp_path / "whole"))
    assert whole.trainer.global_step == STEPS
    step = random.Random(0).randrange(2, STEPS)
    killed = arguments(tmp_path / "killed", every_step(tmp_path / "killed"))
    ended = subprocess.run([sys.executable, "-c", DRIVER, str(step), *killed], capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    last = tmp_path / f"killed/steps/step={step}.ckpt"
    assert not (tmp_path / f"killed/steps/step={step + 1}.ckpt").exists()
    resumed = run([*killed, f"--ckpt_path={last}"])
    assert equal(state(resumed.model), state(whole.model))
