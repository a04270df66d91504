"""Renders as Parquet files that Hugging Face's ``datasets`` reads, with images decoded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import replacing
from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.errors import UserError
from lightning_tl.inspection.frames import Frame, Frames

_FILE_BYTES = 300 << 20  # of images in a file, about
_GROUP = 100  # images in a row group, which readers load at once
_PICTURES = ("image", "category_mask", "instance_mask", "normal", "depth")


def write_parquet(splits: list[RenderedImages], out: Path, frames: Frames) -> list[str]:
    """Write ``data/<split>-<number>.parquet``, one row an image, in the order of the renders.

    Columns: ``key``, ``scene``, ``view``; ``image``, ``category_mask``, ``instance_mask``, ``normal`` and, where it was
    rendered, ``depth``: the files as they were rendered; ``bbox`` (left, top, width, height in pixels), ``category``
    (its place among the categories, from 0), ``area``, ``instance`` and ``visible_fraction``: lists over the objects;
    ``camera``: JSON.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("--format parquet needs pyarrow: pip install 'lightning-tl[export]'") from error
    for images in splits:
        categories = images.manifest.categories
        places = {number: place for place, number in enumerate(sorted(categories))}
        rows = (_row(frame, places) for frame in frames(images))
        first = next(rows, None)
        if first is None:
            continue
        schema = _schema(pyarrow, "depth" in first, [categories[number] for number in places])
        number, waiting = 0, [first]
        while waiting:
            path = out / "data" / f"{images.manifest.split}-{number:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside, pyarrow.parquet.ParquetWriter(beside, schema) as writer:
                size = 0
                while waiting and size < _FILE_BYTES:
                    group = waiting + _taken(rows, _GROUP - len(waiting))
                    writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
                    size += sum(len(row[name]["bytes"]) for row in group for name in _PICTURES if name in row)
                    waiting = _taken(rows, 1)
            number += 1
    return []


def _taken(rows: Iterator[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    return [row for _, row in zip(range(most), rows, strict=False)]


def _row(frame: Frame, places: dict[int, int]) -> dict[str, Any]:
    suffix, content = frame.colours()
    labels, things = frame.labels, frame.labels["objects"]

    def picture(member: str) -> dict[str, Any]:
        return {"bytes": frame.images.member(frame.index, member)[1], "path": f"{frame.key}.{member}"}

    depth = frame.depth()
    return {
        "key": frame.key,
        "scene": labels.get("scene"),
        "view": labels.get("view"),
        "image": {"bytes": content, "path": f"{frame.key}.rgb{suffix}"},
        "category_mask": picture("category.png"),
        "instance_mask": picture("instance.png"),
        "normal": picture("normal.png"),
        **({} if depth is None else {"depth": {"bytes": depth[0], "path": f"{frame.key}.depth.png"}}),
        "bbox": [[float(value) for value in thing["bbox"]] for thing in things],
        "category": [places[thing["category"]] for thing in things],
        "area": [thing["area"] for thing in things],
        "instance": [thing["instance"] for thing in things],
        "visible_fraction": [float(thing["visible_fraction"]) for thing in things],
        "camera": json.dumps(labels.get("camera")),
    }


def _schema(pyarrow: Any, depth: bool, names: list[str]) -> Any:
    """Return the columns' types, with the description that ``datasets`` reads from a file's metadata."""
    whole, real = pyarrow.int64(), pyarrow.float64()
    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])

    def value(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "_type": "Value"}

    columns: dict[str, tuple[Any, Any]] = {
        "key": (pyarrow.string(), value("string")),
        "scene": (whole, value("int64")),
        "view": (whole, value("int64")),
        **{name: (picture, {"_type": "Image"}) for name in _PICTURES if name != "depth" or depth},
        "bbox": (pyarrow.list_(pyarrow.list_(real)), [[value("float64")]]),
        "category": (pyarrow.list_(whole), [{"names": names, "_type": "ClassLabel"}]),
        "area": (pyarrow.list_(whole), [value("int64")]),
        "instance": (pyarrow.list_(whole), [value("int64")]),
        "visible_fraction": (pyarrow.list_(real), [value("float64")]),
        "camera": (pyarrow.string(), value("string")),
    }
    features = {name: description for name, (_, description) in columns.items()}
    fields = [pyarrow.field(name, kind) for name, (kind, _) in columns.items()]
    return pyarrow.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
