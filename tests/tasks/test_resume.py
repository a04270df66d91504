"""A segmentation and a language model with dropout, killed and resumed, end with the weights of runs never killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import pytest
from training import DRIVER, equal, every_step, state

from lightning_tl.corpus.build import BuildOptions, build_corpus
from lightning_tl.corpus.sources import plan_sources
from lightning_tl.run import run

STEPS = 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_killed_and_resumed_equals_uninterrupted(renders, tmp_path):
    check(
        tmp_path,
        "--config=pretrain/semseg_small",
        f"--data.root={renders}",
        "--data.batch_size=4",
        "--data.steps_per_epoch=3",
        f"--model.schedule.images={4 * STEPS}",
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_language_model_killed_in_the_middle_of_an_epoch(tmp_path):
    rng = random.Random(1)
    texts = ["".join(rng.choices("abcd \n", k=200)) for _ in range(60)]
    (tmp_path / "a.txt").write_text("<end>".join(texts))
    chunks = plan_sources([str(tmp_path / "a.txt")], delimiter="<end>")
    build_corpus(chunks, tmp_path / "corpus", BuildOptions("ascii", 0.1, 0.1))
    check(
        tmp_path,
        "--config=pretrain/language_small",
        f"--data.root={tmp_path / 'corpus'}",
        "--data.batch_size=8",
        f"--data.n={8 * 32 * STEPS}",
        "--model.dropout=0.2",
        "--model.transfer=SAM",  # also what a method keeps
    )


def check(tmp_path, *options):
    def arguments(out, *more):
        own = [f"--trainer.default_root_dir={out}", "--trainer.enable_progress_bar=false"]
        return ["fit", *options, *own, *more]

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
