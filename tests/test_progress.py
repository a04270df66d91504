from __future__ import annotations

import io
import sys

import pytest

from lightning_tl import progress
from lightning_tl.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_with_a_rate_and_the_time_left(clock, capsys):
    with progress_bar("render", "images") as advance:
        advance(500, 1000)  # there already: not in the rate
        for _ in range(4):
            clock[0] += 5
            advance_to = 500 + int((clock[0] - 100) * 10)
            advance(advance_to, 1000)
        clock[0] += 1
        advance(1000, 1000)
        advance(1000, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "render: 600/1000 images, 10.0/s, 40 s left",
        "render: 700/1000 images, 10.0/s, 30 s left",
        "render: 1000/1000 images, 23.8/s",
    ]


def test_nothing_to_do_is_one_line(clock, capsys):
    with progress_bar("train", "steps") as advance:
        advance(30, 30)
    assert capsys.readouterr().err == "train: 30/30 steps\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("render", "images") as advance:
        advance(0, 10)
        advance(10, 10)
    text = terminal.getvalue()
    assert "render" in text
    assert "10/10" in text
    assert "images/s" in text


def test_slow_items_have_a_rate_that_is_not_zero(clock, capsys):
    with progress_bar("train", "runs") as advance:
        advance(16, 33)
        clock[0] += 120
        advance(18, 33)
        clock[0] += 3600
        advance(19, 33)
    assert capsys.readouterr().err.splitlines() == [
        "train: 18/33 runs, 1.0/min, 15 min left",
        "train: 19/33 runs, 2.9/h, 4.8 h left",
    ]


@pytest.mark.parametrize(
    "rate,text", [(0, ""), (23.81, "23.8/s"), (1, "1.0/s"), (0.5, "30.0/min"), (0.01, "36.0/h"), (1e-5, "0.0/h")]
)
def test_rates(rate, text):
    assert progress.rate_text(rate) == text


@pytest.mark.parametrize(
    "epochs,steps,batches,total",
    [
        (-1, 25, 10, 3),
        (None, 20, 10, 2),
        (5, -1, 10, 5),
        (1, 25, 10, 1),
        (-1, -1, 10, None),
        (-1, 25, float("inf"), None),
    ],
)
def test_epochs_of_a_training(epochs, steps, batches, total):
    from lightning_tl.run_output import epochs_in_all

    assert epochs_in_all(epochs, steps, batches) == total


@pytest.mark.filterwarnings("ignore")
def test_the_bar_of_a_run_counts_its_epochs(renders, tmp_path, capsys):
    from training import pretraining

    from lightning_tl.run import run

    monkey = [option for option in pretraining(renders, tmp_path / "out") if "enable_progress_bar" not in option]
    bar = ["--trainer.enable_progress_bar=true"]
    cli = run([*monkey, *bar])
    (shown,) = [item for item in cli.trainer.callbacks if hasattr(item, "_get_train_description")]
    assert shown._get_train_description(2).strip() == "Epoch 3/3"  # ten steps, four to an epoch


@pytest.mark.parametrize(("restarted", "total"), [(True, 512), (False, 312)])
def test_the_bar_of_an_epoch_that_goes_on_counts_all_of_it(restarted, total):
    from types import SimpleNamespace

    from lightning_tl.run_output import RunProgressBar

    current = SimpleNamespace(ready=200)
    epochs = SimpleNamespace(batch_progress=SimpleNamespace(current=current))
    loop = SimpleNamespace(restarted_mid_epoch=restarted, epoch_loop=epochs)
    bar = RunProgressBar()
    bar._trainer = SimpleNamespace(
        max_epochs=-1, max_steps=512, global_step=200, num_training_batches=600, fit_loop=loop
    )
    assert bar.total_train_batches == total


def test_tips_are_shown_once(caplog):
    import logging

    from lightning_tl.run_output import quieten_lightning

    quieten_lightning()
    quieten_lightning()
    logger = logging.getLogger("lightning.pytorch")
    logger.propagate, before = True, logger.propagate
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        for _ in range(3):
            logger.info("💡 Tip: install our product, test_tips_are_shown_once")
            logger.info("another line")
        logger.info("💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger](https://x)")
        logger.info("GPU available: False, used: False")
        logger.info("GPU available: True (cuda), used: False")
    logger.propagate = before
    said = [record.getMessage() for record in caplog.records]
    assert sum("Tip" in line for line in said) == 1
    assert [line for line in said if "GPU" in line] == ["GPU available: True (cuda), used: False"]
    assert said.count("another line") == 3
