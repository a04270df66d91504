"""The history of a training that was killed while it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_tl.csv_history import keep_history

pytestmark = pytest.mark.filterwarnings("ignore")
WHOLE = "step,loss\n0,1.5\n1,1.25\n12,0.5\n"


@pytest.mark.parametrize("length", range(len(WHOLE) + 1))
def test_a_line_that_was_cut_is_dropped(tmp_path: Path, length: int) -> None:
    (tmp_path / "metrics.csv").write_text(WHOLE[:length])
    logger = CSVLogger(tmp_path, "", "")
    keep_history(logger, before_step=12)
    logger.log_metrics({"loss": 0.25}, 12)
    logger.save()
    kept = [line for line in WHOLE[:length].splitlines(keepends=True)[1:] if line.endswith("\n")]
    rows = [line for line in kept if not line.startswith("12")]
    lines = (tmp_path / "metrics.csv").read_text().splitlines(keepends=True)
    assert lines[1:-1] == rows
    assert sorted(lines[-1].strip().split(",")) == ["0.25", "12"]
