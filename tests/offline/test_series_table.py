"""The table of checkpoints in the report of a series: what it shows, and what it leaves to measurements.csv."""

import re
from pathlib import Path

from lightning_tl.measured_value import Measured
from lightning_tl.offline.revisions import Revision
from lightning_tl.offline.series import Result
from lightning_tl.offline.series_report import write_series


def heads(revisions: list[Revision], folder: Path) -> list[str]:
    results = []
    for revision in revisions:
        records = [
            Measured(step=7, quantity="param_distance", group="total", value=2.0),
            Measured(step=7, quantity="perturbed_loss", gamma=0.0, value=0.5),
            Measured(step=7, quantity="loss_along", gamma=0.25, value=0.4),
            Measured(step=7, quantity="quadratic_along", gamma=0.25, value=0.3),
        ]
        results.append(Result(revision, records))
    write_series(results, {}, "mine", folder)
    page = (folder / "report.html").read_text()
    return re.findall(r"<th>(.*?)</th>", page.split("The checkpoints")[1].split("How to read this")[0])


def test_losses_along_lines_and_unknown_tokens_have_no_columns(tmp_path):
    values = ["param_distance/total", "perturbed_loss/gamma_0"]
    assert heads([Revision("a.ckpt", 7)], tmp_path / "steps") == ["checkpoint", "step", *values]
    known = heads([Revision("a", 7), Revision("b", 8, 900)], tmp_path / "tokens")
    assert known == ["checkpoint", "step", "tokens", *values]
    assert "loss_along" in (tmp_path / "steps" / "measurements.csv").read_text()
