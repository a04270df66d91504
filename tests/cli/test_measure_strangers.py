"""`lightning-tl measure` on modules and data of other projects, named by dotted paths in the current folder."""

import csv
import textwrap
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_tl.cli.main import main

MODULE = """
    import pytorch_lightning, lightning.pytorch, torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    class Net(nn.Module):
        def __init__(self, width, depth=1):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))

        def forward(self, x):
            return self.layers(x)

    def small(width: int = 5):
        return Net(width)

    class Mixin:
        def __init__(self, width, lr=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.net = Net(width)

        def training_step(self, batch, batch_idx):
            assert self.trainer.current_epoch == 0  # there is a trainer
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

    class Old(Mixin, pytorch_lightning.LightningModule):
        pass

    class New(Mixin, lightning.pytorch.LightningModule):
        def train_dataloader(self):
            return loader()

    class Wide(pytorch_lightning.LightningModule):
        def __init__(self, hparams):
            super().__init__()
            self.net, self.words = Net(hparams.width), hparams.words

    def data():
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(32, 4, generator=generator)
        return TensorDataset(x, (x[:, 0] > 0).long())

    def loader(size: int = 8):
        return DataLoader(data(), size, shuffle=True)

    class Images(pytorch_lightning.LightningDataModule):
        def setup(self, stage):
            self.set = data()

        def train_dataloader(self):
            return [DataLoader(self.set, 8)]

        def val_dataloader(self):
            return DataLoader(self.set, 16)

    ready = DataLoader(data(), 8)
    batches = list(ready)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    number = 3
"""


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """A folder of somebody's project."""
    import sys

    (tmp_path / "somebodys.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "faulty.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    return tmp_path


@pytest.fixture
def somebodys(strangers, monkeypatch):
    import importlib
    import sys

    monkeypatch.syspath_prepend(strangers)
    importlib.invalidate_caches()
    sys.modules.pop("somebodys", None)
    return importlib.import_module("somebodys")


def rows(path="measurements/measurements.csv"):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def loss_at(gamma="0", out="measurements"):
    (row,) = [
        row for row in rows(f"{out}/measurements.csv") if (row["quantity"], row["gamma"]) == ("perturbed_loss", gamma)
    ]
    return float(row["value"])


PLAIN = ["--model", "somebodys.small", "--ckpt", "a.pt", "--loss", "somebodys.loss"]
NOISE = ["--quantities", "sensitivity", "--gammas", "0.01", "--draws", "2"]


@pytest.mark.parametrize("data", ["somebodys.ready", "somebodys.batches", "somebodys.Images"])
@pytest.mark.parametrize("loss", ["torch.nn.functional.cross_entropy", "torch.nn.CrossEntropyLoss", "somebodys.loss"])
def test_a_network_of_plain_torch(somebodys, data, loss):
    torch.manual_seed(1)
    net = somebodys.Net(6)
    torch.save({"model_state_dict": torch.nn.DataParallel(net).state_dict(), "step": 7}, "a.pt")
    model = ["--model", "somebodys.Net", "--model.width", "6", "--loss", loss]
    assert main(["measure", *model, "--data", data, "--ckpt", "a.pt", *NOISE]) == 0
    x, y = somebodys.batches[0]
    assert loss_at() == pytest.approx(cross_entropy(net(x), y).item(), rel=1e-6)
    assert {row["step"] for row in rows()} == {"7"}


def test_a_loader_that_shuffles_gives_the_same_batch_again(somebodys):
    torch.save(somebodys.Net(5).state_dict(), "a.pt")
    command = ["measure", "--model", "somebodys.small", "--loss", "somebodys.loss", "--ckpt", "a.pt", *NOISE]
    found = set()
    for size in ("8", "8", "16"):
        torch.manual_seed(len(found))
        out = ["--out", f"out{size}"]
        assert main([*command, "--data", "somebodys.loader", "--data.init_args.size", size, *out]) == 0
        found.add(loss_at(out=out[1]))
    assert len(found) == 2


@pytest.mark.parametrize("kind", ["Old", "New"])
def test_lightning_modules_of_either_package(somebodys, kind):
    """Arguments of the constructor come from the checkpoint, where no option gives them."""
    module = getattr(somebodys, kind)(7)
    content = {"state_dict": module.state_dict(), "global_step": 3, "hparams_name": "kwargs"}
    torch.save({**content, "hyper_parameters": dict(module.hparams)}, "a.ckpt")
    command = ["measure", "--model", f"somebodys.{kind}", "--ckpt", "a.ckpt", *NOISE]
    assert main([*command, "--data", "somebodys.ready"]) == 0
    x, y = somebodys.batches[0]
    assert loss_at() == pytest.approx(cross_entropy(module.net(x), y).item(), rel=1e-6)
    if kind == "New":  # it has a loader of its own
        assert main([*command, "--out", "own"]) == 0


def test_checkpoints_of_a_run_are_a_series(somebodys, monkeypatch, capsys):
    """What is finished is not read again, a file that was written again is; the report answers."""
    from lightning_tl.offline import checkpoints

    net = somebodys.Net(5)
    for i, scale in enumerate((1.0, 1.2, 1.4, 1.5)):
        state = {name: scale * tensor for name, tensor in net.state_dict().items()}
        torch.save({"model": state, "step": 100 * 2**i}, f"{i}.pt")
    command = ["measure", *PLAIN[:2], "--loss", "somebodys.loss", "--data", "somebodys.ready", "--batches", "4", *NOISE]
    paths = [f"{i}.pt" for i in range(4)]
    read = []
    load = checkpoints.load_checkpoint
    monkeypatch.setattr(checkpoints, "load_checkpoint", lambda path: read.append(path.name) or load(path))
    assert main([*command, "--ckpt", *paths[:3]]) == 0
    assert read == paths[:3]
    assert "No evidence that longer training does harm" in capsys.readouterr().out
    assert main([*command, "--ckpt", *paths]) == 0
    assert read[3:] == ["0.pt", "3.pt"]  # the reference, and what is new
    state["layers.0.bias"] += 1
    torch.save({"model": state, "step": 900}, "3.pt")
    assert main([*command, "--ckpt", *paths]) == 0
    assert read[5:] == ["0.pt", "3.pt"]
    assert [row["step"] for row in rows() if row["gamma"] == "0"] == ["100", "200", "400", "900"]
    page = Path("measurements/report.html").read_text()
    assert "No evidence that longer training does harm" in page
    assert "4 batches" in page
    assert "a turn can hardly be distinguished" in page


def test_hyper_parameters_in_a_namespace(somebodys):
    from argparse import Namespace

    given = Namespace(width=4, words=["a"])
    module = somebodys.Wide(given)
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": given, "hparams_name": "hparams"}, "a.ckpt")
    assert main(["measure", "--model", "somebodys.Wide", "--ckpt", "a.ckpt", "--quantities", "distance"]) == 0
    assert {row["value"] for row in rows() if row["group"] == "total"} == {"0.0"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--model", "somebody.Net", "--ckpt", "a.pt"],
            "--model somebody.Net: no module 'somebody', neither installed",
        ),
        (["--model", "somebodys.smal", "--ckpt", "a.pt"], "somebodys has no 'smal'; did you mean 'small'?"),
        (["--model", "Net", "--ckpt", "a.pt"], "--model Net: not a dotted path; name module and object"),
        (["--model", "faulty.Net", "--ckpt", "a.pt"], "--model faulty.Net: cannot be imported: ZeroDivisionError"),
        (["--model", "somebodys.Net", "--ckpt", "a.pt"], "--model: Net needs --model.width"),
        ([*PLAIN, "--model.wide", "3"], "unknown option --model.wide; did you mean 'model.width'? (arguments of small"),
        ([*PLAIN, "--model.width", "x"], "model.width: should be a whole number, not x"),
        ([*PLAIN, "--model.width", "-1"], "--model: small cannot be called: RuntimeError"),
        (
            ["--model", "somebodys.number", "--ckpt", "a.pt"],
            "--model somebodys.number gives a int, not a torch.nn.Module",
        ),
        (["--model", "somebodys.small", "--ckpt", "a.pt", "--data", "somebodys.ready"], "Net has no training_step"),
        (PLAIN, "name the data to measure on: --data, a dotted path to a DataLoader"),
        ([*PLAIN, "--data", "somebodys.data"], "--data somebodys.data gives a TensorDataset; it must be a DataLoader"),
        ([*PLAIN, "--data", "somebodys.ready", "--data.size", "3"], "--data names an object, which takes no options"),
        ([*PLAIN, "--data", "somebodys.number"], "--data somebodys.number gives a int; it must be a DataLoader"),
        ([*PLAIN[:4], "--loss", "somebodys.number", "--data", "somebodys.ready"], "is a int, not a function"),
        ([*PLAIN, "--trainer.max_epochs", "1"], "--trainer.max_epochs is an option of a run's YAML"),
        ([*PLAIN, "--device", "tpu"], "--device 'tpu' cannot be used on this machine (Expected one of cpu"),
        ([*PLAIN, "--device="], "--device '' cannot be used on this machine"),
        ([*PLAIN, "--device", "cuda:77"], "--device 'cuda:77' cannot be used on this machine"),
        ([*PLAIN, "--batches", "-1"], "--batches is -1; at least 1 batch"),
        ([*PLAIN, "--gammas", "1e300"], "gammas must be above 0 and at most 1e+06; got [1e+300]"),
        ([*PLAIN, "--draws", "1000000000"], "draws=1000000000: must be between 2, for a standard error, and 10,000"),
        ([*PLAIN, "--products", "1"], "products=1: must be between 2"),
    ],
)
def test_one_error_each(somebodys, capsys, arguments, message):
    torch.save(somebodys.Net(5).state_dict(), "a.pt")
    assert main(["measure", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("error: ") == 1


def test_the_present_folder_is_searched_by_all_commands(strangers, capsys):
    """Here the error of `fit` is about the data, not about the module; the path is as before afterwards."""
    import sys

    before = list(sys.path)
    assert main(["measure", "--model", "somebodys.small", "--ckpt", "a.pt"]) == 2
    assert "a.pt: no such file" in capsys.readouterr().err
    assert sys.path == before
    assert main(["fit", "--model", "somebodys.New", "--model.width", "3", "--data", "somebodys.Nothing"]) == 2
    printed = capsys.readouterr().err
    assert "Nothing" in printed
    assert "somebodys.New" not in printed
