from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_tl import run_output
from lightning_tl.cli.main import main
from lightning_tl.logger_pictures import LoggerPictures, takes_pictures
from lightning_tl.run import run

SMALL = [
    "fit",
    "--config=finetune/digits",
    "--trainer.max_steps=4",
    "--model.scheduler=null",
    "--data.shots=2",
    "--data.steps_per_epoch=2",
    "--trainer.enable_progress_bar=false",
]
MEASURE = (
    "{class_path: lightning_tl.callbacks.PerturbationSensitivity, "
    "init_args: {gammas: [0.01, 0.02], every_n_steps: 2, draws: 2}}"
)


def small_run(folder: Path, *more: str):
    return run([*SMALL, f"--trainer.default_root_dir={folder}", *more])


def test_tensorboard_has_pictures(tmp_path):
    small_run(tmp_path, f"--trainer.callbacks+={MEASURE}")
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert set(events.Tags()["images"]) == {"pictures/training", "pictures/predictions", "pictures/measurements"}
    steps = {name: [event.step for event in events.Images(f"pictures/{name}")] for name in ("training", "predictions")}
    assert steps == {"training": [0], "predictions": [2, 4]}
    for tag in events.Tags()["images"]:
        event = events.Images(tag)[0]
        assert min(event.width, event.height) > 100


class Showing(DummyLogger):
    """Takes pictures as Weights & Biases' logger does."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[tuple[str, Image.Image]] = []

    def log_image(self, key: str, images: list[Image.Image]) -> None:
        self.pictures += [(key, image.copy()) for image in images]


def test_any_logger_with_log_image_gets_pictures():
    assert takes_pictures(Showing())
    assert not takes_pictures(CSVLogger("."))


@pytest.mark.parametrize("task", ["mulclass", "semseg", "normal", "objdet"])
def test_every_task_shows_its_predictions(renders, tmp_path, task):
    done = run(
        [
            "fit",
            f"--config=pretrain/{task}_small",
            f"--trainer.logger={__name__}.Showing",
            f"--trainer.default_root_dir={tmp_path}",
            "--trainer.max_steps=1",
            "--trainer.enable_progress_bar=false",
            f"--data.root={renders}",
            "--data.n=4",
            "--data.batch_size=2",
            "--data.steps_per_epoch=1",
        ]
    )
    pictures = dict(done.trainer.logger.pictures)
    assert set(pictures) == {"pictures/training", "pictures/predictions"}
    assert len(pictures["pictures/predictions"].getcolors(1 << 24)) > 10
    assert "outputs_and_loss" not in vars(done.model)


def test_pictures_change_nothing(tmp_path, monkeypatch):
    with_pictures = small_run(tmp_path / "with").model.state_dict()
    monkeypatch.setattr("lightning_tl.run.takes_pictures", lambda logger: False)
    without = small_run(tmp_path / "without")
    assert not any(isinstance(callback, LoggerPictures) for callback in without.trainer.callbacks)
    assert all(torch.equal(value, with_pictures[name]) for name, value in without.model.state_dict().items())


def test_runs_without_tensorboard(tmp_path, monkeypatch, caplog):
    find = importlib.util.find_spec
    monkeypatch.setattr(run_output, "find_spec", lambda name: None if "tensorboard" in name else find(name))
    run_output._say_once.cache_clear()
    with caplog.at_level(logging.INFO):
        for name in ("a", "b"):
            done = small_run(tmp_path / name)
    said = [record.getMessage() for record in caplog.records if "TensorBoard" in record.getMessage()]
    assert len(said) == 1
    assert "pip install tensorboard" in said[0]
    assert [type(logger) for logger in done.trainer.loggers] == [CSVLogger]
    assert not list(tmp_path.rglob("events.out*"))
    # the configuration is the same on every machine
    saved = yaml.safe_load((tmp_path / "a/config.yaml").read_text())["trainer"]["logger"]
    assert [logger["class_path"].split(".")[-1] for logger in saved] == ["CSVLogger", "TensorBoardLogger"]


def test_a_logger_that_was_asked_for_and_is_missing_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_output, "find_spec", lambda name: None)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    only = "--trainer.logger={class_path: TensorBoardLogger, init_args: {save_dir: x}}"
    assert main([*SMALL, f"--trainer.default_root_dir={tmp_path}", only]) == 2
    assert "TensorBoardLogger cannot be instantiated" in capsys.readouterr().err
