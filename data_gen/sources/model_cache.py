"""Meshes of the user's sources, kept in memory by the process that renders them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from data_gen.render_config import SourceConfig
from data_gen.scene_spec import MeshSpec
from data_gen.sources.catalogue import up_axis
from data_gen.sources.meshes import Model, read_model
from lightning_tl.errors import UserError

_BYTES = 512 << 20


class Models:
    """A cache of meshes; drops the least recently used ones above half a gibibyte.

    Args:
        sources: sources of the configuration.
    """

    def __init__(self, sources: Sequence[SourceConfig]) -> None:
        self._sources = sources
        self._kept: OrderedDict[MeshSpec, Model] = OrderedDict()

    def get(self, spec: MeshSpec, reduce: Callable[[Model, int], Model]) -> Model:
        """Return a mesh.

        Args:
            spec: the mesh to return.
            reduce: function that reduces a mesh to a number of triangles.

        Raises:
            UserError: the file was changed since the catalogue was made.
        """
        if spec in self._kept:
            self._kept.move_to_end(spec)
            return self._kept[spec]
        source = self._sources[spec.source]
        path = Path(source.path) / spec.file
        model = read_model(path, up_axis(source, spec.file))
        if model.sha256 != spec.sha256:
            raise UserError(f"{path}: it, or a file that it refers to, was changed while rendering: run again")
        self._kept[spec] = reduce(model, source.max_faces)
        while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > _BYTES:
            self._kept.popitem(last=False)
        return self._kept[spec]


def _size(model: Model) -> int:
    arrays = [model.mesh.vertices, model.mesh.faces, model.uv, model.colours, *(s.image for s in model.surfaces)]
    return sum(a.nbytes for a in arrays if a is not None)
