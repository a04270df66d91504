"""`lightning-tl` with a render worker that passes a gate: ``gated_main.py fake|crashing ARGUMENTS``."""

from __future__ import annotations

import sys
from pathlib import Path

from data_gen import farm, local_pool, ray_pool
from lightning_tl.cli.main import main

if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    worker = [str(Path(__file__).parents[1] / "data_gen" / f"{kind}_worker.py")]
    local_pool.worker_arguments = ray_pool.worker_arguments = lambda: worker
    if kind == "fake":
        farm.check_environment = lambda: None
    sys.exit(main(arguments))
