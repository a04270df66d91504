"""The built-in library: procedural objects and materials in plain numpy, with fixed category ids."""

from data_gen.library.materials import MaterialSpec
from data_gen.library.mesh import Mesh
from data_gen.library.registry import CATEGORIES, GROUPS, Category, build, resolve

__all__ = ["CATEGORIES", "GROUPS", "Category", "MaterialSpec", "Mesh", "build", "resolve"]
