"""Checks whether this machine can render.

``python -m data_gen.check`` prints in one line which system libraries Blender lacks, if any; it needs only Python, so
it can run before anything is installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from lightning_tl.errors import UserError

_PACKAGES = ("bpy", "blenderproc", "cv2", "trimesh", "imageio", "git")

# what bpy's wheels need from the system, and the Debian/Ubuntu package that holds it
_DEBIAN = {
    "libX11.so.6": "libx11-6",
    "libXrender.so.1": "libxrender1",
    "libXxf86vm.so.1": "libxxf86vm1",
    "libXfixes.so.3": "libxfixes3",
    "libXi.so.6": "libxi6",
    "libXext.so.6": "libxext6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libGL.so.1": "libgl1",
    "libgomp.so.1": "libgomp1",
}


def missing_packages() -> list[str]:
    """Return the packages of the render extra that are not installed, without importing any."""
    return [name for name in _PACKAGES if importlib.util.find_spec(name) is None]


def missing_libraries() -> list[str]:
    """Return the shared libraries that Blender needs and the system lacks.

    If bpy is installed, ``ldd`` lists them; otherwise each library that its wheels are known to need is loaded once.
    """
    if sys.platform != "linux":
        return []
    spec = importlib.util.find_spec("bpy")
    if spec is not None and spec.origin is not None:
        binaries = map(str, Path(spec.origin).parent.glob("__init__*.so"))
        try:
            listing = subprocess.run(["ldd", *binaries], capture_output=True, text=True, timeout=60).stdout
        except (OSError, subprocess.TimeoutExpired):
            listing = ""
        if listing:
            return sorted(set(re.findall(r"^\s*(\S+) => not found", listing, re.MULTILINE)))
    return sorted(name for name in _DEBIAN if not _loads(name))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def check_libraries() -> None:
    """Check that the system has the libraries that Blender needs.

    Raises:
        UserError: naming the libraries and the command that installs them on Debian and Ubuntu.
    """
    libraries = missing_libraries()
    if not libraries:
        return
    names = " ".join(sorted({_DEBIAN[name] for name in libraries if name in _DEBIAN}))
    unknown = [name for name in libraries if name not in _DEBIAN]
    steps = [f"apt-get install -y {names}"] if names else []
    steps += [f"the packages that hold {', '.join(unknown)}"] if unknown else []
    raise UserError(
        f"Blender needs system libraries that are missing ({', '.join(libraries)}). On Debian or Ubuntu, as root: "
        + " and ".join(steps)
    )


def check_environment(here: bool = False) -> None:
    """Check that rendering can start.

    Args:
        here: Check this Python, also where another one is named for the workers.

    Raises:
        UserError: the extra is not installed, bpy has no wheel for this version of Python, the Blender that is named
            cannot be used, or system libraries are missing; with the command that fixes it.
    """
    from data_gen.blender_program import check_blender
    from data_gen.interpreter import VARIABLE, check_other_python, how_to_make_one, named_blender, worker_environment

    if here and "bpy" in sys.modules:  # this process is a Blender
        return
    if os.environ.get(VARIABLE) and not here:
        check_other_python(_PACKAGES)
        check_libraries()
        return
    if (blender := named_blender()) and not here:
        check_blender(blender, worker_environment())
        return
    packages = missing_packages()
    if "bpy" in packages and sys.version_info[:2] != (3, 11):
        version = ".".join(map(str, sys.version_info[:2]))
        raise UserError(
            f"rendering needs Python 3.11, this is {version}: Blender as a Python package (bpy) has no wheel for it; "
            f"make an environment with Python 3.11 and name it, rendering then runs there{how_to_make_one()}; or name "
            "an installed Blender: export BLENDER=/path/to/blender"
        )
    if packages:
        raise UserError(f"rendering needs `pip install 'lightning-tl[render]'` (missing: {', '.join(packages)})")
    check_libraries()


def main() -> int:
    """Print which system libraries are missing, if any; return the exit code."""
    try:
        check_libraries()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
