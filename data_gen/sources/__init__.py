"""Finding, reading and checking the user's files: meshes, PBR materials, panoramas, camera intrinsics."""

from data_gen.sources.catalogue import Catalogue, ModelFile, Source, open_catalogue, up_axis
from data_gen.sources.lens import Lens
from data_gen.sources.meshes import Model, Surface, read_model
from data_gen.sources.surfaces import Panorama, PbrMaterial

__all__ = [
    "Catalogue",
    "Lens",
    "Model",
    "ModelFile",
    "Panorama",
    "PbrMaterial",
    "Source",
    "Surface",
    "open_catalogue",
    "read_model",
    "up_axis",
]
