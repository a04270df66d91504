"""The settings of Cycles' denoiser. Works on Blender's objects without importing it."""

from __future__ import annotations

from typing import Any

from lightning_tl.errors import UserError


def set_denoiser(cycles: Any, quality: str) -> None:
    """Choose Open Image Denoise.

    Args:
        cycles: of type ``bpy.types.CyclesRenderSettings``.
        quality: as ``image.denoise_quality``.

    Raises:
        UserError: this Blender was built without it.
    """
    try:
        cycles.denoiser = "OPENIMAGEDENOISE"
    except TypeError:  # no such item
        raise UserError(
            "'image.denoise': this Blender was built without Open Image Denoise, as those of some Linux distributions: "
            "use one of blender.org, or --image.denoise false with more --image.samples"
        ) from None
    cycles.denoising_quality = quality.upper()
    # albedo and normals of few samples are noisy too: "NONE" would take them for the truth, "ACCURATE" costs as much
    # again as the image
    cycles.denoising_prefilter = "FAST"
    cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
