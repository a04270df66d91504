"""Render in a process that a test may kill.

``render_here.py CONFIG OUT IMAGES VAL WORKERS [fake|crashing [ray ADDRESS]]``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from data_gen import farm, local_pool, ray_pool
from data_gen.scene_sampler import config_from_dict
from lightning_tl.errors import UserError

if __name__ == "__main__":
    config, out, images, val, workers = sys.argv[1:6]
    if sys.argv[6:]:
        other = str(Path(__file__).with_name(f"{sys.argv[6]}_worker.py"))
        local_pool.worker_arguments = ray_pool.worker_arguments = lambda: [other]
    if sys.argv[6:7] == ["fake"]:
        farm.check_environment = lambda: None
    try:
        summary = farm.render(
            config_from_dict(json.loads(Path(config).read_text())),
            out,
            int(images),
            int(val),
            int(workers),
            engine=sys.argv[7] if sys.argv[7:] else "local",
            address=sys.argv[8] if sys.argv[8:] else None,
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    print(summary.rendered)
