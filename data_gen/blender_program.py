"""Render workers inside a Blender program instead of a Python that has Blender as a package.

The environment variable ``BLENDER`` names the program, or the folder that holds it. BlenderProc's command runs it
(``blenderproc run``); a worker is then the same as elsewhere, but that its first lines of output are Blender's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_tl.errors import UserError, shortened

VARIABLE = "BLENDER"
_OLDEST, _TOO_NEW = (4, 2), (5, 0)
_WITHOUT = f"; or unset {VARIABLE}, to render with the Python package bpy"

# what workers import in Blender's Python, and the package that has it; BlenderProc and this package are given to it
_PACKAGES = {
    "numpy": "numpy",
    "PIL": "pillow",
    "scipy": "scipy",
    "cv2": "opencv-python-headless<5",
    "trimesh": "trimesh",
    "imageio": "imageio",
    "git": "gitpython",
    "yaml": "pyyaml",
    "requests": "requests",
    "rich": "rich",
    "filelock": "filelock",
    "fsspec": "fsspec",
}
_PROBE = """
import importlib.util, json, sys
lacking = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps({"python": sys.version_info[:2], "lacking": lacking}), flush=True)
"""


def blender_program(value: str) -> Path:
    """Return the program that ``BLENDER`` names.

    Args:
        value: the variable's value: a program, a folder that holds one named ``blender``, or a name on the path.

    Raises:
        UserError: there is none, or it is not executable.
    """
    path = Path(value).expanduser()
    if path.is_dir():
        if not (path / "blender").is_file():
            raise UserError(
                f"{VARIABLE}: the folder {path} holds no program 'blender': give the path of Blender's program or of "
                f"the folder that holds it{_WITHOUT}"
            )
        path = path / "blender"
    found = shutil.which(path)
    if found is None and path.is_file():
        raise UserError(
            f"{VARIABLE}: {path} is not executable: if it is Blender, chmod +x {shlex.quote(str(path))}{_WITHOUT}"
        )
    if found is None:
        raise UserError(
            f"{VARIABLE}: {path} does not exist: give the path of Blender's program or of the folder that holds "
            f"it{_WITHOUT}"
        )
    return Path(found).absolute()


def blender_command(value: str, arguments: Sequence[str], folder: Path) -> list[str]:
    """Return the command that runs Python code in Blender, as a process that ends with this one.

    Args:
        value: the value of ``BLENDER``.
        arguments: as Python's: ``-m MODULE …``, ``-c CODE …`` or ``FILE …``.
        folder: for temporary files of the process.

    Raises:
        UserError: see :func:`blender_program`.
    """
    program = blender_program(value)
    folder = Path(tempfile.mkdtemp(prefix="blender-", dir=folder))
    packages = folder / "packages"
    packages.mkdir()
    root = Path(__file__).resolve().parent.parent
    links = {"lightning_tl": root / "lightning_tl", "data_gen": root / "data_gen", "blenderproc": _blenderproc()}
    for name, place in links.items():
        (packages / name).symlink_to(place)
    job = {
        "home": str(_home(program, folder)),
        "folder": str(folder),
        "python": sys.version_info[:2],
        "path": _package_folders(),
        "arguments": list(arguments),
    }
    return [sys.executable, "-m", "data_gen.blender.blenderproc_run", str(os.getpid()), json.dumps(job)]


def _blenderproc() -> Path:
    spec = importlib.util.find_spec("blenderproc")
    if spec is None or spec.origin is None:
        raise UserError(
            f"{VARIABLE}: to run Blender, this Python ({sys.executable}) needs BlenderProc: "
            "pip install 'lightning-tl[render]'"
        )
    return Path(spec.origin).parent


def _home(program: Path, folder: Path) -> Path:
    """Return the folder that BlenderProc takes for Blender's: a program `blender` and a folder named by a version.

    Blender's own downloads are laid out so. For programs elsewhere, as in ``/usr/bin``, such a folder is made.
    """
    home = program.resolve().parent
    if program.resolve().name == "blender" and any(re.fullmatch(r"\d+\.\d+", p.name) for p in home.iterdir()):
        return home
    home = folder / "home"
    (home / "0.0").mkdir(parents=True)
    (home / "blender").symlink_to(program)
    return home


def _package_folders() -> list[str]:
    """Return the folders from which this Python imports packages, without its standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    places = [Path(place).absolute() for place in sys.path]
    return [str(place) for place in places if place.is_dir() and place not in (library, library / "lib-dynload")]


def check_blender(value: str, environment: Mapping[str, str]) -> None:
    """Check that workers can run in the Blender that ``BLENDER`` names.

    Args:
        value: the variable's value.
        environment: environment variables of a worker.

    Raises:
        UserError: there is no such program, it is no Blender or of a version that is not supported, or its Python
            lacks packages; with what to do.
    """
    program = blender_program(value)
    version = _version(program, environment)
    if not _OLDEST <= version[:2] < _TOO_NEW:
        raise UserError(
            f"{VARIABLE}: {program} is Blender {'.'.join(map(str, version))}, but rendering needs 4.2 (the long-term "
            f"support release) to 4.5: name one of these{_WITHOUT}"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = blender_command(value, ["-c", _PROBE, *_PACKAGES], Path(folder))
        done = _run(command, program, environment)
        home = json.loads(command[-1])["home"]
    found = re.search(r'^\{"python".*\}$', done.stdout, re.MULTILINE)
    if found is None:
        raise UserError(f"{VARIABLE}: {program} does not run Python code: {_said(done)}{_WITHOUT}")
    about: dict[str, Any] = json.loads(found[0])
    if about["lacking"]:
        python = ".".join(map(str, about["python"]))
        series = ".".join(map(str, version[:2]))
        packages = shlex.join(_PACKAGES[name] for name in about["lacking"])
        raise UserError(
            f"{VARIABLE}: the Python {python} of {program} lacks {', '.join(about['lacking'])}: "
            f"{_how_to_install(Path(home), series, python, packages)}{_WITHOUT}"
        )


def _version(program: Path, environment: Mapping[str, str]) -> tuple[int, ...]:
    done = _run([str(program), "--version"], program, environment)
    found = re.search(r"^Blender (\d+)\.(\d+)(?:\.(\d+))?", done.stdout, re.MULTILINE)
    if found is None:
        raise UserError(f"{VARIABLE}: {program} is no Blender that works here: {_said(done)}{_WITHOUT}")
    return tuple(int(part) for part in found.groups() if part)


def _run(command: list[str], program: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        nothing = subprocess.DEVNULL
        return subprocess.run(
            command, env=environment, stdin=nothing, capture_output=True, text=True, errors="replace", timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{VARIABLE}: {program} cannot be run: {shortened(error, 200)}{_WITHOUT}") from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    text = (done.stderr or done.stdout).strip()
    return shortened(text.splitlines()[-1] if text else f"it ended with code {done.returncode}", 200)


def _how_to_install(home: Path, series: str, python: str, packages: str) -> str:
    """Return the command that gives Blender's Python packages: BlenderProc's, or pip's where that finds no Python."""
    if (home / series / "python" / "bin" / "python3.11").exists():
        # BlenderProc's list also has packages whose installation failed, and it would not try these again
        listed = home / "custom-python-packages" / "installed_packages_cache_v2.json"
        clear = f"rm {shlex.quote(str(listed))} && " if listed.exists() else ""
        return f"{clear}blenderproc pip install {packages} --custom-blender-path {shlex.quote(str(home))}"
    return f"python{python} -m pip install --target ~/.config/blender/{series}/scripts/modules {packages}"
