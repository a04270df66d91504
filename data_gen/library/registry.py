"""The fixed table of categories: names, ids and whether they are textured. Ids are part of every data set's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_gen.library import figures, shapes
from data_gen.library.digit_strokes import stroke_digit, styled
from data_gen.library.mesh import Mesh, normalise
from lightning_tl.errors import UserError, nearest


@dataclass(frozen=True)
class Category:
    """One kind of object.

    Attributes:
        name: as written in configurations and labels.
        id: value in ``category.png``; 1 or more, never reused.
        textured: has surfaces with patterns (the paper's texture-less objects are those of T-LESS and ITODD).
    """

    name: str
    id: int
    textured: bool


# Append only: the position in this table is the id.
_SHAPES: list[tuple[str, bool, shapes.Builder]] = [
    ("cube", True, shapes.cube),
    ("sphere", True, shapes.sphere),
    ("cylinder", False, shapes.cylinder_),
    ("cone", False, shapes.cone),
    ("pyramid", True, shapes.pyramid),
    ("torus", False, shapes.torus),
    ("mug", True, shapes.mug),
    ("bottle", True, shapes.bottle),
    ("bowl", True, shapes.bowl),
    ("vase", True, shapes.vase),
    ("plate", True, shapes.plate),
    ("wine_glass", False, shapes.wine_glass),
    ("teapot", True, shapes.teapot),
    ("bucket", False, shapes.bucket),
    ("chair", True, shapes.chair),
    ("stool", True, shapes.stool),
    ("table", True, shapes.table),
    ("bench", True, shapes.bench),
    ("sofa", True, shapes.sofa),
    ("bookshelf", True, shapes.bookshelf),
    ("lamp", True, shapes.lamp),
    ("crate", True, shapes.crate),
    ("barrel", True, shapes.barrel),
    ("book", True, shapes.book),
    ("ladder", False, shapes.ladder),
    ("hammer", False, shapes.hammer),
    ("dumbbell", False, shapes.dumbbell),
    ("candle", False, shapes.candle),
    ("umbrella", True, shapes.umbrella),
    ("car", True, figures.car),
    ("house", True, figures.house),
    ("tree", True, figures.tree),
    ("mushroom", True, figures.mushroom),
    ("snowman", False, figures.snowman),
    ("rocket", True, figures.rocket),
    ("star", False, figures.star),
    ("heart", False, figures.heart),
    ("arrow", False, figures.arrow),
    ("chess_pawn", False, figures.chess_pawn),
    ("tower", True, figures.tower),
    ("hex_nut", False, figures.hex_nut),
    ("bolt", False, figures.bolt),
    ("gear", False, figures.gear),
    ("spring", False, figures.spring),
    ("pipe_elbow", False, figures.pipe_elbow),
    ("bracket", False, figures.bracket),
    ("pulley", False, figures.pulley),
]
_DIGITS = [f"digit_{d}" for d in range(10)]
_BUILDERS = {name: builder for name, _, builder in _SHAPES}

CATEGORIES: dict[str, Category] = {
    name: Category(name, i, textured)
    for i, (name, textured) in enumerate([(d, False) for d in _DIGITS] + [(n, t) for n, t, _ in _SHAPES], start=1)
}
"""All categories by name, in the order of their ids."""

GROUPS: dict[str, list[str]] = {
    "digits": list(_DIGITS),
    "shapes": [name for name, _, _ in _SHAPES],
    "all": list(CATEGORIES),
}
"""Names that stand for several categories."""


def resolve(names: Sequence[str], textures: bool = True, key: str = "categories") -> list[Category]:
    """Return the categories of the given names and groups, in the order of their ids, without duplicates.

    Args:
        names: such as ``["digits", "mug"]``.
        textures: ``False`` leaves the textured categories out.
        key: key of the names in the configuration, for messages.

    Raises:
        UserError: a name is unknown, or no category remains.
    """
    chosen: set[str] = set()
    for name in names:
        if name in GROUPS:
            chosen.update(GROUPS[name])
        elif name in CATEGORIES:
            chosen.add(name)
        else:
            raise UserError(f"unknown category '{name}' in '{key}'{nearest(name, [*GROUPS, *CATEGORIES])}")
    categories = [c for c in CATEGORIES.values() if c.name in chosen and (textures or not c.textured)]
    if not categories:
        why = "it is empty" if not names else f"texture: without leaves none of {', '.join(map(str, names))}"
        raise UserError(f"no category to render: '{key}': {why}; add some, or choose texture: with")
    return categories


def build(category: str, shape: dict[str, float | str], glyph: Mesh | None = None) -> Mesh:
    """Build an object's mesh, standing on z = 0, of height and diameter at most 1 (see :func:`.mesh.normalise`).

    Args:
        category: a name from :data:`CATEGORIES`.
        shape: ``{"seed": …}`` and, to lay it on its back, ``"lying": 1``; for digits also ``thickness``, ``depth``,
            ``wobble``, ``slant``, ``width``, ``turn`` (see :class:`data_gen.scene_sampler.DigitsConfig`).
        glyph: the digit's mesh from a font; ``None`` draws the digit with strokes.
    """
    rng = np.random.default_rng(int(shape["seed"]))
    if category in _BUILDERS:
        mesh = _BUILDERS[category](rng)
    else:
        if glyph is None:
            pen = [float(shape[key]) for key in ("thickness", "depth", "wobble")]
            glyph = stroke_digit(_DIGITS.index(category), rng, *pen)
        mesh = styled(glyph, float(shape["slant"]), float(shape["width"]), float(shape["turn"]))
    return normalise(mesh.rotated("x", -90) if shape.get("lying") else mesh)
