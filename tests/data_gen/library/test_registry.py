import numpy as np
import pytest

from data_gen.library import CATEGORIES, GROUPS, build, resolve
from data_gen.library.materials import luminance, sample_colour, sample_colour_against
from data_gen.library.mesh import box, ellipsoid, prism, spline, sweep

# part of every data set's format: never changed, only appended to
FROZEN = [
    "digit_0",
    "digit_1",
    "digit_2",
    "digit_3",
    "digit_4",
    "digit_5",
    "digit_6",
    "digit_7",
    "digit_8",
    "digit_9",
    "cube",
    "sphere",
    "cylinder",
    "cone",
    "pyramid",
    "torus",
    "mug",
    "bottle",
    "bowl",
    "vase",
    "plate",
    "wine_glass",
    "teapot",
    "bucket",
    "chair",
    "stool",
    "table",
    "bench",
    "sofa",
    "bookshelf",
    "lamp",
    "crate",
    "barrel",
    "book",
    "ladder",
    "hammer",
    "dumbbell",
    "candle",
    "umbrella",
    "car",
    "house",
    "tree",
    "mushroom",
    "snowman",
    "rocket",
    "star",
    "heart",
    "arrow",
    "chess_pawn",
    "tower",
    "hex_nut",
    "bolt",
    "gear",
    "spring",
    "pipe_elbow",
    "bracket",
    "pulley",
]
DIGIT = {"thickness": 0.15, "depth": 0.2, "wobble": 0.03, "slant": 0.1, "width": 1.0, "turn": 5.0}


def _shape(name, seed, **more):
    return {"seed": seed, **(DIGIT if name.startswith("digit") else {}), **more}


def _volume(mesh):
    corners = mesh.vertices[mesh.faces]
    return np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6


def test_ids_are_frozen():
    assert [(c.name, c.id) for c in CATEGORIES.values()][: len(FROZEN)] == [(n, i + 1) for i, n in enumerate(FROZEN)]


def test_the_library_is_large_and_has_both_kinds():
    shapes = resolve(["shapes"])
    assert len(shapes) >= 25
    assert len(GROUPS["digits"]) == 10
    without = resolve(["shapes"], textures=False)
    assert 0 < len(without) < len(shapes)
    assert not any(c.textured for c in without)


@pytest.mark.parametrize("name", FROZEN)
def test_objects_fit_their_cylinder_stand_and_face_outwards(name):
    for seed in range(3):
        mesh = build(name, _shape(name, seed))
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        assert low[2] == pytest.approx(0, abs=1e-9)
        assert high[2] <= 1 + 1e-9
        assert np.hypot(mesh.vertices[:, 0], mesh.vertices[:, 1]).max() <= 0.5 + 1e-9
        assert _volume(mesh) > 0.004  # inside-out faces would count against it
        assert mesh.faces.max() < len(mesh.vertices)
        assert len(mesh.faces) < 5000
        assert set(np.unique(mesh.slots)) <= {0, 1}


def test_building_is_pure_and_varied():
    first, again, other = (build("vase", {"seed": s}).vertices for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    strokes = [build("digit_3", _shape("digit_3", s)).vertices for s in range(8)]
    assert len({v.tobytes() for v in strokes}) == 8


def test_a_digit_is_read_from_the_front_and_upright():
    # the centre of mass of a 6 lies low, that of a 9 high; the bar of a 7 is on top, and its foot left of its right end
    height = {d: build(f"digit_{d}", _shape(f"digit_{d}", 0, wobble=0.0, slant=0.0)).vertices for d in (6, 7, 9)}
    assert np.median(height[6][:, 2]) < 0.5 < np.median(height[9][:, 2])
    seven = height[7]
    top, foot = seven[seven[:, 2] > 0.85], seven[seven[:, 2] < 0.1]
    assert np.ptp(top[:, 0]) > 2 * np.ptp(foot[:, 0])
    assert foot[:, 0].mean() < top[:, 0].max() - 0.2


def test_a_lying_digit_is_flat():
    mesh = build("digit_8", _shape("digit_8", 0, lying=1))
    assert np.ptp(mesh.vertices[:, 2]) < 0.4 * np.ptp(mesh.vertices[:, 1])


def test_volumes_of_known_bodies():
    assert _volume(box((1, 2, 3))) == pytest.approx(6)
    assert _volume(prism([(-1, -1), (1, -1), (1, 1), (-1, 1)], 3, taper=0.0)) == pytest.approx(4)
    assert _volume(ellipsoid((1, 2, 3), 60, 80)) == pytest.approx(4 / 3 * np.pi * 6, rel=0.01)
    rod = sweep([(0, 0, 0), (0, 0, 5), (0, 0, 10)], 0.5, up=(1, 0, 0), sides=64)
    assert _volume(rod) == pytest.approx(np.pi / 4 * 10, rel=0.08)  # and its rounded ends


def test_a_spline_passes_through_its_points():
    points = np.array([[0, 0], [1, 2], [3, 1], [4, 4.0]])
    assert spline(points, 5)[::5] == pytest.approx(points)
    assert len(spline(points, 5, closed=True)) == 20


def test_contrast_is_kept():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ground = sample_colour(rng)
        assert abs(luminance(sample_colour_against(rng, ground, 0.3)) - luminance(ground)) >= 0.3
