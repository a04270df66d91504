"""The examples run from top to bottom, and say what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def output(name: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, env=environment)
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
