"""Intrinsics from BOP's camera.json, scaled to the images, and from ranges."""

import mesh_files
import numpy as np
import pytest

from data_gen.render_config import ImageConfig
from data_gen.scene_sampler import config_from_dict, sample_scene
from data_gen.sources.lens import read_lens
from lightning_tl.errors import UserError


@pytest.mark.parametrize("factor", [1, 0.5, 0.1])
def test_the_files_camera_scaled(tmp_path, factor):
    path = mesh_files.camera(tmp_path / "camera.json")
    width, height = int(640 * factor), int(480 * factor)
    config = config_from_dict(
        {"camera": {"intrinsics": str(path), "views": 1}, "image": {"size": width, "height": height}}
    )
    K = sample_scene(config, 0, "train", 0).intrinsics(width, height)
    assert K[0, 0] == pytest.approx(1066.778 * factor)
    assert K[1, 1] == pytest.approx(1067.487 * factor)
    # a pixel's centre is at a whole number: the image's left edge is at -0.5, whatever the scale
    assert K[0, 2] + 0.5 == pytest.approx((312.9869 + 0.5) * factor)
    assert K[1, 2] + 0.5 == pytest.approx((241.3109 + 0.5) * factor)


def test_a_shifted_principal_point():
    config = config_from_dict({"camera": {"shift": 0.1, "views": 1, "fov": [60, 60]}})
    Ks = np.array([sample_scene(config, 0, "train", i).intrinsics(100) for i in range(40)])
    assert np.abs(Ks[:, :2, 2] - 49.5).max() <= 10
    assert (np.ptp(Ks[:, :2, 2], axis=0) > 10).all()
    assert Ks[:, 0, 0] == pytest.approx(50 / np.tan(np.radians(30)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fx": None}, "'fx' is missing; a number is needed"),
        ({"fy": "1067"}, "'fy' is '1067'; a number is needed"),
        ({"fx": 0}, "'fx' is 0, but must be above 0"),
        ({"width": -640}, "'width' is -640, but must be above 0"),
        ({"cx": float("nan")}, "'cx' is nan; a number is needed"),
        ({"fx": 20000}, "a field of view of 1.8°"),
        ({"height": 640}, "is for images of 640 × 640, the render is 640 × 480: set 'image.height' to 640"),
    ],
)
def test_broken_cameras(tmp_path, changes, message):
    path = mesh_files.camera(tmp_path / "camera.json", **changes)
    with pytest.raises(UserError) as caught:
        read_lens(path, ImageConfig(size=640, height=480))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not valid JSON"), ("[]", "should hold keys and values: fx")]
)
def test_files_that_are_no_camera(tmp_path, content, message):
    (tmp_path / "camera.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_lens(tmp_path / "camera.json", ImageConfig())
    with pytest.raises(UserError, match=r"'camera\.intrinsics': cannot read .*none\.json: No such file"):
        read_lens(tmp_path / "none.json", ImageConfig())
