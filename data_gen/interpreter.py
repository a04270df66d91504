"""Which Python the render workers run in: this one, another that has Blender as a package, or that of a Blender.

Blender's package has wheels for one version of Python only. With another Python, ``LIGHTNING_TL_RENDER_PYTHON`` names
the interpreter of an environment that can render; its workers talk to this process by lines of JSON. Where it is not
set, ``BLENDER`` may name a Blender program (:mod:`data_gen.blender_program`). Without either, it is this Python.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import lightning_tl
from data_gen import blender_program
from lightning_tl.errors import UserError, shortened

VARIABLE = "LIGHTNING_TL_RENDER_PYTHON"
_ROOT = Path(__file__).resolve().parent.parent
_PROBE = """
import importlib.util, json, sys
try:
    import lightning_tl, data_gen
    version = lightning_tl.__version__
except ImportError:
    version = ""
lacking = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps({"python": sys.version_info[:2], "version": version, "lacking": lacking}))
"""


def render_python() -> str:
    """Return the path of the Python that workers run in, or that runs Blender for them."""
    return os.environ.get(VARIABLE) or sys.executable


def named_blender() -> str:
    """Return the value of ``BLENDER`` if workers run in the Blender that it names, else the empty string."""
    return "" if os.environ.get(VARIABLE) else os.environ.get(blender_program.VARIABLE, "")


def worker_command(arguments: Sequence[str], folder: Path) -> list[str]:
    """Return the command that runs Python code where workers run.

    Args:
        arguments: as Python's: ``-m MODULE …``, ``-c CODE …`` or ``FILE …``.
        folder: for temporary files.

    Raises:
        UserError: ``BLENDER`` names no program.
    """
    if blender := named_blender():
        return blender_program.blender_command(blender, arguments, folder)
    return [render_python(), *arguments]


def reproduce_command() -> str:
    """Return the beginning of the shell command that renders one scene where workers run."""
    blender = named_blender()
    setting = f"{blender_program.VARIABLE}={shlex.quote(blender)} " if blender else ""
    return f"{setting}{render_python()} -m data_gen.reproduce"


def worker_environment() -> dict[str, str]:
    """Return the environment variables of a worker.

    The package is imported from where this process has it. Another Python gets it so from a checkout only: installed
    packages, which stand beside this one, are made for this Python.
    """
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    if not os.environ.get(VARIABLE) or str(_ROOT) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH")]))
    return environment


def check_other_python(packages: tuple[str, ...]) -> None:
    """Check the interpreter that ``LIGHTNING_TL_RENDER_PYTHON`` names.

    Args:
        packages: What it must be able to import.

    Raises:
        UserError: There is no such program, it is no Python, or it lacks something; with what to do.
    """
    path = os.environ[VARIABLE]
    if shutil.which(path) is None:
        raise UserError(f"{VARIABLE}: {path} is no program; give the path of a Python, as in /path/to/venv/bin/python")
    try:
        done = subprocess.run(
            [path, "-c", _PROBE, *packages], env=worker_environment(), capture_output=True, text=True, timeout=120
        )
        about = json.loads(done.stdout)
        python, version, lacking = (about[key] for key in ("python", "version", "lacking"))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{VARIABLE}: {path} cannot be run: {shortened(error, 200)}") from error
    except (ValueError, KeyError, TypeError):
        said = shortened((done.stderr or done.stdout).strip() or f"it ended with code {done.returncode}", 200)
        raise UserError(f"{VARIABLE}: {path} is no Python that works here: {said}") from None
    if "bpy" in lacking and python != [3, 11]:
        raise UserError(
            f"{VARIABLE}: {path} is Python {python[0]}.{python[1]}, for which Blender (bpy) has no wheel; "
            f"name one of Python 3.11{how_to_make_one()}"
        )
    if lacking:
        raise UserError(f"{VARIABLE}: {path} lacks {', '.join(lacking)}: {path} -m pip install 'lightning-tl[render]'")
    if version != lightning_tl.__version__:
        has = f"lightning-tl {version}" if version else "no lightning-tl"
        raise UserError(
            f"{VARIABLE}: {path} has {has}, this is {lightning_tl.__version__}: install the same version there"
        )


def how_to_make_one() -> str:
    """Return the commands that make an environment for rendering, with uv where it is installed."""
    if shutil.which("uv"):
        made = "uv venv --python 3.11 render-env && uv pip install --python render-env 'lightning-tl[render]'"
    else:
        made = "python3.11 -m venv render-env && render-env/bin/pip install 'lightning-tl[render]'"
    return f": {made} && export {VARIABLE}=$PWD/render-env/bin/python"
