"""The code of the pages on measuring runs as it stands; their keys are those that are logged; what importing costs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch.nn import functional as F

from tests.callbacks.modules import Classifier, images

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "measure.md").read_text()
PAGES = PAGE + (ROOT / "docs" / "trainers.md").read_text()
BLOCKS = [block for block in re.findall(r"```python\n(.*?)```", PAGES, re.S) if "MeasureCallback" not in block]


def test_the_code_of_the_pages_runs(capsys):
    import lightning_tl.callbacks as callbacks

    names = {name: getattr(callbacks, name) for name in callbacks.__all__}
    batch = next(iter(images(16, 16)))
    names |= {
        "Trainer": lambda **options: Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options),
        "pretrained_module": Classifier(),
        "pretraining_loader": images(8, 8),
        "module": Classifier(),
        "loss_fn": lambda module, b: F.cross_entropy(module(b[0]), b[1]),
        "batches": [batch, batch],
    }
    names["optimizer"] = torch.optim.SGD(names["module"].parameters(), 0.01)
    for name in ("a.ckpt", "b.ckpt"):
        torch.save({"state_dict": Classifier().state_dict()}, name)
    assert len(BLOCKS) == 7
    for block in BLOCKS:
        exec(block, names)
    names["trainer"].callbacks.extend(names["callbacks"])
    names["trainer"].fit(Classifier(), images())
    keys = set(names["trainer"].callback_metrics)
    optional = {"hessian/top_eigenvalue", "hessian/weighted_trace", "hessian/weighted_trace_stderr"}
    optional |= {"param_distance/merged"}  # of adapters
    table = set(re.findall(r"^\| `([^`<]+/[^`<]+)` \|", PAGE, re.M)) - optional
    assert len(table) == 9
    assert table <= keys, table - keys
    assert "pretrain/sensitivity/gamma_0.02" in keys
    assert "exact" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "callbacks").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_overlays_build(path):
    import importlib

    loaded = yaml.safe_load(path.read_text())
    for entry in loaded["trainer"]["callbacks+"]:
        module, _, name = entry["class_path"].rpartition(".")
        getattr(importlib.import_module(module), name)(**entry["init_args"])


def imported(code):
    """Return the names of the modules that a fresh process has imported after some code."""
    code = f"{code}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_importing_brings_little_but_our_own_modules():
    more = imported("import lightning.pytorch, lightning_tl.callbacks") - imported("import lightning.pytorch")
    others = {name for name in more if not name.startswith("lightning_tl")}
    assert len(others) <= 3, others


def test_measure_imports_neither_lightning_nor_vision():
    packages = {name.partition(".")[0] for name in imported("import lightning_tl.measure")}
    assert not packages & {"lightning", "torchvision", "torchmetrics", "scipy", "pandas"}
    assert "torch" in packages
