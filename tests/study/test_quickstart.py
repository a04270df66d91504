import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_tl.errors import UserError
from lightning_tl.study.quickstart import Quickstart

RENDER = {"image": {"size": 24, "samples": 1}, "camera": {"views": 2}, "scenes_per_shard": 4, "appearance": "single"}


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"sizes": []}, "sizes is empty"),
        ({"sizes": [0, 8]}, "give sizes of at least 1"),
        ({"draws": []}, "draws is empty"),
        ({"pretrain_steps": 0}, "pretrain_steps is 0"),
        ({"target_error": 1.5}, "target_error is 1.5"),
    ],
)
def test_wrong_settings_are_named(wrong, words):
    with pytest.raises(UserError, match=words):
        Quickstart(**wrong)


def command(folder: Path) -> list[str]:
    renders = {}
    for name, categories in (("digits", "digits"), ("shapes", "shapes")):
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**RENDER, "categories": [categories]}))
        renders[name] = str(file)
    settings = folder / "settings.yaml"
    settings.write_text(
        yaml.safe_dump(
            {
                "renders": renders,
                "sizes": [4, 8, 16, 24],
                "val_images": 8,
                "pretrain_steps": 24,
                "finetune_steps": 24,
                "shots": 2,
                "draws": [0, 1],
                "learning_rates": [0.004, 0.008],
                "workers": 2,
            }
        )
    )
    return [
        sys.executable,
        "-m",
        "lightning_tl.cli.main",
        "quickstart",
        f"--config={settings}",
        f"--out={folder / 'out'}",
    ]


def records(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in (folder / "out" / "runs").glob("*/record.json")}


def wait_for_records(process: subprocess.Popen, folder: Path, count: int) -> None:
    while len(records(folder)) < count:
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        return  # it ended first


def table(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "out" / "results.csv").open(newline="")))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def children_of(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.render
def test_killed_and_run_again_it_ends_with_every_file(tmp_path):
    started = subprocess.Popen(
        command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for_records(started, tmp_path, 4)
    assert started.poll() is None, started.stderr.read().decode()
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()
    finished = records(tmp_path)

    done = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert children_of(started.pid) == []  # the killed one's workers went with it
    after = records(tmp_path)
    assert {path: after[path] for path in finished} == finished

    rows = table(tmp_path)
    assert len(rows) == 2 * 5 * 2
    by_run = {row["run_id"]: row for row in rows}
    assert len(by_run) == 2 * 4 * 2 + 2  # scratch stands once for each rendering
    assert {row["pretrain_images"] for row in rows} == {"0", "4", "8", "16", "24"}
    for row in rows:
        assert float(row["error"]) == pytest.approx(1 - float(row["score"]), abs=2e-6)
    for name in ("fits.json", "fits.csv", "law.png", "digits.png", "shapes.png", "target.png", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert "report.html" in done.stdout

    again = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=500)
    assert again.returncode == 0, again.stderr
    assert records(tmp_path) == after
    assert table(tmp_path) == rows


@pytest.mark.render
@pytest.mark.slow
def test_interrupted_or_not_the_table_is_the_same(tmp_path):
    tables = []
    for name, kills in (("whole", ()), ("killed", (2, 9, 15))):
        folder = tmp_path / name
        folder.mkdir()
        for count in kills:
            started = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for_records(started, folder, count)
            started.kill()
            started.wait()
        done = subprocess.run(command(folder), capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        tables.append(table(folder))
    assert tables[0] == tables[1]
