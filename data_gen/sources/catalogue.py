"""The catalogue of what scenes can contain: all categories with their ids, and the checked files behind them.

Built-in categories keep their ids. Categories of the user's sources are numbered from 1001, in the order of the
sources and by name within a source, before ``categories`` and ``texture`` select among them. A name that exists (built
in, or in an earlier source) keeps its id, so that several sources can fill one category.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_gen.config_check import check_config
from data_gen.library import CATEGORIES, Category, resolve
from data_gen.render_config import RenderConfig, SourceConfig
from data_gen.sources.find_models import bop_is_textureless, chosen, find_models
from data_gen.sources.lens import Lens, read_lens
from data_gen.sources.meshes import read_model
from data_gen.sources.surfaces import Panorama, PbrMaterial, find_hdris, find_materials, named_material
from lightning_tl._io.atomic import write_atomically
from lightning_tl.errors import UserError

FIRST_ID = 1001
_LARGEST, _SMALLEST = 20.0, 0.001  # metres, of objects that keep their own size


@dataclass(frozen=True)
class ModelFile:
    """A checked mesh file.

    Attributes:
        file: path relative to its source's folder.
        sha256: hash of the file and all files that it refers to.
        extent: the larger of height and diameter, metres.
        faces: number of triangles.
        textured: whether it has an image or colours.
        missing: files that it refers to and that could not be read.
        stats: name, size and time of each of its files, to see whether they have changed since.
    """

    file: str
    sha256: str
    extent: float
    faces: int
    textured: bool
    missing: tuple[str, ...]
    stats: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Source:
    """A source with its selected categories and models.

    Attributes:
        config: configuration of the source.
        number: its index in ``sources``.
        categories: in the order of their ids.
        models: the files of each category by its name; none for the built-in library.
    """

    config: SourceConfig
    number: int
    categories: tuple[Category, ...]
    models: dict[str, tuple[ModelFile, ...]]


@dataclass(frozen=True)
class Catalogue:
    """All contents that scenes are drawn from, in addition to the configuration.

    Attributes:
        objects: sources of labelled objects.
        distractors: sources of unlabelled ones.
        materials: PBR materials for floor and walls.
        hdris: panoramas.
        lens: intrinsics of the camera, if a file gives them.
        fingerprint: hash of all contents; empty without files of the user.
        notes: what the user should know: what is missing, skipped or made smaller.
    """

    objects: tuple[Source, ...]
    distractors: tuple[Source, ...]
    materials: tuple[PbrMaterial, ...] = ()
    hdris: tuple[Panorama, ...] = ()
    lens: Lens | None = None
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    @property
    def categories(self) -> dict[int, str]:
        """Names of the categories that can be labelled, by id, in the order of ids."""
        return {c.id: c.name for c in sorted({c for s in self.objects for c in s.categories}, key=lambda c: c.id)}


def open_catalogue(
    config: RenderConfig, record: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Catalogue:
    """Find, read and check all files that a configuration refers to.

    Args:
        config: the configuration.
        record: file that stores the results, so that unchanged meshes are not read again.
        progress: called with (meshes checked, meshes in all).

    Raises:
        UserError: the configuration is wrong, or one of its files or folders cannot be used.
    """
    check_config(config)
    textures = config.texture == "with"
    sources = config.sources or [SourceConfig(kind="builtin", categories=list(config.categories))]
    if config.objects.distractors[1] and not any(s.role == "distractor" for s in sources):
        sources = [*sources, SourceConfig(kind="builtin", role="distractor", categories=["shapes"])]
    notes: list[str] = []
    known = _read_record(record)
    by_source = [find_models(s, f"sources[{i}]") if s.kind != "builtin" else {} for i, s in enumerate(sources)]
    ids = _ids(by_source)
    picked = [
        {name: paths[: s.models or None] for name, paths in chosen(f, s.categories, f"sources[{i}]").items()}
        if f
        else {}
        for i, (s, f) in enumerate(zip(sources, by_source, strict=True))
    ]
    total, done = sum(len(files) for p in picked for files in p.values()), 0
    opened: list[Source] = []
    for i, (source, files) in enumerate(zip(sources, picked, strict=True)):
        if source.kind == "builtin":
            named = resolve(source.categories or ["all"], key=f"sources[{i}].categories")
            kept = tuple(c for c in named if textures or not c.textured)
            opened.append(Source(source, i, kept, {}))
            continue

        def tick() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        units = source.units or ("mm" if source.kind == "bop" else "m")
        models = _check_models(config, source, i, files, units, known, notes, tick)
        textureless = source.kind == "bop" and bop_is_textureless(Path(source.path))
        categories = []
        for name in sorted(models, key=lambda n: ids[n]):
            textured = any(m.textured for m in models[name])
            if source.textured != "auto":
                textured = source.textured == "yes"
            elif source.kind == "bop":
                textured = not textureless
            if textures or not textured:
                categories.append(Category(name, ids[name], textured))
        opened.append(Source(source, i, tuple(categories), {c.name: models[c.name] for c in categories}))
    materials = find_materials(Path(config.room.materials), notes) if config.room.materials else ()
    if materials and config.background == "fix":
        materials = (named_material(materials, config.room.fixed_material),)
    hdris = find_hdris(Path(config.lights.hdris), notes) if config.lights.hdris else ()
    lens = read_lens(Path(config.camera.intrinsics), config.image) if config.camera.intrinsics else None
    if record is not None and total:
        _write_record(record, known)
    objects = tuple(s for s in opened if s.config.role == "object" and s.categories)
    distractors = tuple(s for s in opened if s.config.role == "distractor" and s.categories)
    if not objects:
        raise UserError(
            "no category to render: 'texture: without' leaves none of the sources' objects; choose texture: with"
        )
    contents = [[s.number, {n: [m.sha256 for m in ms] for n, ms in s.models.items()}] for s in opened if s.models]
    digests = [
        contents,
        [m.sha256 for m in materials],
        [h.sha256 for h in hdris],
        lens and dataclasses.astuple(lens),
    ]
    mark = hashlib.sha256(json.dumps(digests).encode()).hexdigest() if any(digests) else ""
    return Catalogue(objects, distractors, materials, hdris, lens, mark, tuple(notes))


def _ids(models: Sequence[dict[str, Any]]) -> dict[str, int]:
    ids = {c.name: c.id for c in CATEGORIES.values()}
    count = 0
    for categories in models:
        for name in sorted(categories):
            if name not in ids:
                ids[name] = FIRST_ID + count
                count += 1
    return ids


def _check_models(
    config: RenderConfig,
    source: SourceConfig,
    number: int,
    files: dict[str, list[Path]],
    units: str,
    known: dict[str, ModelFile],
    notes: list[str],
    tick: Callable[[], None],
) -> dict[str, tuple[ModelFile, ...]]:
    """Read a source's files; a broken file is an error, or is left out and counted, as configured."""
    where = f"sources[{number}]"
    faults: list[str] = []
    models: dict[str, list[ModelFile]] = {}
    reduced: list[str] = []
    for category, paths in files.items():
        for path in paths:
            try:
                model = _facts(path, source, units, known)
                if source.scale == "metric":
                    _check_size(path, model.extent, units, where)
                    reach = model.extent / 2 + (config.objects.area if config.appearance == "multiple" else 0)
                    if config.room.walls and reach > config.room.size / 2 - 0.1:
                        raise UserError(
                            f"{path}: is {model.extent:.4g} m large, too much for a room of "
                            f"{config.room.size:g} m: widen 'room.size', set 'room.walls: 0', or '{where}.scale: fit'"
                        )
                if model.faces > source.max_faces and source.oversized != "decimate":
                    raise UserError(
                        f"{path}: has {model.faces} triangles, '{where}.max_faces' is {source.max_faces}: raise it, or "
                        f"set '{where}.oversized: decimate'"
                    )
                if model.faces > source.max_faces:
                    reduced.append(f"{model.file} ({model.faces})")
                models.setdefault(category, []).append(model)
            except UserError as error:
                if source.oversized == "skip" and "triangles, '" in str(error):
                    notes.append(f"left out: {error}")
                else:
                    faults.append(str(error))
            tick()
    if faults and source.broken == "error":
        listing = "\n  ".join(faults[:10]) + (f"\n  … and {len(faults) - 10} more" if len(faults) > 10 else "")
        mend = f"fix or remove them, or set '{where}.broken: skip' to render without"
        raise UserError(faults[0] if len(faults) == 1 else f"{len(faults)} meshes cannot be used:\n  {listing}\n{mend}")
    total = sum(len(paths) for paths in files.values())
    if faults:
        notes.append(f"{where}: {len(faults)} of {total} meshes cannot be used and are left out: " + _some(faults))
    if not models:
        raise UserError(f"'{where}': none of its {total} meshes can be used; the first: {(faults or notes)[0]}")
    if reduced:
        notes.append(f"{where}: {len(reduced)} meshes are reduced to {source.max_faces} triangles: " + _some(reduced))
    lacking = [f"{m.file}: {', '.join(m.missing)}" for ms in models.values() for m in ms if m.missing]
    if lacking:
        notes.append(
            f"{where}: {len(lacking)} of {total} meshes lack files and are rendered plain there: " + _some(lacking)
        )
    return {name: tuple(ms) for name, ms in models.items()}


def _some(items: list[str]) -> str:
    return "; ".join(items[:5]) + (f"; … ({len(items) - 5} more)" if len(items) > 5 else "")


def _check_size(path: Path, extent: float, units: str, where: str) -> None:
    if not _SMALLEST <= extent <= _LARGEST:
        raise UserError(
            f"{path}: is {extent:.4g} m large when read in '{units}': set '{where}.units' to what the file is in "
            f"(m, cm, mm, inch), or '{where}.scale: fit'"
        )


def up_axis(source: SourceConfig, file: str) -> str:
    """Return the axis that points up in a source's file."""
    along_y = source.kind == "shapenet" or file.lower().endswith((".glb", ".gltf"))
    return source.up or ("y" if along_y else "z")


def _facts(path: Path, source: SourceConfig, units: str, known: dict[str, ModelFile]) -> ModelFile:
    root, up = Path(source.path), up_axis(source, path.name)
    key = f"{path.absolute()}|{up}|{units}"
    old = known.get(key)
    if old is not None and all(_stat(Path(name)) == (name, size, time) for name, size, time in old.stats):
        return dataclasses.replace(old, file=path.relative_to(root).as_posix())
    model = read_model(path, up, units)
    fact = ModelFile(
        file=path.relative_to(root).as_posix(),
        sha256=model.sha256,
        extent=round(model.extent, 9),
        faces=len(model.mesh.faces),
        textured=model.textured,
        missing=model.missing,
        stats=tuple(_stat(p.absolute()) for p in model.files),
    )
    known[key] = fact
    return fact


def _stat(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), status.st_size, status.st_mtime_ns


def _read_record(record: Path | None) -> dict[str, ModelFile]:
    if record is None or not record.is_file():
        return {}
    try:
        return {
            key: ModelFile(
                **{
                    **fact,
                    "missing": tuple(fact["missing"]),
                    "stats": tuple((str(n), int(s), int(t)) for n, s, t in fact["stats"]),
                }
            )
            for key, fact in json.loads(record.read_text()).items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # only a saving of time: the meshes are read again


def _write_record(record: Path, known: dict[str, ModelFile]) -> None:
    # several workers may write it at once
    write_atomically(record, json.dumps({key: dataclasses.asdict(fact) for key, fact in known.items()}))
