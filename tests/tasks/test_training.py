"""The last step of a training is saved, whatever the interval of the checkpoints; and what a CPU is warned of."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_tl.errors import UserError
from lightning_tl.run import run
from lightning_tl.tasks import CausalLanguageModel, Cosine, base

SHAPE = {"width": 8, "layers": 1, "heads": 1, "hidden": 8}


def loader():
    tokens = torch.arange(160).view(20, 8) % 11
    return DataLoader(TensorDataset(tokens, (tokens + 1) % 11), 2)


def trained(folder, callback, ckpt_path=None, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=folder, callbacks=[callback], max_epochs=-1, **(quiet | settings))
    task = CausalLanguageModel(11, shape=SHAPE, schedule=Cosine(images=14))  # 7 steps: within an epoch of 10
    trainer.fit(task, loader(), loader(), ckpt_path=ckpt_path)
    return task


def saved(folder):
    contents = {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.ckpt")}
    return {name: (content["global_step"], content["state_dict"]) for name, content in contents.items()}


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("last", {"every_n_train_steps": 3, "save_on_train_epoch_end": True}, {"last.ckpt": 7}),
        ("{step}", {"every_n_train_steps": 3}, {"step=7.ckpt": 7}),
        ("{step}", {"every_n_train_steps": 3, "save_top_k": -1}, {"step=3.ckpt": 3, "step=6.ckpt": 6}),
        ("last", {"every_n_epochs": 2}, {"last.ckpt": 7}),
        ("last", {}, {"last.ckpt": 7}),
    ],
)
def test_the_last_step_is_saved(tmp_path, name, options, expected):
    callback = ModelCheckpoint(tmp_path / "a", name, enable_version_counter=False, **options)
    task = trained(tmp_path, callback)
    found = saved(tmp_path / "a")
    assert {name: step for name, (step, _) in found.items()} == expected
    for step, weights in found.values():
        same = all(torch.equal(value, weights[name]) for name, value in task.state_dict().items())
        assert same == (step == 7)
    assert callback.best_model_path.endswith(max(expected, key=expected.__getitem__))


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_goes_on_from_a_step_between(tmp_path):
    options = {"every_n_train_steps": 3, "enable_version_counter": False}
    trained(tmp_path, ModelCheckpoint(tmp_path / "a", "last", **options), max_steps=6)
    (tmp_path / "a/last.ckpt").rename(tmp_path / "six.ckpt")
    task = trained(tmp_path, ModelCheckpoint(tmp_path / "a", "last", **options), ckpt_path=tmp_path / "six.ckpt")
    ((step, weights),) = saved(tmp_path / "a").values()
    assert step == 7
    assert all(torch.equal(value, weights[name]) for name, value in task.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_a_fused_optimizer_whose_gradients_cannot_be_clipped(tmp_path):
    with pytest.raises(UserError, match=r"given with a fused .* bf16-mixed.* leave out fused: true"):
        run(
            [
                "fit",
                "--config=pretrain/language_small",
                "--data.root=builtin:arithmetic",
                "--data.n=2048",
                "--trainer.precision=bf16-mixed",
                f"--trainer.default_root_dir={tmp_path}",
                "--trainer.enable_progress_bar=false",
            ]
        )


def test_the_warning_of_a_large_decoder_names_smaller_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_LARGE", 100)
    with pytest.warns(UserWarning, match="takes long on a CPU .* there are --model.backbone decoder_6k, decoder_18k"):
        trained(tmp_path, ModelCheckpoint(tmp_path / "a", "last"), fast_dev_run=True)
