"""Projects of other packages, as far as they are installed: measuring works, and training is the same to the bit."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


projects = loaded("zoo_projects")
PROJECTS, Project, manifold_mixup = projects.PROJECTS, projects.Project, projects.manifold_mixup
this_package = sys.modules.get("zoo")
zoo = loaded("zoo")
if this_package is not None:
    sys.modules["zoo"] = this_package  # pytest knows this folder under the same name

INSTALLED = [project for project in PROJECTS if not project.absent]


def test_what_every_developer_has_is_among_them():
    names = {project.name for project in INSTALLED}
    assert {"timm ConvNeXt", "Hugging Face Llama", "Hugging Face T5", "clamped critic"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("project", INSTALLED, ids=lambda project: project.name)
def test_measured_and_unchanged(project):
    result = zoo.examine(project, with_costs=False)
    assert result.failures == []
    assert result.different == []


class Meddling(Callback):
    def on_train_batch_end(self, trainer, pl_module, *args):
        with torch.no_grad():
            next(pl_module.parameters()).add_(1e-3)


def test_a_change_and_a_failure_are_found(monkeypatch):
    project = Project("mixup", (), manifold_mixup)
    usual = zoo.callbacks

    def meddling(project, often):
        found = usual(project, often)
        found[1].recorder.loss_fn = lambda module, batch: 1 / 0
        return [*found, Meddling()]

    monkeypatch.setattr(zoo, "callbacks", meddling)
    monkeypatch.setattr(Meddling, "measured_steps", [0, 1, 2, 3, 4], raising=False)
    result = zoo.examine(project, with_costs=False)
    assert "net.encoder.0.weight" in result.different
    assert [text for text in result.failures if "HessianTrace could not measure at step 0" in text]
    assert "HessianTrace measured at []" in result.failures


def test_absent_packages_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(zoo, "PROJECTS", [Project("other", ("no_such_package",), manifold_mixup)])
    assert zoo.main([]) == 0
    assert "| other | not installed: no_such_package |" in capsys.readouterr().out
