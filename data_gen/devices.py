"""Choosing the device that Cycles renders on and the GPU of each worker. Does not import Blender."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from data_gen.render_config import Device
from lightning_tl.errors import UserError


def choose_device(wanted: str, available: Mapping[str, Sequence[str]]) -> str:
    """Choose Cycles' kind of device.

    Args:
        wanted: ``cpu``, ``cuda``, ``optix`` or ``auto`` (OptiX before CUDA before the CPU).
        available: names of the devices of each kind that Blender found, by ``"OPTIX"`` and ``"CUDA"``.

    Returns:
        ``"CPU"``, ``"CUDA"`` or ``"OPTIX"``.

    Raises:
        UserError: no device of this kind exists.
    """
    if wanted == "cpu":
        return "CPU"
    if wanted == "auto":
        return next((kind for kind in ("OPTIX", "CUDA") if available.get(kind)), "CPU")
    if not available.get(wanted.upper()):
        others = [kind.lower() for kind, names in available.items() if names]
        raise UserError(
            f"'image.device' is {wanted}, but Blender finds no such GPU here (it finds: "
            f"{', '.join(others) or 'none'}): "
            "see whether `nvidia-smi` lists it and the driver is recent, or set 'image.device' to auto or cpu"
        )
    return wanted.upper()


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is not None:
        return [name.strip() for name in setting.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, _ in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def default_workers(device: Device) -> int:
    """Return the default number of workers: one per GPU if they render on GPUs, otherwise one per core."""
    gpus = visible_gpus() if device != "cpu" else []
    return len(gpus) or os.cpu_count() or 1


def gpu_of(slot: int, device: Device, gpus: Sequence[str]) -> str | None:
    """Return the GPU of a worker, assigned in turn; ``None`` if it renders on the CPU.

    Args:
        slot: number of the worker, from 0.
        device: ``image.device`` of the configuration.
        gpus: GPUs of this machine, from :func:`visible_gpus`.
    """
    return gpus[slot % len(gpus)] if device != "cpu" and gpus else None
