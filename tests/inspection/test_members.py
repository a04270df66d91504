"""The quick readers beside tarfile and Pillow: the same, or left to them."""

from __future__ import annotations

import io
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image
from rendered_set import png

from data_gen.shard_writer import encode_png
from lightning_tl.inspection.members import colours, pixels, png_pixels, tar_members

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (7, 9, 3)).astype(np.uint8)
IDS = RNG.integers(0, 65536, (7, 9)).astype(np.uint16)


@pytest.mark.parametrize("array", [COLOURS, IDS, IDS[:1, :1]])
def test_pngs_of_the_renderer(array):
    decoded = png_pixels(encode_png(array))
    assert decoded.dtype == array.dtype
    assert (decoded == array).all()
    assert (np.asarray(Image.open(io.BytesIO(encode_png(array)))) == array).all()


@pytest.mark.parametrize("array", [COLOURS, IDS, COLOURS[..., 0]])
def test_other_pngs(array):
    assert (pixels(png(array)) == array).all()
    size, decoded = colours(png(array), 4)
    assert size == array.shape[:2]
    assert (decoded == np.asarray(Image.open(io.BytesIO(png(array))).convert("RGB"))).all()


def test_transparent_colours_and_lines_of_other_filters_are_left_to_pillow():
    file = io.BytesIO()
    Image.fromarray(COLOURS).save(file, "PNG", transparency=(1, 2, 3))
    assert png_pixels(file.getvalue()) is None
    lines = np.zeros((7, 28), np.uint8)
    data = zlib.compress(lines.tobytes())
    chunk = len(data).to_bytes(4, "big") + b"IDAT" + data + zlib.crc32(b"IDAT" + data).to_bytes(4, "big")
    good = encode_png(COLOURS)
    plain = good[:33] + chunk + good[-12:]
    assert png_pixels(plain) is None
    assert not pixels(plain).any()


def test_every_damaged_byte_is_noticed():
    good = encode_png(COLOURS)
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 0x55
        assert png_pixels(bytes(bad)) is None, place
        assert png_pixels(good[:place]) is None, place


def packed(names, form=tarfile.USTAR_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 511 * number
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
    return file.getvalue()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("names", [["a.json"], ["0000001-00.rgb.png", "b", "é.png"], ["x" * 150, "c"]])
def test_tar_files(form, names):
    content = packed(names, form)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        wanted = [(m.name, archive.extractfile(m).read()) for m in archive]
    assert tar_members(content) == wanted


@pytest.mark.parametrize("change", [lambda c: b"x" * 2048, lambda c: b"", lambda c: c[:600], lambda c: b"y" + c[1:]])
def test_no_tar_file(change):
    """A cut file gives what tarfile gives of it, or its error."""
    content = change(packed(["a", "b"]))
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            wanted = [(m.name, m.size) for m in archive]
    except tarfile.TarError:
        with pytest.raises(tarfile.TarError):
            tar_members(content)
    else:
        assert [name for name, _ in tar_members(content)] == [name for name, _ in wanted]
