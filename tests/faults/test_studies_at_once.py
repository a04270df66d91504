"""Several `study run` started at once on a new folder: one renders, all train, and the result is that of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.interrupting import start
from faults.test_study_kills import assert_same, command, write
from scene_gate import SceneGate
from study.small_study import rows

pytestmark = pytest.mark.render
VAL_IMAGES, VIEWS = 8, 2
STUDIES = {2: {"sizes": (8,), "draws": (0,)}, 5: {"sizes": (8, 16), "draws": (0, 1, 2)}}


@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("commands", [2, 5])
def test_all_share_the_work(tmp_path: Path, commands: int) -> None:
    """No step is permitted before each command's one process has begun a run; nothing is rendered or trained twice."""
    sizes, draws = STUDIES[commands]["sizes"], STUDIES[commands]["draws"]
    path = write(tmp_path / "study", workers=1, **STUDIES[commands])
    gates = [SceneGate(tmp_path / name) for name in ("gate", "gate of one")]
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    logs = [tmp_path / f"log{number}.txt" for number in range(commands + 1)]
    processes = [start(command(path, out), log, **gates[0].environment) for log in logs[:-1]]
    scenes = (max(sizes) + VAL_IMAGES) // VIEWS
    gates[0].open(scenes)
    gates[0].wait(scenes)
    workers = gates[0].wait(commands)
    assert len(set(workers)) == commands
    gates[0].open(10_000)
    assert [process.wait(timeout=1200) for process in processes] == [0] * commands, [log.read_text() for log in logs]
    assert len(rows(out)) == (1 + len(sizes)) * len(draws)
    gates[1].open(10_000)
    assert start(command(path, undisturbed), logs[-1], **gates[1].environment).wait(timeout=1200) == 0
    assert_same(out, undisturbed)
    # as many scenes, steps and checkpoints
    assert scenes + commands + gates[0].rest() == gates[1].rest()
    for text in (log.read_text() for log in logs):
        assert "Traceback" not in text
        assert "error:" not in text
    for gate in gates:
        gate.close()
