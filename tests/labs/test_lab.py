from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lightning_tl.cli.main import main
from lightning_tl.errors import UserError
from lightning_tl.labs.catalogue import LABS, lab_class
from lightning_tl.labs.linear_transfer import LinearTransfer
from lightning_tl.labs.outcome import Comparison, Outcome, compared

QUICK = ["linear-transfer", "--d", "300", "--ratios", "[0.4]", "--draws", "2", "--surface_d", "20"]
HEAVY = ("torch", "lightning", "pandas", "matplotlib", "scipy.optimize")


def test_the_list_names_every_lab(capsys):
    assert main(["lab"]) == 0
    out = capsys.readouterr().out
    for name, (_, _, line) in LABS.items():
        assert name in out
        assert line in out
    assert main(["lab", "--help"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in LABS)])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom lightning_tl.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"print('imported:', *(name for name in {HEAVY} if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code, "lab", *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "imported:"
    assert "usage" in result.stdout


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["linear-transfr"], "no lab 'linear-transfr'; did you mean 'linear-transfer'?"),
        (["linear-transfer", "--noize", "1"], "did you mean 'noise'?"),
        (["linear-transfer", "--d", "many"], "d"),
        (["linear-transfer", "--seed", "-1"], "seed is -1; it must be from 0 to 4294967295"),
        (["linear-transfer", "--seed", "9" * 30], "it must be from 0 to 4294967295"),
        (["all", "--seed", "-1"], "seed is -1; it must be from 0 to 4294967295"),
        (["linear-transfer", "--noise", "-1"], "noise is -1; it must be from 0 to 1e+06"),
        (["linear-transfer", "--d", "100"], "d is 100; it must be from 200 to 5000"),
        (["linear-transfer", "--ratios", "[0.5,1.5]"], "ratios is 1.5; it must be from 0.001 to 0.998"),
        (["linear-transfer", "--along", "1e9"], "along is 1e+09; it must be from -100 to 100"),
        (["linear-transfer", "--mean", "1e300"], "mean is 1e+300; it must be from 0.001 to 10"),
        (["linear-transfer", "--draws", "1"], "draws is 1; it must be from 2 to 1000"),
    ],
)
def test_one_sentence_for_each_wrong_argument(capsys, tmp_path, arguments, message):
    assert main(["lab", *arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_simulation(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(LinearTransfer, "run", None)  # would fail when called
    (tmp_path / "file").touch()
    assert main(["lab", *QUICK, "--out", str(tmp_path / "file" / "out")]) == 2
    assert "a file is where a folder should be" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main(["lab", *QUICK, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: you may not write there; choose another folder by --out\n"


def test_a_lab_writes_its_files(capsys, tmp_path):
    code = main(["lab", *QUICK, "--out", str(tmp_path)])
    out = capsys.readouterr().out
    content = json.loads((tmp_path / "linear-transfer.json").read_text())
    assert code == (1 if content["agreement"]["disagrees"] else 0)
    assert content["parameters"]["d"] == 300
    assert f"{content['agreement']['agrees']} of " in out
    rows = (tmp_path / "linear-transfer.csv").read_text().splitlines()
    assert rows[0] == "part,case,at,theory,simulation,stderr,allowed,runs,agreement"
    assert len(rows) == 1 + len(content["comparisons"])
    for name in ("risk", "universality", "surface"):
        assert Image.open(tmp_path / f"{name}.png").width > 500
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    page = (tmp_path / "linear-transfer.html").read_text()
    assert page.count("<img") >= 3


@pytest.mark.parametrize("name", LABS)
def test_every_lab_has_a_class(name):
    assert lab_class(name)().seed == 0
    lab_class(name)().check()


def test_an_unknown_lab_is_refused():
    with pytest.raises(UserError, match="no lab 'x'; valid: "):
        lab_class("x")


@pytest.mark.parametrize(
    "theory,simulated,verdict",
    [
        (1.0, [1.009, 1.011], "agrees"),
        (1.0, [1.05, 1.051, 1.05, 1.051], "disagrees"),
        (1.0, [1.05, 1.051], "undecided"),
        (1.0, [0.7, 1.3], "undecided"),
        (1.0, [1.015, 1.041], "undecided"),
        (1.0, [float("nan"), 1.0], "disagrees"),
        (0.0, [0.1, 0.1], "disagrees"),
    ],
)
def test_agreement(theory, simulated, verdict):
    assert compared("part", "case", 0.0, theory, simulated).agreement == verdict


@pytest.mark.parametrize("runs", [2, 3, 8])
def test_chance_hardly_ever_disagrees_however_few_the_runs(runs):
    drawn = 1 + np.random.default_rng(runs).standard_normal((4000, runs))
    found = [compared("part", "case", 0.0, 1.0, values, None, 0.0).agreement for values in drawn]
    assert found.count("disagrees") == pytest.approx(4000 * 0.0027, abs=4 * (4000 * 0.0027) ** 0.5)
    assert found.count("disagrees") + found.count("agrees") == 4000
    assert compared("part", "case", 0.0, 1.2, drawn.ravel(), None, 0.0).agreement == "disagrees"


def test_the_largest_difference_leaves_out_a_theory_of_0():
    items = [Comparison("part", "", 0.0, *values, 0.0, 0.2) for values in ((0.0, 0.0), (1.0, 1.1))]
    assert Outcome("", items, ("", "", "")).worst("part") == pytest.approx(0.1)


def test_what_is_only_shown_never_agrees():
    assert compared("part", "case", 0.0, 1.0, [1.0, 1.0], None).agreement == "shown"
    assert Comparison("part", "case", 0.0, 1.0, 1.0).agreement == "shown"
