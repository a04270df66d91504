"""Is this machine able to render? ``python -m data_gen.check`` says in one line what is missing, if anything."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from data_gen.errors import DataGenError

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
    "libGLX.so.0": "libglx0",
    "libEGL.so.1": "libegl1",
    "libxcb.so.1": "libxcb1",
    "libgomp.so.1": "libgomp1",
}


def missing_packages() -> list[str]:
    """Return which of the render extra's packages are not installed; imports none of them."""
    return [name for name in _PACKAGES if importlib.util.find_spec(name) is None]


def missing_libraries() -> list[str]:
    """Return which shared libraries Blender needs and the system lacks, by ``ldd`` on bpy's own library."""
    spec = importlib.util.find_spec("bpy")
    if sys.platform != "linux" or spec is None or spec.origin is None:
        return []
    binaries = list(Path(spec.origin).parent.glob("__init__*.so"))
    try:
        listing = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []  # no ldd (musl): the worker's own message will tell
    return sorted(set(re.findall(r"^\s*(\S+) => not found", listing, re.MULTILINE)))


def check_environment() -> None:
    """Make sure that rendering can start.

    Raises:
        DataGenError: the extra is not installed, Python is of a version that bpy has no wheel for, or system
            libraries are missing; with the command that mends it.
    """
    packages = missing_packages()
    if "bpy" in packages and sys.version_info[:2] != (3, 11):
        raise DataGenError(
            f"rendering needs Python 3.11: Blender 4's Python package (bpy) has no wheel for "
            f"{sys.version_info[0]}.{sys.version_info[1]}; make an environment with Python 3.11 and there "
            "`pip install 'lightning-tl[render]'`"
        )
    if packages:
        raise DataGenError(f"rendering needs `pip install 'lightning-tl[render]'` (missing: {', '.join(packages)})")
    libraries = missing_libraries()
    if libraries:
        names = " ".join(sorted({_DEBIAN.get(name, "") for name in libraries} - {""}))
        unknown = [name for name in libraries if name not in _DEBIAN]
        raise DataGenError(
            f"Blender needs system libraries that are missing ({', '.join(libraries)}). On Debian/Ubuntu: "
            f"apt-get install -y {names}" + (f" and the packages that hold {', '.join(unknown)}" if unknown else "")
        )


def main() -> int:
    """Print what is wrong, or that all is well; return the exit code."""
    try:
        check_environment()
    except DataGenError as error:
        print(error, file=sys.stderr)
        return 1
    print("rendering is possible here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
