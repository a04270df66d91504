"""Fine-tuning the revisions of a series: planted fragility is found; losses are those of a known source of text."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from lightning_tl.cli.main import main
from lightning_tl.offline.language_models import batches_of
from lightning_tl.offline.measure_options import SeriesOptions
from lightning_tl.offline.series_finetuning import finetuned_losses, target_text
from tests.offline.language_series import (
    FRAGILE,
    LEARNED,
    ROBUST,
    chain,
    model,
    tokenizer,
    write_series,
    write_text,
)

SMALL = ["--windows=12", "--length=32", "--batch-size=2", "--finetune-windows=16", "--finetune-epochs=2"]


def options(tmp_path, **more):
    given = {"windows": 32, "length": 32, "batch_size": 4, "finetune_draws": 1} | more
    return SeriesOptions(model="", text="", finetune=str(write_text(tmp_path / "other.txt", 30_000, of=6)), **given)


def entropy() -> float:
    """Return the nats per letter of the chain of the text for fine-tuning, from its stationary distribution."""
    likely = chain(6).double().softmax(1)
    often = torch.linalg.matrix_power(likely, 200)[0]
    return float(-(often[:, None] * likely * likely.log()).sum())


def test_the_loss_approaches_the_entropy_and_the_weights_are_as_before(tmp_path):
    series = options(tmp_path, finetune_lr=[1e-12, 0.01], finetune_windows=400, finetune_epochs=3)
    text = target_text(series, tokenizer())
    network = model(0.5, 0.3).eval()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    pretrain = batches_of(text.held_out, 4)
    rng = torch.get_rng_state()
    found = finetuned_losses(network, text, pretrain, series, seed=0)
    assert found.target[1e-12][0] == pytest.approx(found.before, abs=1e-5)
    assert found.pretrain == found.target  # here both are the same windows
    after = sum(found.target[0.01][0]) / len(found.before)
    before = sum(found.before) / len(found.before)
    # a window's first letter is not predicted; 1,000 letters have an error of about 0.03 nats
    assert abs(after - entropy()) < 0.1 < before - entropy() - 0.5
    assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())


def test_draws_and_held_out_windows_do_not_overlap(tmp_path):
    series = options(tmp_path, finetune_windows=50, finetune_draws=3)
    text = target_text(series, tokenizer())
    windows = [tuple(row.tolist()) for part in (text.held_out, *text.train) for row in part]
    assert [len(part) for part in (text.held_out, *text.train)] == [32, 50, 50, 50]
    assert len(set(windows)) == len(windows) == 182


def finetune(folder, name, out, *more):
    command = ["measure", f"--model=hf:{folder / name}", f"--text={folder / 'text.txt'}", f"--out={out}"]
    return main([*command, f"--finetune={folder / 'other.txt'}", *SMALL, "--finetune-lr", "0.0003", "0.003", *more])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two series, and two texts."""
    folder = tmp_path_factory.mktemp("series")
    for name, sizes in (("fragile", FRAGILE), ("robust", ROBUST)):
        write_series(folder / name, LEARNED, sizes)
    write_text(folder / "text.txt")
    write_text(folder / "other.txt", of=6)
    return folder


def test_planted_fragility_is_found(saved, tmp_path, capsys):
    last = {}
    for name in ("fragile", "robust"):
        assert finetune(saved, name, tmp_path / name) == 0
        with (tmp_path / name / "measurements.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["quantity"] == "pretrain_rise"]
        assert {row["gamma"] for row in rows} == {"0.0003", "0.003"}
        last[name] = float(rows[-1]["value"])
    # smaller embeddings are changed more by steps of the same size
    assert last["fragile"] > 3 * last["robust"]
    printed = capsys.readouterr().out
    fragile, robust = printed.split("report.html")[:2]
    assert "the loss on the pre-training text after fine-tuning worse at lr 0.003" in fragile
    assert "fine-tuning at lr 0.003 raises its loss" in fragile
    assert "on the pre-training text after fine-tuning worse" not in robust
    assert "finetune_loss lr=0.003: " in fragile
    assert "perturbed_loss gamma=0.02" not in fragile  # fine-tuning is measured by itself
    report = (tmp_path / "fragile" / "report.html").read_text()
    assert "Loss after fine-tuning at each learning rate" in report
    assert "finetune_loss/lr_0.003" in report
    assert "6 batches under the same 2 draws of the fine-tuning text" in report
    assert (tmp_path / "fragile" / "series_finetuning.png").is_file()
    # stopped after some revisions and run again: the same bytes
    kept = {path.name: path.read_bytes() for path in (tmp_path / "fragile").glob("*.*")}
    (tmp_path / "fragile" / "checkpoints" / "step6400-tokens64M.json").unlink()
    assert finetune(saved, "fragile", tmp_path / "fragile") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "fragile").glob("*.*")} == kept
    assert finetune(saved, "fragile", tmp_path / "fragile", "--finetune-epochs=3") == 2
    assert "holds measurements with other settings: finetune_epochs 2 (now 3)" in capsys.readouterr().err


def test_a_rate_that_diverges_is_left_out(saved, tmp_path, capsys):
    assert (
        finetune(
            saved,
            "fragile",
            tmp_path / "out",
            "--revisions",
            "step100-tokens1M",
            "step200-tokens2M",
            "step400-tokens4M",
        )
        == 0
    )
    path = tmp_path / "out" / "checkpoints" / "step400-tokens4M.json"
    content = json.loads(path.read_text())
    content["losses"]["finetuned"]["0.003"][0][0] = float("nan")
    path.write_text(json.dumps(content))
    assert (
        finetune(
            saved,
            "fragile",
            tmp_path / "out",
            "--revisions",
            "step100-tokens1M",
            "step200-tokens2M",
            "step400-tokens4M",
        )
        == 0
    )
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Lr 0.003 is left out: fine-tuning gave no finite loss there." in report
    assert "lr 0.0003" in report


@pytest.mark.parametrize(
    "more, message",
    [
        (["--dtype=bf16"], "--finetune needs --dtype fp32: in bf16 most steps"),
        (["--finetune-lr", "0"], "finetune_lr must be learning rates above 0"),
        (["--finetune-lr", "0.1", "0.1"], "different from each other; got [0.1, 0.1]"),
        (["--finetune-windows=1"], "finetune_windows=1: must be at least 2"),
        (["--finetune-draws=0"], "finetune_draws=0: must be at least 1"),
        (["--finetune-epochs=0"], "finetune_epochs=0: must be at least 1"),
        (["--finetune-windows=9999"], "windows of 32, not 20010; name a longer text, fewer --windows or"),
        (["--finetune=nowhere.txt"], "--finetune nowhere.txt: cannot be read as UTF-8 text"),
    ],
)
def test_wrong_options(saved, tmp_path, capsys, more, message):
    assert finetune(saved, "fragile", tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow  # trains a series: 25 s
def test_a_series_that_was_trained(tmp_path, capsys):
    """Runs of several lengths, each annealed, saved as revisions; nothing is planted."""
    from transformers import LlamaConfig, LlamaForCausalLM

    write_text(tmp_path / "pretrain.txt", 40_000, seed=2)
    write_text(tmp_path / "text.txt")
    write_text(tmp_path / "other.txt", of=6)
    letters = tokenizer()((tmp_path / "pretrain.txt").read_text())["input_ids"]
    windows = torch.tensor(letters[: len(letters) // 32 * 32]).view(-1, 32)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    for steps in (25, 50, 100, 200, 400, 800):
        torch.manual_seed(0)
        network = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(network.parameters(), 0.01, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            batch = windows[torch.arange(16 * step, 16 * step + 16) % len(windows)]
            optimizer.zero_grad()
            network(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            schedule.step()
        network.save_pretrained(tmp_path / "series" / f"step{steps}-tokens{512 * steps // 100 / 10}k")
    tokenizer().save_pretrained(tmp_path / "series")
    assert finetune(tmp_path, "series", tmp_path / "out") == 0
    with (tmp_path / "out" / "measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = {}
    for row in rows:
        losses.setdefault((row["quantity"], row["gamma"]), []).append(float(row["value"]))
    plain, before = losses["perturbed_loss", "0"], losses["finetune_loss", "0"]
    assert plain[0] > plain[-1]  # it learned the pre-training text
    for rate in ("0.0003", "0.003"):
        assert len(losses["finetune_loss", rate]) == 6
        assert all(after < loss for after, loss in zip(losses["finetune_loss", rate], before, strict=True))
    assert losses["pretrain_rise", "0.003"][-1] > losses["pretrain_rise", "0.0003"][-1]
    assert (tmp_path / "out" / "series_finetuning.png").is_file()
    assert "report.html" in capsys.readouterr().out
