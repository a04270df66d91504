"""Runs Python code inside a Blender program, by BlenderProc's own command.

``python -m data_gen.blender.blenderproc_run PARENT JOB``: PARENT is the process id of the caller, with which it ends;
JOB is JSON with ``home``, ``folder``, ``python``, ``path`` and ``arguments`` (see
:func:`data_gen.blender_program.blender_command`). It ends as Blender ends, also by a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from lightning_tl._io.processes import die_with_parent


def main(parent: str, text: str) -> None:
    """Run the job; never returns."""
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group: the parent decides
    job = json.loads(text)
    folder = Path(job["folder"])
    # Blender begins as the `bpy` module does, without the user's own preferences and start-up scene
    os.environ["BLENDER_USER_CONFIG"] = str(folder / "config")
    os.environ["OUTSIDE_OF_THE_INTERNAL_BLENDER_PYTHON_ENVIRONMENT_BUT_IN_RUN_SCRIPT"] = "1"
    # BlenderProc puts the folder from which it was imported on Blender's path: not this Python's packages, which
    # Blender's Python may be unable to import, but a folder with links to three of them
    sys.path.insert(0, str(folder / "packages"))
    from blenderproc.command_line import cli

    script = Path(__file__).with_name("inside_blender.py")
    # without an install path, BlenderProc asks for the user's name, which not every container has
    places = ["--custom-blender-path", job["home"], "--blender-install-path", job["home"], "--temp-dir", str(folder)]
    sys.argv = ["blenderproc", "run", *places, str(script), text]
    try:
        cli()
    except SystemExit as end:
        if isinstance(end.code, int) and end.code < 0:
            with suppress(OSError):  # SIGKILL cannot be caught anyway
                signal.signal(-end.code, signal.SIG_DFL)
            os.kill(os.getpid(), -end.code)
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
