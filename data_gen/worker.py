"""A worker process: renders shards that its parent requests; requests and reports are lines of JSON.

``python -m data_gen.worker``. First line in: ``{"config", "contents": the fingerprint of its sources, "record": file of
what is known of them, "temporary": folder, "staging": folder, "parent": process id}``; then ``{"split", "shard",
"path": or URL, "skip": scenes to leave out}``. Lines out: ``{"ready": versions}``, ``{"scene": index, "mib": memory in
use}`` after each scene, ``{"sha256", "bytes"}`` once the shard is in its place, or ``{"error": kind, "message": …,
"scene": index}``. It ends when its input ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from data_gen.scene_sampler import RenderConfig, config_from_dict, sample_scene
from data_gen.shard_writer import put_shard, view_members, write_shard
from data_gen.sources import Catalogue, open_catalogue
from lightning_tl._io.processes import die_with_parent
from lightning_tl._io.urls import is_url
from lightning_tl.errors import StoreError, UserError


def main() -> None:
    """Render shards until the input ends; never returns."""
    # Ctrl-C reaches the whole process group: the parent decides what happens
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Blender and BlenderProc print much
    code = 1
    try:
        _serve(out)
        code = 0
    except Exception as error:
        kind = "user" if isinstance(error, UserError) else "import" if isinstance(error, ImportError) else "worker"
        if kind == "worker":
            traceback.print_exc()
        _send(out, {"error": kind, "message": str(error)})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Blender 4.2 crashes in an ordinary exit


def _serve(out: TextIO) -> None:
    lines = _lines()
    start = json.loads(next(lines))
    die_with_parent(start["parent"])
    config = config_from_dict(start["config"])
    # Blender makes a temporary folder on import, and does not delete it if the process exits another way
    os.environ["TMPDIR"] = start["temporary"]
    from data_gen.blender.renderer import Renderer, versions

    catalogue = open_catalogue(config, Path(start["record"]))
    if catalogue.fingerprint != start["contents"]:
        raise UserError("files of the sources were changed while rendering: run the same command again")
    renderer = Renderer(config, Path(start["temporary"]), catalogue)
    _send(out, {"ready": {**versions(), "device": renderer.device}})
    for line in lines:
        _render_shard(renderer, config, catalogue, json.loads(line), Path(start["staging"]), out)


def _render_shard(
    renderer: Any, config: RenderConfig, catalogue: Catalogue, task: dict[str, Any], staging: Path, out: TextIO
) -> None:
    first = task["shard"] * config.scenes_per_shard
    scene = first

    def members() -> Iterator[tuple[str, bytes]]:
        nonlocal scene
        for scene in range(first, first + config.scenes_per_shard):
            if scene in task["skip"]:
                continue
            for view in renderer.render(sample_scene(config, config.seed, task["split"], scene, catalogue)):
                yield from view_members(view, config.image)
            _send(out, {"scene": scene, "mib": _memory_mib()})

    remote = is_url(task["path"])
    file = staging / task["split"] / task["path"].rsplit("/", 1)[-1] if remote else Path(task["path"])
    try:
        if remote:
            file.parent.mkdir(exist_ok=True)
        shard = write_shard(file, members())
        if remote:
            put_shard(file, task["path"])
        _send(out, {"sha256": shard.sha256, "bytes": shard.size})
    except StoreError as error:
        _send(out, {"error": "store", "message": str(error), "scene": scene})
    except UserError as error:
        _send(out, {"error": "user", "message": str(error), "scene": scene})
    except Exception as error:
        traceback.print_exc()
        _send(out, {"error": "scene", "message": f"{type(error).__name__}: {error}", "scene": scene})


def _memory_mib() -> int:
    """Return this process's resident memory in MiB; 0 if the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, ValueError, IndexError):
        return 0


def _send(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _lines() -> Iterator[str]:
    """Yield the input's lines; if the input ends during the rendering of a shard, exit the process."""
    lines: queue.Queue[str] = queue.Queue()
    idle = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        if not idle.is_set():
            os._exit(1)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        idle.set()
        line = lines.get()
        idle.clear()
        if not line:
            return
        yield line


if __name__ == "__main__":
    main()
