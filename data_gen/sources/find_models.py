"""Listing a source's mesh files by category: folders, tables, BOP's and ShapeNet's layouts. Reads no mesh."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_gen.render_config import SourceConfig
from data_gen.sources.meshes import FORMATS
from lightning_tl.errors import UserError, nearest

Found = dict[str, list[Path]]

TEXTURELESS_BOP = ("tless", "itodd")
"""BOP's data sets of objects without texture."""
_BOP_MODELS = ("models", "models_cad", "models_reconst", "models_fine", "models_eval")
_SHAPENET_FILES = ("models/model_normalized.obj", "model.obj", "models/model.obj")


def find_models(source: SourceConfig, where: str) -> Found:
    """List a source's mesh files.

    Args:
        source: a source of another kind than ``builtin``.
        where: key of the source in the configuration, for messages.

    Returns:
        The files of each category, sorted.

    Raises:
        UserError: the folder does not exist or has no meshes, or its table is wrong.
    """
    root = Path(source.path)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"'{where}.path': {root} {what}; relative paths are from {Path.cwd()}")
    if source.kind == "bop":
        return _bop(root, where)
    if source.kind == "shapenet":
        return _shapenet(root, where)
    return _table(root, root / source.csv, where) if source.csv else _folder(root, where)


def _folder(root: Path, where: str) -> Found:
    """Return one category per sub-folder, and one per mesh beside them."""
    models: Found = {}
    for path in _files(root):
        if path.suffix.lower() in FORMATS:
            inside = path.relative_to(root)
            models.setdefault(inside.parts[0] if len(inside.parts) > 1 else path.stem, []).append(path)
    if not models:
        others = Counter(p.suffix.lower() for p in _files(root) if p.suffix)
        there = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(4)) or "nothing"
        raise UserError(
            f"'{where}.path': no mesh in {root} (read are {', '.join(FORMATS)}; there is {there}): "
            "put a folder of them there for each category"
        )
    return models


def _files(root: Path) -> Iterable[Path]:
    hidden = (p for p in sorted(root.rglob("*")) if p.is_file())
    return [p for p in hidden if not any(part.startswith((".", "__MACOSX")) for part in p.relative_to(root).parts)]


def _table(root: Path, path: Path, where: str) -> Found:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = [c.strip() for c in rows.fieldnames or []]
            for needed in ("file", "category"):
                if needed not in columns:
                    raise UserError(f"{path}: no column '{needed}'; the first line should be file,category")
            rows.fieldnames = columns
            entries = [(rows.line_num, (row["file"] or "").strip(), (row["category"] or "").strip()) for row in rows]
    except OSError as error:
        raise UserError(f"'{where}.csv': cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no table of comma-separated text in UTF-8 ({error})") from None
    if not entries:
        raise UserError(f"{path}: has no line below its header")
    models: Found = {}
    seen: dict[str, int] = {}
    for line, name, category in entries:
        if not name or not category:
            raise UserError(f"{path}, line {line}: '{'file' if not name else 'category'}' is empty")
        if name in seen:
            raise UserError(f"{path}, line {line}: {name} stands in line {seen[name]} too")
        seen[name] = line
        if not (root / name).is_file():
            raise UserError(f"{path}, line {line}: no such file: {root / name} (files are relative to {root})")
        models.setdefault(category, []).append(root / name)
    return models


def _bop(root: Path, where: str) -> Found:
    """Return one category per object: ``<data set>_<id>``."""
    folder = next((root / name for name in _BOP_MODELS if (root / name).is_dir()), root)
    name = folder.parent.name if folder.name.startswith("models") else folder.name
    meshes = {p.stem: p for p in sorted(folder.glob("obj_*.ply"))}
    if not meshes:
        raise UserError(
            f"'{where}.path': no obj_*.ply in {folder}: give a BOP data set's folder, with models/obj_000001.ply in it"
        )
    info = folder / "models_info.json"
    if info.is_file():
        try:
            listed = {f"obj_{int(key):06d}" for key in json.loads(info.read_text(encoding="utf-8"))}
        except (ValueError, TypeError):
            raise UserError(f"{info}: is no JSON object by object id: download the models again") from None
        lacking = sorted(listed - set(meshes))
        if lacking:
            raise UserError(
                f"{info}: lists {', '.join(lacking[:5])}, but {folder} has no such .ply file: download the models again"
            )
    return {f"{name}_{stem.removeprefix('obj_')}": [path] for stem, path in meshes.items()}


def bop_is_textureless(root: Path) -> bool:
    """Return whether the objects of a BOP data set have no texture, from the name of its folder."""
    return any(part in TEXTURELESS_BOP for part in (root.absolute().name.lower(), root.absolute().parent.name.lower()))


def _shapenet(root: Path, where: str) -> Found:
    """Return one category per synset, named by ``taxonomy.json`` if that exists."""
    categories: Found = {}
    names = _synsets(root)
    for synset in sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit()):
        models = sorted(p for p in synset.iterdir() if p.is_dir())
        files = [next((m / f for f in _SHAPENET_FILES if (m / f).is_file()), None) for m in models]
        meshes = [f for f in files if f is not None]
        if meshes:
            categories[names.get(synset.name, synset.name)] = meshes
    if not categories:
        raise UserError(
            f"'{where}.path': no synsetId/modelId/models/model_normalized.obj in {root}: give the folder that holds "
            "the synsets' folders, such as 02691156"
        )
    return categories


def _synsets(root: Path) -> dict[str, str]:
    path = root / "taxonomy.json"
    if not path.is_file():
        return {}
    try:
        listed = {str(e["synsetId"]): str(e["name"]).split(",")[0].strip() for e in json.loads(path.read_text())}
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{path}: is no list of synsets with 'synsetId' and 'name': download it again, or delete it"
        ) from None
    often = Counter(listed.values())
    return {synset: name if often[name] == 1 else f"{name}_{synset}" for synset, name in listed.items()}


def chosen(models: Found, names: list[str], where: str) -> Found:
    """Return the categories that the configuration names; all if it names none.

    Raises:
        UserError: the source does not have a named category.
    """
    for name in names:
        if name not in models:
            raise UserError(f"'{where}.categories': no category '{name}' in this source{nearest(name, models)}")
    return {name: files for name, files in models.items() if not names or name in names}
