"""The reader of OpenEXR files against OpenCV's writer."""

import os

os.environ["OPENCV_IO_ENABLE_OPENEXR"] = "1"  # OpenCV reads it on import

import cv2
import numpy as np
import pytest

from data_gen.blender.exr import read_exr

PIXELS = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)


def _written(path, pixels=PIXELS, kind=cv2.IMWRITE_EXR_TYPE_FLOAT, compression=cv2.IMWRITE_EXR_COMPRESSION_NO):
    options = [cv2.IMWRITE_EXR_TYPE, kind, cv2.IMWRITE_EXR_COMPRESSION, compression]
    assert cv2.imwrite(str(path), pixels, options)
    return path.read_bytes()


def test_channels_of_opencvs_file(tmp_path):
    channels = read_exr(_written(tmp_path / "colours.exr"))
    assert sorted(channels) == ["B", "G", "R"]
    for i, name in enumerate("BGR"):
        np.testing.assert_array_equal(channels[name], PIXELS[:, :, i])
    (grey,) = read_exr(_written(tmp_path / "grey.exr", PIXELS[:, :, 0])).values()
    np.testing.assert_array_equal(grey, PIXELS[:, :, 0])


def test_other_files_are_refused(tmp_path):
    whole = _written(tmp_path / "a.exr")
    tiled = whole[:5] + b"\x02" + whole[6:]  # the second byte of the version holds the flags
    for data in (
        _written(tmp_path / "zip.exr", compression=cv2.IMWRITE_EXR_COMPRESSION_ZIP),
        _written(tmp_path / "half.exr", kind=cv2.IMWRITE_EXR_TYPE_HALF),
        tiled,
        b"\x89PNG12345",
    ):
        with pytest.raises(ValueError, match="OpenEXR"):
            read_exr(data)
