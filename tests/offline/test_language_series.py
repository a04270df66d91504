"""A series of tiny language models with a planted answer: found where it is, not claimed where it is not."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_tl.cli.main import main
from lightning_tl.offline import language_series
from lightning_tl.offline.stored_weights import StoredWeights, streamed_distance
from tests.offline.language_series import (
    FRAGILE,
    LEARNED,
    LETTERS,
    NOISY,
    ROBUST,
    STEPS,
    model,
    tokenizer,
    write_series,
    write_text,
)

SMALL = ["--windows", "12", "--length", "32", "--batch_size", "2", "--draws", "3", "--products", "4"]
NAMES = [f"step{step}-tokens{step // 100}M" for step in STEPS]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three series and a text."""
    folder = tmp_path_factory.mktemp("series")
    for name, sizes in (("fragile", FRAGILE), ("robust", ROBUST), ("noisy", NOISY)):
        write_series(folder / name, LEARNED, sizes)
    write_text(folder / "text.txt")
    return folder


def measure(saved, name, out, *more):
    return main(
        [
            "measure",
            "--model",
            f"hf:{saved / name}",
            "--text",
            str(saved / "text.txt"),
            "--out",
            str(out),
            *SMALL,
            *more,
        ]
    )


def rows(out):
    with (Path(out) / "measurements.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def values(out, quantity, group="", gamma=""):
    return {
        int(row["step"]): float(row["value"])
        for row in rows(out)
        if (row["quantity"], row["group"], row["gamma"]) == (quantity, group, gamma)
    }


@pytest.mark.parametrize(
    "name, said, not_said",
    [
        ("fragile", ["Longer training makes the loss under noise", "although the loss itself falls"], "No evidence"),
        ("robust", ["No evidence that longer training does harm"], "The network becomes more fragile"),
        (
            "noisy",
            ["No evidence that longer training does harm", "neighbouring checkpoints differ by chance"],
            "lowest",
        ),
    ],
)
def test_what_was_planted_is_found_and_nothing_else(saved, tmp_path, capsys, name, said, not_said):
    noise = ["--quantities", "sensitivity", "--gammas", "0.5", "1"]
    assert measure(saved, name, tmp_path / "out", *noise) == 0
    printed = capsys.readouterr().out
    assert all(words in printed for words in said)
    assert not_said not in printed
    loss = values(tmp_path / "out", "perturbed_loss", gamma="1.0")
    if name == "fragile":
        assert min(loss, key=loss.get) in (1600, 3200)
        assert 8 < float(re.search(r"lowest near ([\d.]+)M tokens", printed)[1]) < 33
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(words in page for words in said)
    assert "data:image/png" in page


def test_the_values_are_those_of_the_models(saved, tmp_path):
    """Loss and rise by hand, on windows cut by hand, under noise of its own generator."""
    assert measure(saved, "fragile", tmp_path / "out", "--revisions", *NAMES[5:], "--gammas", "1") == 0
    text = (saved / "text.txt").read_text()
    tokens = torch.tensor([LETTERS.index(letter) for letter in text])
    there = len(tokens) // 32
    windows = torch.stack([tokens[(start := 32 * (i * there // 12)) : start + 32] for i in range(12)])
    network = model(LEARNED[7], FRAGILE[7]).eval()

    def loss():
        with torch.no_grad():
            logits = network(windows).logits[:, :-1]
            return cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()

    plain = loss()
    assert values(tmp_path / "out", "perturbed_loss", gamma="0")[12800] == pytest.approx(plain, rel=1e-5)
    own = {name: p.detach().clone() for name, p in network.named_parameters()}
    generator, rises = torch.Generator().manual_seed(9), []
    for _ in range(200):
        noise = {n: 0.05 * torch.randn(p.shape, generator=generator) for n, p in own.items() if "norm" not in n}
        pair = []
        for sign in (1, -1):
            with torch.no_grad():
                for name, p in network.named_parameters():
                    p.copy_(own[name] + sign * noise.get(name, 0))
            pair.append(loss() - plain)
        rises.append(sum(pair) / 2)
    (row,) = [r for r in rows(tmp_path / "out") if r["quantity"] == "sensitivity" and r["step"] == "12800"]
    error = (float(row["stderr"]) ** 2 + torch.tensor(rises).var().item() / 200) ** 0.5
    assert abs(float(row["value"]) - sum(rises) / 200) < 4 * error
    assert error < 0.2 * float(row["value"])
    before = dict(model(LEARNED[6], FRAGILE[6]).named_parameters())
    first = dict(model(LEARNED[5], FRAGILE[5]).named_parameters())
    for group, other in (("total", first), ("previous", before)):
        expected = sum((own[n] - other[n].detach()).square().sum().item() for n in own) ** 0.5
        assert values(tmp_path / "out", "param_distance", group)[12800] == pytest.approx(expected, rel=1e-6)
    for quantity, strength, change in (
        ("quantised_loss", "4.0", lambda p: rounded(p, 4)),
        (
            "pruned_loss",
            "0.5",
            lambda p: torch.where(p.abs() <= p.abs().flatten().sort().values[p.numel() // 2 - 1], 0, p),
        ),
    ):
        with torch.no_grad():
            for name, p in network.named_parameters():
                p.copy_(change(own[name]) if p.dim() > 1 else own[name])
        assert values(tmp_path / "out", quantity, gamma=strength)[12800] == pytest.approx(loss(), rel=1e-5)
    assert values(tmp_path / "out", "tokens") == {3200: 32e6, 6400: 64e6, 12800: 128e6}
    trace, weighted = (values(tmp_path / "out", "hessian", group)[12800] for group in ("trace", "weighted_trace"))
    assert 0 < weighted < trace


def rounded(weight, bits):
    """Row by row to whole multiples of the largest value over 2^(bits − 1) − 1."""
    rows = []
    for row in weight:
        step = row.abs().max() / (2 ** (bits - 1) - 1)
        rows.append(torch.round(row / step) * step if step else row)
    return torch.stack(rows)


KILLED = """
import os, sys
from lightning_tl.cli.main import main
from lightning_tl.offline import language_series
load, calls = language_series.load_model, []
def kill_at_the_third(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        os._exit(9)
    return load(*arguments)
language_series.load_model = kill_at_the_third
main(sys.argv[1:])
"""


def files(out):
    return {
        path.relative_to(out): path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_a_killed_series_goes_on_where_it_was_killed(saved, tmp_path, monkeypatch):
    """No checkpoint is loaded twice, and all files are the same, to the byte, as of an undisturbed run."""
    more = ["--revisions", *NAMES[:4], "--gammas", "1", "--quantities", "sensitivity", "distance"]
    command = ["measure", "--model", f"hf:{saved / 'fragile'}", "--text", str(saved / "text.txt"), *SMALL, *more]
    arguments = [sys.executable, "-c", KILLED, *command, "--out", str(tmp_path / "killed")]
    assert subprocess.run(arguments, capture_output=True, cwd=tmp_path, env=os.environ).returncode == 9
    assert len(list((tmp_path / "killed" / "checkpoints").glob("*.json"))) == 2
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    loaded = []
    load = language_series.load_model
    monkeypatch.setattr(
        language_series, "load_model", lambda folder, *rest: loaded.append(folder.name) or load(folder, *rest)
    )
    assert main([*command, "--out", str(tmp_path / "killed")]) == 0
    assert loaded == NAMES[2:4]
    whole, killed = files(tmp_path / "whole"), files(tmp_path / "killed")
    assert killed == whole
    assert {path.name for path in whole} >= {"measurements.csv", "report.html", "series_noise.png", "series.json"}
    # and a further revision is measured by itself
    loaded.clear()
    longer = [*command[: command.index(NAMES[3]) + 1], NAMES[4], *command[command.index(NAMES[3]) + 1 :]]
    assert main([*longer, "--out", str(tmp_path / "killed")]) == 0
    assert loaded == NAMES[4:5]


def test_other_settings_do_not_mix(saved, tmp_path, capsys):
    noise = ["--revisions", *NAMES[:1], "--quantities", "sensitivity", "--gammas"]
    assert measure(saved, "fragile", tmp_path / "out", *noise, "0.5") == 0
    assert measure(saved, "fragile", tmp_path / "out", *noise, "1") == 2
    message = r"out: holds measurements with other settings: gammas [0.5] (now [1.0]); choose another --out"
    assert message in capsys.readouterr().err
    path = tmp_path / "out" / "checkpoints" / f"{NAMES[0]}.json"
    path.write_text(path.read_text()[:100])
    assert measure(saved, "fragile", tmp_path / "out", *noise, "0.5") == 2
    assert f"{path}: is damaged; delete it" in capsys.readouterr().err


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_stored_weights_one_at_a_time(tmp_path, parts, kind):
    """Whole and in parts with an index, of either format; names of the model inside another count too."""
    network = model(0.5, 0.3)
    network.save_pretrained(tmp_path, max_shard_size="2KB" if parts > 1 else "1GB")
    if kind == "bin":
        for path in tmp_path.glob("*.safetensors"):
            from safetensors.torch import load_file

            torch.save(
                load_file(path), tmp_path / path.name.replace("model", "pytorch_model").replace("safetensors", "bin")
            )
            path.unlink()
        for index in tmp_path.glob("*.index.json"):
            text = index.read_text().replace("model-0", "pytorch_model-0").replace(".safetensors", ".bin")
            (tmp_path / "pytorch_model.bin.index.json").write_text(text)
            index.unlink()
    stored = StoredWeights(tmp_path)
    own = dict(network.named_parameters())
    assert stored.keys() == own.keys()
    other = dict(model(0.7, 0.3, seed=1).named_parameters())
    squares = sum((other[n] - own[n]).detach().double().square().sum() for n in own)
    for renamed in (other, {f"net.{n}": p for n, p in other.items()}):
        assert streamed_distance(renamed, stored).total == pytest.approx(float(squares) ** 0.5, rel=1e-6)
    inner = {n.removeprefix("model."): p for n, p in other.items() if n.startswith("model.")}
    squares = sum((p - own[f"model.{n}"]).detach().double().square().sum() for n, p in inner.items())
    assert streamed_distance(inner, stored).total == pytest.approx(float(squares) ** 0.5, rel=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--text", "no.txt"], "--text no.txt: cannot be read as UTF-8 text"),
        (["--windows", "400"], "has 8,000 tokens, so 250 windows of 32, not 400; name a longer text, --windows 250"),
        (["--windows", "15"], "windows=15 is not a multiple of batch_size=2"),
        (["--spread", "2"], "spread=2: must be at least 3"),
        (["--dtype", "int8"], "--dtype int8 is unknown; valid: bf16, fp16, fp32"),
        (["--revisions", "step7"], "fragile/step7: no saved model there"),
        (["--revisions", NAMES[0], NAMES[0]], "are named more than once"),
        (["--tokens", "4B"], "--tokens has 1 values for 0 revisions; name the --revisions"),
        (["--revisions", NAMES[0], "--tokens", "many"], "'many' is not a number of tokens"),
        (["--quantities", "direction"], "the loss along a line is measured between checkpoints of --ckpt only"),
        (["--ckpt", "a.ckpt"], "--model hf:… takes no --config, --ckpt"),
    ],
)
def test_one_error_each(saved, tmp_path, capsys, arguments, message):
    assert measure(saved, "fragile", tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err


def test_packages_and_files_that_are_missing(saved, tmp_path, capsys, monkeypatch):
    assert main(["measure", "--model", f"hf:{saved / 'fragile'}"]) == 2
    assert "needs --text, a file of held-out text" in capsys.readouterr().err
    assert main(["measure", "--model", "hf:no/where/at", "--text", "a.txt"]) == 2
    assert "--model hf:no/where/at: no such folder, and not the name of a model" in capsys.readouterr().err
    bare = tmp_path / "bare"
    model(0.5, 0.3).save_pretrained(bare / "step1")
    assert measure(tmp_path, "bare", tmp_path / "out") == 2
    assert "bare/step1: holds no tokenizer" in capsys.readouterr().err
    tokenizer().save_pretrained(bare)  # in the folder above, for all revisions
    write_text(tmp_path / "text.txt")
    assert measure(tmp_path, "bare", tmp_path / "out", "--quantities", "sensitivity") == 0
    from safetensors.torch import load_file, save_file

    weights = load_file(bare / "step1" / "model.safetensors")
    save_file(
        {n: t for n, t in weights.items() if "norm" not in n}, bare / "step1" / "model.safetensors", {"format": "pt"}
    )
    assert measure(tmp_path, "bare", tmp_path / "lacking") == 2
    assert (
        "step1: lacks weights of a LlamaForCausalLM: model.layers.0.input_layernorm.weight" in capsys.readouterr().err
    )
    (bare / "step1" / "model.safetensors").write_bytes(b"hello")
    assert measure(tmp_path, "bare", tmp_path / "other") == 2
    assert "step1: cannot be loaded as a causal language model" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert measure(tmp_path, "bare", tmp_path / "third") == 2
    assert "needs the package transformers; install it with: pip install 'lightning-tl[transformers]'" in (
        capsys.readouterr().err
    )


class Hub:
    """Stands for the Hub: a repository whose revisions are the sub-folders of a folder."""

    def __init__(self, folder):
        self.folder, self.downloaded = folder, []

    def install(self, monkeypatch):
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def list_repo_refs(self, name):
        from types import SimpleNamespace

        names = ["main", *sorted(path.name for path in self.folder.iterdir())]
        return SimpleNamespace(branches=[SimpleNamespace(name=n) for n in names], tags=[])

    def list_repo_files(self, name, revision):
        if not (self.folder / revision).is_dir():
            raise ValueError(f"Revision {revision} not found")
        return [path.name for path in (self.folder / revision).iterdir()]

    def snapshot_download(self, name, revision, local_files_only=False, allow_patterns=(), local_dir=None):
        import shutil
        from fnmatch import fnmatch

        from huggingface_hub.errors import LocalEntryNotFoundError

        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        self.downloaded.append(revision)
        target = Path(local_dir)
        target.mkdir(parents=True, exist_ok=True)
        for path in (self.folder / revision).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, target)
        return str(target)


def test_revisions_of_the_hub_are_downloaded_and_discarded(saved, tmp_path, monkeypatch, capsys):
    hub = Hub(saved / "fragile")
    hub.install(monkeypatch)
    common = ["--text", str(saved / "text.txt"), *SMALL, "--quantities", "sensitivity", "distance", "--gammas", "1"]
    command = ["measure", "--model", "hf:somebody/tiny", *common, "--discard-downloads", "true", "--spread", "4"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert len(set(hub.downloaded)) == 4
    assert {NAMES[0], NAMES[-1]} < set(hub.downloaded)
    assert not list((tmp_path / "out" / "downloads").glob("*/*.safetensors"))
    assert {row["run_id"] for row in rows(tmp_path / "out")} == {"somebody/tiny"}
    assert main(["measure", "--model", "hf:somebody/tiny", *common, "--revisions", "step5", "--out", "x"]) == 2
    assert "somebody/tiny, revision step5: cannot be read from the Hugging Face Hub" in capsys.readouterr().err
