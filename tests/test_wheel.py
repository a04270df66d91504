"""The wheel, installed where the repository is not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CALLBACKS = """
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset
from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity

class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, batch_idx):
        return (self.layer(batch[0]) - batch[1]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

torch.manual_seed(0)
x = torch.randn(64, 4)
trace = HessianTrace(every_n_steps=4)
trainer = Trainer(
    max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, callbacks=[ParameterDistance(), trace, PerturbationSensitivity(gammas=[0.01])],
)
trainer.fit(Line(), DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=64))
# of a mean of squares of a line with an offset: twice the mean of the squared inputs, and of 1
exact = 2 * (x.square().sum(1).mean() + 1)
found = next(record for record in trace.history if record.group == "trace")
assert abs(found.value - exact) < 1e-3 * exact, (found, exact)
"""
FILES = """
from pathlib import Path
import lightning_tl, data_gen
from lightning_tl.config_files import find_config
from lightning_tl.html_page import __file__ as page
here = Path(lightning_tl.__file__).parent
assert here.is_relative_to(PREFIX) and Path(data_gen.__file__).is_relative_to(PREFIX), here
for name in ("study/quickstart", "render/digits", "finetune/digits", "callbacks/measure"):
    path = find_config(name)
    assert path.is_relative_to(here / "configs"), path
    schema = path.read_text().splitlines()[0].partition("=")[2]
    assert (path.parent / schema).is_file(), schema
assert list((here / "templates").glob("*.j2"))
assert (here / "py.typed").is_file()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel, and this one's packages beneath, but without the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(folder / "env", with_pip=False)
    site = folder / "env/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    # a line with a path adds the folder, and not what that folder's own .pth files name: the editable repository
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (wheel,) = (folder / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([*install, "--prefix", str(folder / "env"), str(wheel)], check=True, capture_output=True)
    return folder / "env"


@pytest.fixture
def call(installed, tmp_path):
    """Run a program of the environment in an empty folder."""

    def run(*arguments: str) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        program = [str(installed / "bin/python"), *arguments]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_files_of_the_wheel(call, installed):
    call("-c", f"PREFIX = {str(installed)!r}\n{FILES}")


@pytest.mark.slow
def test_commands(call, tmp_path):
    assert "law" in call("-m", "lightning_tl", "--help")
    assert "study/quickstart" in call("-m", "lightning_tl", "--completion", "bash")
    assert '"title": "lightning-tl render"' in call("-m", "lightning_tl", "schema", "render")
    rows = [f"{n},{0.1 + 2 * n**-0.5:.6f}" for n in (100, 200, 400, 800, 1600, 3200) for _ in range(2)]
    (tmp_path / "table.csv").write_text("\n".join(["pretrain_images,error", *rows]) + "\n")
    call("-m", "lightning_tl", "law", "table.csv", "--out", "fits")
    assert "law" in call("-m", "lightning_tl", "report", "fits") or (tmp_path / "fits/report.html").is_file()
    listed = call("-m", "lightning_tl", "study", "run", "--config", "study/quickstart", "--dry_run")
    assert "nothing was run" in listed


@pytest.mark.slow
def test_callbacks(call):
    call("-c", CALLBACKS)


@pytest.mark.slow
def test_the_readme_s_own_task_trains(call, tmp_path):
    text = (ROOT / "README.md").read_text()
    code = re.search(r"## A task of your own\n\n```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    (tmp_path / "my_module.py").write_text(code[1])
    options = ["--trainer.max_steps=2", "--model.scheduler=null", "--data.shots=2", "--data.steps_per_epoch=2"]
    name = "my_module.RareClasses"
    call("-m", "lightning_tl", "fit", "--config", "finetune/digits", "--model", name, *options)
    assert (tmp_path / "runs/finetune/metrics.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["law_from_a_table", "own_task"])
def test_examples(call, name):
    assert call(str(ROOT / "examples" / f"{name}.py"))
