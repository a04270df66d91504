import numpy as np
import pytest
from scipy.ndimage import convolve

from data_gen.labels import (
    MOST_GAIN,
    camera_normals,
    depth_mm,
    exposed,
    film_filter,
    silhouette,
    tone_map,
    visible_fractions,
)
from data_gen.library.mesh import box, ellipsoid

K = np.array([[40.0, 0, 19.5], [0, 40.0, 19.5], [0, 0, 1]])


def _at(mesh, x, z):
    """Put a mesh before a camera that looks along +z (K's frame)."""
    moved = mesh.moved((x, 0, z))
    return moved.vertices, moved.faces


def _drawn(*meshes):
    """Render the instance mask of meshes by their silhouettes, the last in front."""
    mask = np.zeros((40, 40), np.uint16)
    for i, (vertices, faces) in enumerate(meshes, start=1):
        points = (vertices @ K.T)[:, :2] / vertices[:, 2:]
        mask[silhouette(points, faces, 40, 40)[40:80, 40:80]] = i
    return mask


def test_silhouette_of_a_known_square():
    points = np.array([[2.5, 3.5], [10.5, 3.5], [10.5, 7.5], [2.5, 7.5]])
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    mask = silhouette(points, faces, 20, 16)
    assert mask.shape == (60, 48)
    assert mask.sum() == 8 * 4
    assert mask[20 + 4 : 20 + 8, 16 + 3 : 16 + 11].all()
    assert silhouette(points - 5, faces, 20, 16).sum() == 32  # what lies outside the frame counts
    points[0] = np.nan
    assert silhouette(points, faces, 20, 16).sum() == 0


def test_silhouette_has_the_area_of_the_outline():
    ball = ellipsoid(1.0, 24, 48).vertices @ np.diag([50, 50, 1]) + [64, 64, 0]
    area = silhouette(ball[:, :2], ellipsoid(1.0, 24, 48).faces, 128, 128).sum()
    assert area == pytest.approx(np.pi * 50**2, rel=0.01)


def test_visible_fraction():
    far, near, aside = (
        _at(box((1, 1, 1)), 0, 4.0),
        _at(box((0.5, 1.2, 1)), 0.25, 2.5),
        _at(box((0.4, 0.4, 1)), -1.4, 4.0),
    )
    mask = _drawn(far, near, aside)
    fractions = visible_fractions(mask, [far, near, aside], np.eye(4), K)
    alone = _drawn(far)
    assert fractions[0] == pytest.approx((mask == 1).sum() / alone.sum(), abs=1e-3)
    assert 0.2 < fractions[0] < 0.7
    assert fractions[1] == 1.0
    assert fractions[2] == 1.0


def test_what_the_frame_cuts_off_is_not_visible():
    cut = _at(box((1, 1, 0.01)), 2.0, 4.0)  # the frame ends at x = 2
    full = _at(box((1, 1, 1)), 0.0, 4.0)
    mask = _drawn(cut)
    assert visible_fractions(mask, [cut], np.eye(4), K)[0] == pytest.approx(0.5, abs=0.1)
    assert visible_fractions(_drawn(full), [full], np.eye(4), K) == [1.0]
    hidden = _at(box((1, 1, 1)), 9.0, 4.0)
    assert visible_fractions(mask, [cut, hidden], np.eye(4), K)[1] == 0.0


def test_normals_are_turned_into_the_cameras_frame():
    world = np.zeros((2, 2, 3), np.float32)
    world[0, 0] = (0, 0, 1)
    world[0, 1] = (0.5, 0, 0.5)  # a mean of two: of unit length again
    turned = np.eye(4)
    turned[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # a camera that looks along +y, upright
    stored = camera_normals(world, turned)
    assert tuple(stored[0, 0]) == (128, 255, 128)  # world's up is the camera's up
    assert stored[0, 1] == pytest.approx((127.5 + 127.5 / np.sqrt(2), 127.5 + 127.5 / np.sqrt(2), 127.5), abs=1)
    assert (stored[1] == 128).all()


def test_depth_and_colours():
    assert depth_mm(np.array([[0.5, 65.5349, 65.6, 1e10]], np.float32)).tolist() == [[500, 65535, 0, 0]]
    ramp = tone_map(np.linspace(0, 20, 200, dtype=np.float32)[None, :, None].repeat(3, 2), 1.0)
    assert ramp[0, 0, 0] == 0
    assert ramp[0, -1, 0] == 255
    assert (np.diff(ramp[0, :, 0].astype(int)) >= 0).all()


def test_film_filter_has_the_width_that_it_says_and_loses_no_light():
    dot = np.zeros((9, 9, 3), np.float32)
    dot[4, 4] = 1
    spread = film_filter(dot)[..., 0]
    assert spread.sum() == pytest.approx(1)
    for axis in (0, 1):
        profile = spread.sum(axis)
        assert (profile * (np.arange(9) - 4) ** 2).sum() + 1 / 12 == pytest.approx(0.43**2, rel=0.02)
    rng = np.random.default_rng(0)
    picture = rng.random((5, 8, 3), np.float32)
    kernel = np.outer([0.05, 0.9, 0.05], [0.05, 0.9, 0.05])[..., None]
    np.testing.assert_allclose(film_filter(picture), convolve(picture, kernel, mode="nearest"), atol=1e-6)


@pytest.mark.parametrize("level,least", [(0.5, 0.2), (0.02, 0.2), (0.02, 0.0), (0.0001, 0.2)])
def test_dark_images_are_exposed_longer(level: float, least: float) -> None:
    """Up to the lowest brightness and no further; at most eight times; bright ones as they are."""
    light = np.random.default_rng(0).uniform(0, 2 * level, (32, 32, 3)).astype(np.float32)
    plain, found = tone_map(light, 1.0), exposed(light, 1.0, least)
    if plain.mean() >= 255 * least:
        np.testing.assert_array_equal(found, plain)
    elif tone_map(light, MOST_GAIN).mean() < 255 * least:
        np.testing.assert_array_equal(found, tone_map(light, MOST_GAIN))
    else:
        assert 255 * least <= found.mean() < 255 * least * 1.02
        order = np.argsort(light.ravel(), kind="stable")
        assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()  # more light is brighter, as before
