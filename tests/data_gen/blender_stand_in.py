"""What behaves like Blender's program towards BlenderProc, made of a Python: for tests where there is no Blender.

As Blender it answers ``--version``, prints a line before it runs the script of ``--python`` as ``__main__`` with its
own arguments in ``sys.argv``, and is laid out like Blender's downloads.
"""

from __future__ import annotations

import sys
from pathlib import Path

_TEXT = """#!{python}{options}
import sys
if "--version" in sys.argv:
    print("Blender {version}\\n\\tbuild date: 2026-01-01")
    sys.exit()
print("Blender {version}", flush=True)
assert sys.argv[1:4] == ["--background", "--python-use-system-env", "--python-exit-code"]
del sys.path[0]
import runpy
{first}
runpy.run_path(sys.argv[sys.argv.index("--python") + 1], run_name="__main__")
"""


def make(folder: Path, version: str = "4.2.9", bpy: bool = False, packages: bool = True, series: str = "4.2") -> Path:
    """Make a folder with the program ``blender`` and return the program's path.

    Args:
        folder: where; need not exist.
        version: what it says of itself.
        bpy: import Blender as a package, as Blender has it when a script begins.
        packages: the Python has this environment's packages.
        series: name of the folder beside the program; empty for none, as where a Linux distribution installs it.
    """
    folder.mkdir(parents=True)
    if series:
        (folder / series).mkdir()
    program = folder / "blender"
    text = _TEXT.format(
        python=sys.executable,
        options="" if packages else " -S",
        version=version,
        first="import bpy" if bpy else "",
    )
    program.write_text(text)
    program.chmod(0o755)
    return program
