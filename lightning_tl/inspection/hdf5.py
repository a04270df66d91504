"""Renders as one HDF5 file per split."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_tl._io.atomic import replacing
from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.errors import UserError
from lightning_tl.inspection.frames import Frames


def write_hdf5(splits: list[RenderedImages], out: Path, frames: Frames) -> list[str]:
    """Write ``<split>.h5``: ``rgb``, ``category``, ``instance``, ``normal`` and, if rendered, ``depth``; labels.

    Arrays are as in the renders, ``[N, H, W]`` or ``[N, H, W, 3]``, one chunk per image, gzip. ``key`` and ``labels``
    (JSON) are strings ``[N]``; the attribute ``categories`` is the JSON of id → name.

    Raises:
        UserError: h5py is not installed; an image of another size.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError("--format hdf5 needs h5py: pip install 'lightning-tl[export]'") from error
    for images in splits:
        manifest, count = images.manifest, len(images)
        height, width = manifest.image_size
        with replacing(out / f"{manifest.split}.h5") as beside, h5py.File(beside, "w") as file:
            file.attrs["categories"] = json.dumps(manifest.categories)
            file.attrs["split"] = manifest.split
            keys, labels = [], []
            for frame in frames(images):
                arrays = {
                    "rgb": images.rgb(frame.index),
                    "category": images.category(frame.index),
                    "instance": images.instance(frame.index),
                    "normal": images.normal(frame.index),
                }
                depth = frame.depth()
                if depth is not None:
                    arrays["depth"] = depth[1]
                for name, pixels in arrays.items():
                    if pixels.shape != (height, width, 3)[: 3 if name in ("rgb", "normal") else 2]:
                        raise UserError(
                            f"{manifest.folder}: {frame.key}: {name} is of shape {list(pixels.shape)}, the manifest "
                            f"says {height} x {width}: see lightning-tl dataset validate"
                        )
                    if name not in file:
                        shape = (count, *pixels.shape)
                        file.create_dataset(
                            name, shape, pixels.dtype, chunks=(1, *pixels.shape), compression="gzip", compression_opts=1
                        )
                    file[name][frame.index] = pixels
                keys.append(frame.key)
                labels.append(json.dumps(frame.labels))
            for name, strings in (("key", keys), ("labels", labels)):
                file.create_dataset(name, data=strings, dtype=h5py.string_dtype())
    return []
