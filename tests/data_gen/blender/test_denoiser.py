import pytest

from data_gen.blender.denoiser import set_denoiser
from lightning_tl.errors import UserError


class WithoutDenoisers:
    """As Blender behaves where an enumeration has no such item."""

    @property
    def denoiser(self):
        return ""

    @denoiser.setter
    def denoiser(self, value):
        raise TypeError(f'bpy_struct: item.attr = val: enum "{value}" not found in ()')


def test_a_blender_without_open_image_denoise():
    with pytest.raises(UserError, match=r"'image\.denoise': .* without Open Image Denoise.*--image\.denoise false"):
        set_denoiser(WithoutDenoisers(), "fast")
