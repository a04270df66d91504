"""The script for ``blenderproc run``, which wants "import blenderproc" in the first line: here, the renderer does that.

BlenderProc's import would install packages into Blender's Python, with each worker; the check before rendering names
what is missing instead. The last argument is the job (see :mod:`data_gen.blender.blenderproc_run`).
"""

import json
import os
import runpy
import sys
import traceback
import types
from pathlib import Path


def main() -> None:
    """Run the job's code with the packages that it may import; never returns."""
    job = json.loads(sys.argv[-1])
    # after this, the process is one like any other that has Blender as a module
    for name in ("INSIDE_OF_THE_INTERNAL_BLENDER_PYTHON_ENVIRONMENT", "BLENDER"):
        os.environ.pop(name, None)
    version = list(sys.version_info[:2])
    custom = Path(job["home"], "custom-python-packages/lib/python{}.{}/site-packages".format(*version))
    sys.path[:0] = (job["path"] if version == job["python"] else []) + [str(custom)]
    # BlenderProc's renderer imports the writer of HDF5 files, which is not used here; wheels of h5py cannot be loaded
    # beside the HDF5 library of a Linux distribution's Blender
    sys.modules["h5py"] = types.ModuleType("h5py")
    # it ends with BlenderProc's process, which ends with the farm
    from lightning_tl._io.processes import die_with_parent

    die_with_parent()
    code = 1
    try:
        _run(job["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Blender 4.2 crashes in an ordinary exit


def _run(arguments: list[str]) -> None:
    """Run code as Python does with these arguments: ``-m MODULE …``, ``-c CODE …`` or ``FILE …``."""
    sys.argv = arguments
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


main()
