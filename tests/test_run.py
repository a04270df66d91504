from __future__ import annotations

import csv
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from training import DRIVER, EPOCH, STEPS, equal, every_step, finetuning, pretraining, state, weights

from lightning_tl.errors import UserError
from lightning_tl.run import run
from lightning_tl.sigterm import only_note_sigterm

ROOT = Path(__file__).parents[1]

# Lightning's remarks on short runs, and on folders that are there already
pytestmark = pytest.mark.filterwarnings("ignore")


class Seen(Callback):
    """Notes the batches of a run."""

    def __init__(self):
        self.sums = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.sums.append(float(batch[0].double().abs().sum()))


@pytest.fixture(scope="module")
def whole(renders, tmp_path_factory):
    """A run that was never interrupted, with a checkpoint after each step."""
    out = tmp_path_factory.mktemp("whole") / "out"
    seen = Seen()
    cli = run(pretraining(renders, out, every_step(out)), callbacks=[seen])
    assert cli.trainer.global_step == STEPS
    return out, state(cli.model), seen.sums


def test_what_a_run_leaves(whole):
    out, model, sums = whole
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {path.name for path in (out / "steps").iterdir()} == {f"step={i}.ckpt" for i in range(1, STEPS + 1)}
    for name in ("config.yaml", "metrics.csv"):
        assert (out / name).is_file()
    assert list(out.glob("events.out.tfevents.*"))
    assert len(set(sums)) == STEPS  # no batch twice
    for path in out.rglob("*.ckpt"):
        content = torch.load(path, weights_only=True)  # plain types alone
        assert content["lightning_tl"]["backbone"] == "resnet10_w16"
        assert all(key.startswith(("backbone.", "head.")) for key in content["state_dict"])
    assert equal(weights(out / f"steps/step={STEPS}.ckpt"), model)


def test_training_changed_something(whole):
    out, model, _ = whole
    assert not equal(weights(out / "steps/step=1.ckpt"), model)


# inside an epoch, before its validation, and at the end of the next
@pytest.mark.parametrize("step", [1, 3, EPOCH, EPOCH + 1, 2 * EPOCH, STEPS - 1])
def test_resumed_equals_uninterrupted(whole, renders, tmp_path, step):
    out, model, sums = whole
    seen = Seen()
    cli = run(pretraining(renders, tmp_path, f"--ckpt_path={out}/steps/step={step}.ckpt"), callbacks=[seen])
    assert seen.sums == sums[step:]
    assert cli.trainer.global_step == STEPS
    assert equal(state(cli.model), model)


def test_resumed_from_the_checkpoint_after_validation(whole, renders, tmp_path):
    out, model, _ = whole
    path = out / "checkpoints/last.ckpt"
    done = torch.load(path, weights_only=True)["global_step"]
    assert done == STEPS  # the last step is validated, though it ends no epoch
    seen = Seen()
    cli = run(pretraining(renders, tmp_path, f"--ckpt_path={path}"), callbacks=[seen])
    assert seen.sums == []
    assert equal(state(cli.model), model)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(whole, renders, tmp_path, seed):
    uninterrupted, model, _ = whole
    step = random.Random(seed).randrange(2, STEPS)
    out = tmp_path / "out"
    arguments = pretraining(renders, out, every_step(out, every=2))
    ended = subprocess.run([sys.executable, "-c", DRIVER, str(step), *arguments], capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    last = max((out / "steps").iterdir(), key=lambda path: int(path.stem.removeprefix("step=")))
    assert last.stem == f"step={step // 2 * 2}"
    cli = run([*arguments, f"--ckpt_path={last}"])
    assert equal(state(cli.model), model)
    assert history(out) == history(uninterrupted)


def test_the_saved_configuration_runs_again(whole, tmp_path):
    out, model, _ = whole
    text = (out / "config.yaml").read_text()
    assert yaml.safe_load(text)["model"]["init_args"]["scheduler"]["init_args"]["total_steps"] == STEPS
    (tmp_path / "config.yaml").write_text(text.replace(str(out), f"{tmp_path}/again"))  # other tests read its folder
    cli = run(["fit", f"--config={tmp_path}/config.yaml"])
    assert equal(state(cli.model), model)


def test_neither_a_test_nor_resuming_changes_the_saved_configuration(renders, tmp_path):
    run(pretraining(renders, tmp_path))
    before = (tmp_path / "config.yaml").read_text()
    last = tmp_path / "checkpoints/last.ckpt"
    run(["fit", f"--config={tmp_path}/config.yaml", f"--ckpt_path={last}", f"--trainer.max_steps={STEPS + 1}"])
    resumed = (tmp_path / "config.yaml").read_text()
    assert yaml.safe_load(resumed)["ckpt_path"] is None
    assert resumed == before.replace(f"max_steps: {STEPS}", f"max_steps: {STEPS + 1}")
    run(["test", f"--config={tmp_path}/config.yaml", f"--ckpt_path={last}"])
    assert (tmp_path / "config.yaml").read_text() == resumed


def test_interpolation_follows_overrides_and_files(renders, tmp_path):
    def total(*more):
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        cli = run(pretraining(renders, tmp_path, *more))
        return cli.model.scheduler(torch.optim.SGD(cli.model.parameters())).lr_lambdas[0], cli.config.fit

    (tmp_path / "more.yaml").write_text(
        "trainer: {max_steps: 3}\nmodel: {init_args: {optimizer: {init_args: {lr: 1}}}}"
    )
    factor, config = total("--trainer.max_steps=5")
    assert config.model.init_args.scheduler.init_args.total_steps == 5
    assert factor(5) == pytest.approx(0)
    assert factor(4) > 0
    factor, config = total(f"--config={tmp_path}/more.yaml")
    assert config.trainer.max_steps == config.model.init_args.scheduler.init_args.total_steps == 3
    assert config.model.init_args.optimizer.init_args.lr == 1
    assert config.model.init_args.optimizer.init_args.weight_decay == 0.01  # of the first file
    assert config.trainer.callbacks[0].init_args.dirpath == f"{tmp_path}/checkpoints"


def test_an_interpolation_that_leads_nowhere_is_reported(renders, tmp_path):
    wrong = "--trainer.logger={class_path: CSVLogger, init_args: {save_dir: '${trainer.default_root_dir}'}}"
    with pytest.raises(UserError, match=r"save_dir: Interpolation key .* not found.*only in YAML files, not in values"):
        run(pretraining(renders, tmp_path, wrong))
    (tmp_path / "more.yaml").write_text("trainer: {max_steps: '${trainer.steps}'}")
    with pytest.raises(
        UserError, match=r"max_steps: Interpolation key .*steps' not found.*interpolation .* absolute keys"
    ):
        run(pretraining(renders, tmp_path, f"--config={tmp_path}/more.yaml"))


def test_other_seeds_are_other_runs(whole, renders, tmp_path):
    _, model, sums = whole
    seen = Seen()
    cli = run(pretraining(renders, tmp_path, "--data.seed=1", "--trainer.max_steps=3"), callbacks=[seen])
    assert seen.sums != sums[:3]
    assert not equal(state(cli.model), model)


def test_fine_tuning_starts_from_a_pre_training(whole, tmp_path, caplog):
    out, _, _ = whole
    best = out / "checkpoints/best.ckpt"
    starts = {}

    class Start(Callback):
        def __init__(self, name):
            self.name = name

        def on_fit_start(self, trainer, module):
            starts[self.name] = state(module.backbone)

    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        cli = run(finetuning(tmp_path / "a", f"--model.init_from={best}"), callbacks=[Start("from")])
    run(finetuning(tmp_path / "b"), callbacks=[Start("scratch")])
    loaded = {name.removeprefix("backbone."): value for name, value in weights(best).items() if "head" not in name}
    assert equal(starts["from"], loaded)
    assert not equal(starts["scratch"], loaded)
    assert cli.model.head.weight.shape == (10, 128)
    messages = [record.getMessage() for record in caplog.records]
    assert any(
        f"backbone from {best}: " in text and "0 missing" in text and "2 of the head" in text for text in messages
    )


def test_testing_a_checkpoint_equals_testing_in_process(tmp_path):
    cli = run(finetuning(tmp_path))
    (inside,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    assert 0 < inside["test/error"] < 1
    last = tmp_path / "checkpoints/last.ckpt"
    again = run(["test", f"--config={tmp_path}/config.yaml", f"--ckpt_path={last}"])
    outside = {name: float(value) for name, value in again.trainer.callback_metrics.items()}
    assert outside == pytest.approx(inside, rel=1e-6)


def test_the_checkpoint_it_started_from_may_be_gone_by_then(whole, tmp_path, caplog):
    out, _, _ = whole
    start = tmp_path / "start.ckpt"
    shutil.copy(out / "checkpoints/best.ckpt", start)
    cli = run(finetuning(tmp_path / "a", f"--model.init_from={start}"))
    start.unlink()
    saved, last = f"--config={tmp_path}/a/config.yaml", tmp_path / "a/checkpoints/last.ckpt"
    tested = run(["test", saved, f"--ckpt_path={last}"])
    assert equal(state(tested.model.backbone), state(cli.model.backbone))
    run(["fit", saved, f"--ckpt_path={last}", "--trainer.max_steps=7"])
    content = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    assert content["model"]["init_args"]["init_from"] == str(start)  # what the run was stays on record
    with pytest.raises(UserError, match=r"start\.ckpt: no such file"):
        run(["test", saved])


def test_synchronised_batch_norm_is_left_out_on_the_cpu(renders, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        run(pretraining(renders, tmp_path, "--trainer.sync_batchnorm=true", "--trainer.max_steps=3"))
    assert "trainer.sync_batchnorm works only on GPUs" in caplog.text
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"]["sync_batchnorm"] is True


def history(out):
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_of_a_resumed_run_are_those_of_one_never_interrupted(renders, tmp_path):
    out, often = tmp_path / "a", "--trainer.log_every_n_steps=1"
    run(pretraining(renders, tmp_path / "whole", often))
    arguments = pretraining(renders, out, often, every_step(out))
    run(arguments)  # to the end, then again from the middle: what came after is not there twice
    run([*arguments, f"--ckpt_path={out}/steps/step=6.ckpt"])
    assert history(out) == history(tmp_path / "whole")
    # resumed from the end of an epoch
    half = pretraining(renders, tmp_path / "half", often, f"--trainer.max_epochs={STEPS // EPOCH - 1}")
    run(half)
    run([*half, "--trainer.max_epochs=-1", f"--ckpt_path={tmp_path}/half/checkpoints/last.ckpt"])
    assert history(tmp_path / "half") == history(tmp_path / "whole")
    rows = history(out)
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(STEPS))
    assert rows == history(tmp_path / "whole")
    run(["validate", f"--config={out}/config.yaml", f"--ckpt_path={out}/checkpoints/last.ckpt"])
    assert len(history(out)) == len(rows) + 1
    shutil.rmtree(out / "checkpoints")
    shutil.rmtree(out / "steps")
    run(arguments)  # from the start: a new history
    assert history(out) == rows


def test_validate_and_predict(renders, tmp_path):
    fitted = run(pretraining(renders, tmp_path))
    error = float(fitted.trainer.callback_metrics["val/error"])
    last = tmp_path / "checkpoints/last.ckpt"
    common = [f"--config={tmp_path}/config.yaml", f"--ckpt_path={last}"]
    validated = run(["validate", *common])
    assert float(validated.trainer.callback_metrics["val/error"]) == pytest.approx(error, rel=1e-6)
    predicted = run(["predict", *common])
    outputs = torch.cat(predicted.trainer.predict_loop.predictions)
    assert outputs.shape == (24, 3)
    assert np.isfinite(outputs.numpy()).all()


def test_channels_are_distinguished(whole, tmp_path):
    out, _, _ = whole
    more = [f"--model.init_from={out}/checkpoints/best.ckpt", "--model.in_chans=3"]
    with pytest.raises(UserError, match=r"conv1.weight is \(16, 1, 3, 3\) there and .* has in_chans=1"):
        run(finetuning(tmp_path, *more))


@pytest.mark.parametrize(
    "more,message",
    [
        (["--trainer.max_stepz=3"], r"unknown option --trainer.max_stepz; did you mean 'trainer.max_steps'"),
        (["--model.backbon=x"], r"model: unknown key 'backbon' .*; did you mean 'backbone'"),
        (["--data.transform.sise=9"], r"data.transform of mulclass has no key 'sise'; did you mean 'size'"),
        (["--model.optimizer.lrr=1"], r"model: optimizer: unknown key 'lrr' .*; did you mean 'lr'"),
        (["--data.n=many"], r"data: n: should be a whole number, not many"),
        (["--trainer.max_steps=many"], r"trainer.max_steps: should be a whole number, not many"),
        (["--model=Clasification"], r"model: no class 'Clasification'; did you mean 'Classification'"),
        (["--model.optimizer=SDG"], r"model: optimizer: no class 'SDG'; did you mean 'SGD'"),
        (["--data=Renderd"], r"data: no class 'Renderd'; did you mean 'Rendered'"),
        (["--trainer.callbacks+=ModelChekpoint"], r"callbacks: no class 'ModelChekpoint'; did you mean 'ModelCheck"),
        (["--model.schedule=Cosin"], r"model: schedule: no class 'Cosin'; did you mean 'Cosine'"),
        (
            ["--model.schedule=Cosine", "--model.schedule.images=9"],
            r"model.scheduler and model.schedule are both given",
        ),
        (["--model=ObjectDetection"], r"model ObjectDetection is for objdet, but data Rendered gives mulclass"),
        (["--config=pretrain/smal_images"], r"no such file, and no .*; did you mean 'pretrain/small_images'"),
        (["--data.n=61"], r"61 images asked for, but .*train has 60"),
        (["--data.root=nowhere"], r"nowhere/train/manifest.json: no such file"),
        (["--data.batch_size=0"], r"data.batch_size is 0; it must be at least 1"),
        (["--data.transform.size=2"], r"transform.size is 2; it must be at least 8"),
        (["--model.backbone=resnet19"], r"no backbone 'resnet19'; did you mean 'resnet"),
        (["--trainer.val_check_interval=2000"], r"trainer.val_check_interval is 2000, and an epoch has \d+ batches: l"),
        (["--model.init_from=none.ckpt"], r"checkpoint none.ckpt: no such file"),
        (["--ckpt_path=none.ckpt"], r"checkpoint none.ckpt: no such file"),
        (["--trainer.max_steps=2"], r"WarmupCosine: total_steps is 2 and warmup_steps 2"),
    ],
)
def test_errors(renders, tmp_path, more, message):
    with pytest.raises(UserError, match=message) as error:
        run(pretraining(renders, tmp_path, *more))
    assert len(str(error.value).splitlines()) <= 2
    assert "Namespace" not in str(error.value)


@pytest.mark.parametrize(
    "content,key,near",
    [
        ("trainer: {max_stepz: 3}", "trainer.max_stepz", "trainer.max_steps"),
        ("modle: {a: 1}", "modle.a", "model"),
    ],
)
def test_unknown_keys_in_files(renders, tmp_path, content, key, near):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(UserError, match=rf"unknown key '{key}' in the configuration; did you mean '{near}'"):
        run(pretraining(renders, tmp_path / "out", f"--config={tmp_path}/bad.yaml"))


def test_a_file_that_is_no_yaml(renders, tmp_path):
    (tmp_path / "bad.yaml").write_text("trainer: [")
    with pytest.raises(UserError, match=r"bad\.yaml, line 2, column 1: not valid YAML"):
        run(pretraining(renders, tmp_path / "out", f"--config={tmp_path}/bad.yaml"))


def test_a_corrupted_shard_is_named(own_renders, tmp_path):
    path = own_renders / "val/shards/000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"val/shards/000000\.tar: corrupted"):
        run(pretraining(own_renders, tmp_path / "out"))


def test_weights_alone_are_to_start_from_not_to_resume(renders, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.ckpt")
    with pytest.raises(
        UserError, match=r"--ckpt_path .*a\.ckpt: is no checkpoint of a Lightning run.*--model.init_from"
    ):
        run(pretraining(renders, tmp_path / "out", f"--ckpt_path={tmp_path}/a.ckpt"))


@pytest.mark.parametrize("name", ["measure", "measure_sparsely", "stop_when_fragile"])
def test_the_shipped_callbacks_are_added_by_a_second_file(name, tmp_path):
    cli = run(finetuning(tmp_path, f"--config=callbacks/{name}"))
    with open(tmp_path / "metrics.csv") as file:
        logged = {key for row in csv.DictReader(file) for key, value in row.items() if value}
    assert {"val/error", "perturbed_loss/gamma_0.01"} <= logged
    assert (tmp_path / "checkpoints/last.ckpt").is_file()  # the first file's own callback is still there
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]
    overlay = yaml.safe_load((ROOT / "configs/callbacks" / f"{name}.yaml").read_text())["trainer"]["callbacks+"]
    assert {entry["class_path"].rpartition(".")[2] for entry in overlay} <= set(names)
    assert (tmp_path / "least_fragile.ckpt").is_file() == (name == "stop_when_fragile")


@pytest.mark.parametrize("logger", ["false", "{class_path: CSVLogger, init_args: {save_dir: elsewhere}}"])
def test_the_configuration_is_in_the_runs_folder_whatever_the_logger(renders, tmp_path, monkeypatch, logger):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.yaml").write_text(f"trainer: {{logger: {logger}}}")
    run(pretraining(renders, tmp_path / "out", f"--config={tmp_path / 'more.yaml'}", "--trainer.max_steps=3"))
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text())["trainer"]["max_steps"] == 3
    assert not list(tmp_path.glob("elsewhere/**/config.yaml"))


@pytest.mark.parametrize(
    "option,words",
    [
        ("--model.optimizer.betas=[2,3]", r"model\.optimizer: Invalid beta parameter at index 0"),
        ("--trainer.max_steps=-3", r"`max_steps` must be a non-negative integer or -1"),
        (
            "{logger: {class_path: CometLogger}}",
            r"CometLogger cannot be instantiated: ModuleNotFoundError: .*pip install",
        ),
        (
            "{callbacks+: [{class_path: EarlyStopping, init_args: {monitor: a, mode: up}}]}",
            r"EarlyStopping cannot be instantiated: MisconfigurationException: `mode` can be min, max, got up",
        ),
    ],
)
def test_what_lightning_and_torch_refuse_is_one_message(renders, tmp_path, option, words):
    if not option.startswith("--"):
        (tmp_path / "more.yaml").write_text(f"trainer: {option}")
        option = f"--config={tmp_path / 'more.yaml'}"
    with pytest.raises(UserError, match=words) as error:
        run(pretraining(renders, tmp_path / "out", option))
    assert "Traceback" not in str(error.value)
    assert "Union" not in str(error.value)


def test_sigterm_is_noted_without_a_broadcast(monkeypatch):
    """Between processes of which one writes a checkpoint, a broadcast in the handler would never end."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    only_note_sigterm(trainer)
    before = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.distributed, "broadcast", lambda *_, **__: pytest.fail("a collective in the handler"))
            os.kill(os.getpid(), signal.SIGTERM)
            assert trainer.received_sigterm
    finally:
        trainer._signal_connector.teardown()
        signal.signal(signal.SIGTERM, before)
