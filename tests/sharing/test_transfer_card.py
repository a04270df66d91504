"""The card holds what the run's files say, and nothing else."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
import yaml
from rendered_set import write_split
from sharing.checkpoints import CLASSES, checkpoint

from lightning_tl.cli.main import main
from lightning_tl.run import run as run_training
from lightning_tl.tasks import Classification

CONFIG = {
    "seed_everything": 1,
    "model": {"class_path": "Classification", "init_args": {"backbone": "resnet10_w8", "init_from": "runs/pre/a.ckpt"}},
    "data": {"class_path": "Rendered", "init_args": {"n": 20}},
    "trainer": {
        "max_steps": 7,
        "logger": {"init_args": {"api_key": "secret-key"}},
        "default_root_dir": "/home/me/runs",
    },
}
FITS = {
    "advice": [],
    "groups": [
        {
            "label": "shapes → digits",
            "law": {
                "form": {"formula": "error = D n^-alpha + C"},
                "level": 0.95,
                "params": {
                    "C": {"value": 0.125, "identified": True, "interval": [0.1, 0.15], "reason": None},
                    "alpha": {"value": 0.5, "identified": False, "interval": [0.2, None], "reason": "too few sizes"},
                },
            },
            "advice": {"verdict": "render differently", "sentences": ["Render differently. The gap is large."]},
        },
        {"label": "other", "law": None},
    ],
}


@pytest.fixture
def run(tmp_path):
    """A run's folder, with its checkpoint."""
    folder = tmp_path / "run"
    checkpoint(folder / "checkpoints/last.ckpt", Classification, "resnet10_w8")
    write_split(tmp_path / "renders/train", "train", 12, seed=1)
    config = json.loads(json.dumps(CONFIG))
    config["data"]["init_args"]["root"] = str(tmp_path / "renders")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.csv").write_text(
        "step,train/loss,val/error,test/error,sensitivity/gamma_0.02,sensitivity/gamma_0.02_stderr\n"
        "3,1.5,0.5,,0.25,0.1\n7,1.0,0.25,0.375,,\n9,0.5,0.125,,,\n"
    )
    return folder


def card_of(run, *more):
    out = run.parent / "out" / "weights.pt"
    assert main(["export", str(run / "checkpoints/last.ckpt"), f"--out={out}", *map(str, more)]) == 0
    card = json.loads((out.parent / "weights.transfer_card.json").read_text())
    return card, (out.parent / "weights.transfer_card.md").read_text(), out


def test_what_is_known_is_there(run):
    (run.parent / "fits.json").write_text(json.dumps(FITS))
    card, page, out = card_of(run, f"--law={run.parent}/fits.json", "--license=apache-2.0")
    content = out.read_bytes()
    assert card["weights"] == {
        "format": "backbone",
        "file": "backbone.pt",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    task = Classification(3, "resnet10_w8")
    assert card["network"] == {
        "task": "Classification",
        "backbone": "resnet10_w8",
        "in_chans": 3,
        "num_classes": 3,
        "transfer": "full",
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
    }
    assert card["classes"] == CLASSES
    assert card["preprocessing"] == {
        "resize_shorter": 80,
        "center_crop": 64,
        "interpolation": "bilinear",
        "antialias": True,
        "scale": pytest.approx(1 / 255),
        "grayscale": False,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert card["scores"] == {"val/error": 0.25, "test/error": 0.375}  # those of the step of the checkpoint
    assert card["fragility"] == [{"step": 7, "quantity": "sensitivity", "gamma": 0.02, "value": 0.25, "stderr": 0.1}]
    manifest = json.loads((run.parent / "renders/train/manifest.json").read_text())
    two = "".join(f"{shard['sha256']}\n" for shard in manifest["shards"][:2])  # 20 images are in the first two shards
    data = card["training"]["data"]
    assert data["shards_sha256"] == hashlib.sha256(two.encode()).hexdigest()
    assert (data["module"], data["images"], data["categories"]) == ("Rendered", 20, ["disc", "bar", "frame"])
    assert card["training"]["started_from"] == "runs/pre/a.ckpt"
    assert card["training"]["steps"] == 7
    (law,) = card["law"]
    assert law["parameters"]["C"] == {"value": 0.125, "interval": [0.1, 0.15], "identified": True}
    assert law["parameters"]["alpha"]["interval"] == [0.2, None]
    assert law["verdict"] == "render differently"
    assert card["trained_with"] == {"lightning": "2.6.0"}
    assert card["exported_with"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__
    assert "forgetting" not in card
    assert "secret-key" not in json.dumps(card) + page
    assert "/home/me" not in json.dumps(card) + page

    header, _, body = page.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(header) == {
        "library_name": "lightning-tl",
        "tags": ["lightning-tl"],
        "pipeline_tag": "image-classification",
        "license": "apache-2.0",
    }
    assert "| C | 0.125 | 0.1 to 0.15 |  |" in body
    assert "| alpha | 0.5 | 0.2 to unbounded | not identified: too few sizes |" in body
    assert "2. tea \\| pot" in body
    assert "## Forgetting" not in body
    settings = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert settings["model"] == CONFIG["model"]
    assert settings["trainer"] == {"max_steps": 7}


def test_a_studys_record_and_other_measurements(run):
    record = {
        "key": "k",
        "checkpoint": "checkpoints/last.ckpt",
        "metrics": {"test/error": 0.5, "train/loss": 1.0},
        "facts": {"pretrain_loss_before": 0.5, "pretrain_loss_after": 0.75, "param_distance": 2.0, "images": 20},
        "seconds": 1.0,
        "measurements": [
            {"step": 0, "quantity": "sensitivity", "gamma": 0.1, "value": 0.5, "stderr": None},
            {"step": 5, "quantity": "hessian", "group": "trace", "value": 4.0, "stderr": 0.5},
            {"step": 5, "quantity": "param_distance", "group": "total", "value": 4.0},
        ],
    }
    (run / "record.json").write_text(json.dumps(record))
    card, page, out = card_of(run)
    assert card["scores"] == {"test/error": 0.5}
    assert card["forgetting"] == {"pretrain_loss_before": 0.5, "pretrain_loss_after": 0.75, "param_distance": 2.0}
    assert card["fragility"] == [{"step": 5, "quantity": "hessian/trace", "value": 4.0, "stderr": 0.5}]
    assert "| pretrain_loss_after | 0.75 |" in page
    out.unlink()
    table = run.parent / "m.csv"
    table.write_text(
        "run_id,step,quantity,group,gamma,value,stderr\n"
        "run,7,sensitivity,,0.02,0.5,0.125\nrun,8,sensitivity,,0.02,0.75,\nother,7,sensitivity,,0.02,9,\n"
    )
    card, _, out = card_of(run, f"--measurements={table}")
    assert card["fragility"] == [{"step": 7, "quantity": "sensitivity", "gamma": 0.02, "value": 0.5, "stderr": 0.125}]


def test_nothing_is_invented(tmp_path):
    task = Classification(3, "resnet10_w8")
    torch.save({"state_dict": task.state_dict()}, tmp_path / "a.ckpt")
    assert main(["export", str(tmp_path / "a.ckpt"), f"--out={tmp_path}/b.pt"]) == 0
    card = json.loads((tmp_path / "b.transfer_card.json").read_text())
    assert card.keys() == {"card", "card_version", "about", "weights", "network", "exported_with"}
    assert card["network"].keys() == {"parameters"}


@pytest.mark.parametrize(
    "option, content, message",
    [
        ("--law", None, "cannot be read (No such file or directory)"),
        ("--law", "{", "cannot be read"),
        ("--law", '{"groups": []}', "is no fits.json of lightning-tl law or of a study: advice is missing"),
        ("--measurements", None, "cannot be read as a table (No such file or directory)"),
        ("--measurements", "a,b\n1,2\n", "lacks one of the columns step, quantity, value"),
        ("--measurements", "step,quantity,value\nx,sensitivity,1\n", "line 2: step is 'x', no whole number"),
        (
            "--measurements",
            "run_id,step,quantity,value\na,1,sensitivity,1\nb,1,sensitivity,1\n",
            "holds measurements of 2 runs, and none is of 'run', the checkpoint's run",
        ),
    ],
)
def test_files_that_cannot_be_used(run, capsys, option, content, message):
    path = run.parent / "given"
    if content is not None:
        path.write_text(content)
    out = run.parent / "out.pt"
    assert main(["export", str(run / "checkpoints/last.ckpt"), f"--out={out}", f"{option}={path}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert not out.exists()


@pytest.mark.filterwarnings("ignore")
def test_the_card_of_a_language_model(tmp_path):
    options = ["--data.root=builtin:arithmetic", "--data.n=2048", "--trainer.enable_progress_bar=false"]
    options += ["--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {dirpath: " + f"{tmp_path}/run}}}}]"]
    run_training(["fit", "--config=pretrain/language_small", f"--trainer.default_root_dir={tmp_path}/run", *options])
    (checkpoint,) = (tmp_path / "run").glob("*.ckpt")
    assert main(["export", str(checkpoint), "--format=huggingface", f"--out={tmp_path}/out"]) == 0
    card = json.loads((tmp_path / "out/transfer_card.json").read_text())
    assert card["network"].keys() == {"task", "backbone", "num_classes", "transfer", "parameters"}
    assert card["training"]["data"] == {
        "module": "lightning_tl.data.Text",
        "root": "builtin:arithmetic",
        "context": 32,
        "n": 2048,
        "draw": 0,
    }
    assert "started_from" not in card["training"]
