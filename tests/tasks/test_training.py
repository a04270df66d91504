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
from lightning_tl.transfer import LinearProbe

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
@pytest.mark.parametrize(
    "options, length, newest",
    [
        ({"every_n_train_steps": 3, "save_last": True}, {"max_steps": 7}, "step=7.ckpt"),
        ({"every_n_train_steps": 3, "save_last": "link"}, {"max_steps": 7}, "step=7.ckpt"),
        ({"every_n_train_steps": 3, "save_last": True, "save_top_k": 0}, {"max_steps": 7}, None),
        ({"save_last": True}, {"max_epochs": 2}, "step=14.ckpt"),
        ({"save_last": "link"}, {"max_epochs": 2}, "step=14.ckpt"),
        ({"every_n_epochs": 2, "save_last": True}, {"max_epochs": 3}, "step=21.ckpt"),
    ],
)
def test_the_last_checkpoint_beside_the_newest_is_of_the_same_step(tmp_path, options, length, newest):
    callback = ModelCheckpoint(tmp_path / "a", "{step}", enable_version_counter=False, **options)
    task = CausalLanguageModel(11, shape=SHAPE)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=tmp_path, callbacks=[callback], limit_train_batches=7, **length, **quiet)
    trainer.fit(task, loader(), loader())
    found = saved(tmp_path / "a")
    assert set(found) == {"last.ckpt", newest} - {None}
    for step, weights in found.values():
        assert step == trainer.global_step
        assert all(torch.equal(value, weights[name]) for name, value in task.state_dict().items())


class WhenSaved(ModelCheckpoint):
    """Notes whether the module's own hook has run when a checkpoint is written."""

    def _save_checkpoint(self, trainer, filepath):
        self.after_hook = trainer.lightning_module.epochs_ended == trainer.current_epoch + 1
        super()._save_checkpoint(trainer, filepath)


class CountsEpochs(CausalLanguageModel):
    epochs_ended = 0

    def on_train_epoch_end(self):
        self.epochs_ended += 1


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_each_epoch_is_written_after_the_hooks_of_the_task(tmp_path):
    callback = WhenSaved(tmp_path / "a")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=tmp_path, callbacks=[callback], max_epochs=2, **quiet)
    trainer.fit(CountsEpochs(11, shape=SHAPE), loader(), loader())
    assert callback.after_hook


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


class MatricesOnly(CausalLanguageModel):
    def parameter_groups(self):
        return [{"params": [each for each in self.parameters() if each.ndim == 2]}]


class AsksTheTrainer(CausalLanguageModel):
    def parameter_groups(self):
        return [{"params": list(self.parameters()), "lr_factor": self.trainer.world_size}]


def of_matrices(groups):
    """As Muon, which refuses all other parameters."""
    if any(each.ndim != 2 for group in groups for each in group["params"]):
        raise ValueError("only for matrices")
    return torch.optim.SGD(groups, lr=0.1)


def test_the_check_of_the_optimizer_is_of_the_groups_of_the_training():
    def for_each(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.1, 0.01], total_steps=9)

    CausalLanguageModel(11, shape=SHAPE, scheduler=for_each).check_optimizer()  # matrices and gains
    with pytest.raises(ValueError, match="max_lr has 2 values, param_groups has 1"):
        CausalLanguageModel(11, shape=SHAPE, scheduler=for_each, transfer=LinearProbe()).check_optimizer()
    MatricesOnly(11, shape=SHAPE, optimizer=of_matrices).check_optimizer()
    with pytest.raises(UserError, match=r"model\.optimizer: only for matrices"):
        CausalLanguageModel(11, shape=SHAPE, optimizer=of_matrices).check_optimizer()
    AsksTheTrainer(11, shape=SHAPE).check_optimizer()


def test_the_warning_of_a_large_decoder_names_smaller_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_LARGE", 100)
    with pytest.warns(UserWarning, match="takes long on a CPU .* there are --model.backbone decoder_6k, decoder_18k"):
        trained(tmp_path, ModelCheckpoint(tmp_path / "a", "last"), fast_dev_run=True)
