"""The examples run from top to bottom, and say what they promise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def run(name: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


def output(name: str, *arguments: str, folder: Path | None = None) -> str:
    done = run(name, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.?\d*(?:e-?\d+)?", text)]


def test_a_law_from_a_table():
    alpha, rest, at_larger = output("law_from_a_table.py").splitlines()
    _, low, high, truth = numbers(alpha)
    assert low < truth < high
    assert rest.startswith("C = ")
    predicted, low, high = numbers(at_larger.partition(":")[2])
    assert low < predicted < high
    assert low < 1.2 * 320_000**-0.4 + 0.05 < high


def test_a_table_of_other_columns_is_one_message(tmp_path):
    (tmp_path / "table.csv").write_text("pretrain_images,score\n100,0.5\n")
    done = run("law_from_a_table.py", "table.csv", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: no column error, draw_seed in table.csv; lightning-tl law takes other names\n"


@pytest.mark.slow
def test_the_fragility_of_a_hugging_face_model():
    lines = [line for line in output("fragility_of_a_hugging_face_model.py").splitlines() if line.startswith("step")]
    assert [numbers(line)[0] for line in lines] == [0, 25, 50, 75, 100]
    moved = [numbers(line)[1] for line in lines]
    assert moved == sorted(moved)
    assert moved[0] == 0


@pytest.mark.slow
def test_an_own_task():
    own, tuned = output("own_task.py").splitlines()[-2:]
    assert own.startswith("own task: F1 ")
    assert numbers(tuned)[1] > 0.3  # by chance 0.1


@pytest.mark.slow
@pytest.mark.render
def test_own_meshes(tmp_path):
    last = output("own_meshes.py", str(tmp_path)).splitlines()[-1]
    right, images, accuracy, _, low, high, chance = numbers(last)
    assert accuracy == round(right / images, 2)
    assert chance == 0.33 < low < accuracy < high
    for name in ("seen", "new"):
        manifest = json.loads((tmp_path / "renders" / name / "val" / "manifest.json").read_text())
        assert sorted(manifest["categories"].values()) == ["bottle", "bowl", "goblet"]
    assert sum(shard["images"] for shard in manifest["shards"]) == images
    assert Image.open(tmp_path / "seen.png").width > 1000


@pytest.mark.slow
def test_no_blender_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_TL_RENDER_PYTHON", str(tmp_path / "python"))
    done = run("own_meshes.py", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: LIGHTNING_TL_RENDER_PYTHON")
    assert "Traceback" not in done.stderr


def write_study(folder: Path) -> pd.DataFrame:
    """Write the two tables of a study with a law of alpha 0.5 and C 0.1, two draws, and two measured networks."""
    rows = []
    for n in (0, 100, 400, 1600, 6400):
        for draw, luck in enumerate((0.99, 1.01)):
            error = (2 * n**-0.5 + 0.1 if n else 0.4) * luck
            start = f"pre-{n}" if n else None
            rows.append((f"tune-{n}-{draw}", "digits", n, start, draw, error))
    columns = ["run_id", "render", "pretrain_images", "pretrain_run", "draw_seed", "error"]
    results = pd.DataFrame(rows, columns=columns)
    results.to_csv(folder / "results.csv", index=False)
    measured = [
        (f"pre-{n}", step, "sensitivity", None, 0.02, value, 0.001)
        for n, end in ((100, 0.25), (400, 0.75))
        for step, value in ((0, 0.01), (500, end))
    ]
    columns = ["run_id", "step", "quantity", "group", "gamma", "value", "stderr"]
    pd.DataFrame(measured, columns=columns).to_csv(folder / "measurements.csv", index=False)
    return results


def test_a_study_is_read(tmp_path):
    results = write_study(tmp_path)
    lines = output("read_a_study.py", str(tmp_path)).splitlines()
    (size,) = [line for line in lines if line.startswith("1600")]
    errors = results.loc[results.pretrain_images == 1600, "error"]
    half = 12.706 * errors.std() / np.sqrt(2)  # Student's t with one degree of freedom
    assert numbers(size) == [1600, round(errors.mean(), 3), round(half, 3)]
    rises = [line.split()[-3:] for line in lines if "± 0.002" in line]
    assert rises == [["0.25", "±", "0.002"], ["0.75", "±", "0.002"]]  # at the last step; two standard errors
    alpha, gap = (line for line in lines if line.startswith("digits: "))
    for line, truth in ((alpha, 0.5), (gap, 0.1)):
        low, high = numbers(line)[2:4]
        assert low <= truth <= high
    assert Image.open(tmp_path / "read_a_study.png").width > 500


def test_a_folder_without_a_study_is_one_message(tmp_path):
    done = run("read_a_study.py", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path} has no results.csv; give the folder that")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.render
def test_a_small_study_is_run_and_read(tmp_path):
    lines = output("read_a_study.py", folder=tmp_path).splitlines()
    sizes = [int(line.split()[0]) for line in lines if re.match(r"\d", line)]
    assert sizes == [0, 16, 64, 256, 1024]
    assert lines[-1] == "figure: runs/read_a_study/read_a_study.png"
    assert (tmp_path / "runs/read_a_study/read_a_study.png").is_file()


def executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Execute a notebook, which raises where a cell does; return what its cells printed and showed as text."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr" and "Warning" in output["text"]]
    data = [output["data"] for output in outputs if "data" in output]
    shown = [each.get("text/markdown", each.get("text/plain", "")) for each in data]
    return "\n".join([*shown, *(output["text"] for output in outputs if "text" in output)])


@pytest.mark.slow
def test_the_notebook_from_a_table_to_a_decision(tmp_path, monkeypatch):
    text = executed("from_a_table_to_a_decision", tmp_path, monkeypatch)
    assert "plain: render differently" in text  # in truth ten times the images take off 5 %
    assert "textured: render more" in text  # in truth 29 %
    for share in re.findall(r"of 60 intervals .*: (\d+)% to (\d+)%", text):
        assert int(share[0]) <= 95 <= int(share[1])


@pytest.mark.slow
def test_the_notebook_that_watches_a_training_run(tmp_path, monkeypatch):
    text = executed("watch_a_training_run", tmp_path, monkeypatch)
    assert "same weights, to the bit: True" in text
    (line,) = [line for line in text.splitlines() if line.startswith("rise under noise, rate 0.0005 less rate 0.004")]
    difference, low, high = (float(number) for number in re.findall(r"-?\d+\.\d{4}(?!\d)", line.partition(":")[2]))
    assert 0 < low < difference < high


@pytest.mark.slow
@pytest.mark.render
def test_the_notebook_from_renders_to_real_images(tmp_path, monkeypatch):
    text = executed("from_renders_to_real_images", tmp_path, monkeypatch)
    assert "640 images in" in text
    assert "no faults" in text
    assert re.search(r"renders lower the error by 0\.\d{3} \(95 % interval -?0\.\d{3} to 0\.\d{3}\)", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs_and_their_links_lead_somewhere(path):
    cells = nbformat.read(path, as_version=4).cells
    for cell in cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
        for target in re.findall(r"\]\(([^)#]+)", cell.source if cell.cell_type == "markdown" else ""):
            assert (EXAMPLES / target).is_file(), target


def test_every_example_is_listed():
    names = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert len(names) == 8
    for page in ("README.md", "docs/examples.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [name for name in names if f"examples/{name}" not in text] == []
