"""One split of a data set: which shards are finished, which are missing, and the manifest that lists them.

``DIR/<split>/manifest.json`` lists the finished shards from the first one without a gap: the order in which images
count towards n. The hash of a finished shard is kept in a file beside it until all shards before it are finished; then
it goes into the manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_gen.scene_sampler import RenderConfig, config_from_dict, config_to_dict
from data_gen.shard_writer import SHARDS, ShardRecord, parse_record, shard_name
from data_gen.sources import Catalogue, open_catalogue
from lightning_tl._io.checksums import file_sha256
from lightning_tl._io.folders import open_folder
from lightning_tl.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SKIPPED = "skipped.json"
_SHARD = re.compile(r"\d{6}\.tar")
_RECORD = re.compile(r"\d{6}\.tar\.sha256")

_FIRST = {"renderer": "1", "device": "CPU"}  # keys that the first manifests lacked


class Split:
    """One split of a data set that is being rendered.

    Args:
        place: ``DIR/train`` or ``DIR/val``, a folder or a URL; a missing folder is made.
        config: configuration of the data set.
        images: number of images requested; whole shards are rendered, so there may be more.
        catalogue: contents of the configuration's sources; ``None`` opens them.

    Raises:
        UserError: the folder holds a data set of another configuration or a changed shard, or the store cannot be
            used.
    """

    def __init__(
        self, place: Path | str, config: RenderConfig, images: int, catalogue: Catalogue | None = None
    ) -> None:
        self.folder, self.config = open_folder(place), config
        self.root, _, self.name = self.folder.at().rpartition("/")
        self.catalogue = catalogue or open_catalogue(config)
        self.per_shard = config.scenes_per_shard * config.camera.views
        self.wanted = -(-images // self.per_shard)
        self.folder.make(SHARDS)
        old = self._read_manifest()
        self.requested = max(images, old.get("requested", 0))
        self.software: dict[str, str] = old.get("software", {})
        self._done: dict[int, ShardRecord] = {}
        self.skipped = self._read_skipped()
        self.clear()
        self._find(old.get("shards", []))

    def _read_manifest(self) -> dict[str, Any]:
        content, path = self.folder.read(MANIFEST), self.folder.at(MANIFEST)
        if content is None:
            return {}
        try:
            old = json.loads(content)
            version, config = old["format_version"], old["config"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is damaged: delete it and run again; finished shards are kept") from None
        if version != FORMAT_VERSION:
            raise UserError(f"{path} is of format version {version}, not {FORMAT_VERSION}: choose another folder")
        difference = _first_difference(_comparable(config), _comparable(config_to_dict(self.config)), "")
        if not difference and old.get("contents", "") != self.catalogue.fingerprint:
            difference = "the files of its sources have changed since"
        if difference:
            raise UserError(
                f"{self.root} holds a data set of another configuration: {difference}; "
                "choose another folder, or the same configuration"
            )
        return dict(old)

    def _find(self, listed: list[dict[str, Any]]) -> None:
        """Compare the existing shards with their records."""
        known = {shard["name"]: ShardRecord(shard["sha256"], shard.get("bytes", -1)) for shard in listed}
        files = self.folder.files(SHARDS)
        self._recorded = {int(name[:6]) for name in files if _RECORD.fullmatch(name)}
        for name, size in sorted(files.items()):
            if not _SHARD.fullmatch(name):
                continue
            expected = known.get(name) or parse_record(self.folder.read(f"{SHARDS}/{name}.sha256"))
            if expected is not None and self._is_intact(name, size, expected):
                self._done[int(name.removesuffix(".tar"))] = ShardRecord(expected.sha256, size)
            elif expected is None or name in known or not self.folder.remote:
                path = self.folder.at(f"{SHARDS}/{name}")
                mend = "delete it" if self.folder.remote else f"delete it with 'rm {path}'"
                measure = "size" if self.folder.remote and expected is not None else "SHA-256"
                raise UserError(
                    f"{path} is corrupted (its {measure} is not the recorded one): "
                    f"{mend} and run the same command again, it will be rendered anew"
                )
            # else a put was interrupted on a store that shows parts of files: it is rendered and put again

    def _is_intact(self, name: str, size: int, expected: ShardRecord) -> bool:
        """Compare a shard's hash with its record; on a store its size, as fetching all shards would take hours."""
        if self.folder.remote:
            return expected.size in (size, -1)
        return file_sha256(Path(self.folder.at(f"{SHARDS}/{name}"))) == expected.sha256

    def clear(self) -> None:
        """Delete partial files of dead processes; call only while no other process writes here."""
        self.folder.clear()

    @property
    def missing(self) -> list[int]:
        """Indices of the shards still to be rendered, in order."""
        return [i for i in range(self.wanted) if i not in self._done]

    @property
    def images_done(self) -> int:
        """Number of images in the finished shards among those requested."""
        return sum(self.images(i) for i in range(self.wanted) if i in self._done)

    def shard_path(self, index: int) -> str:
        """Return the path or URL of a shard."""
        return self.folder.at(f"{SHARDS}/{shard_name(index)}")

    def scenes(self, index: int) -> range:
        """Return the scene indices of a shard."""
        count = self.config.scenes_per_shard
        return range(index * count, (index + 1) * count)

    def images(self, index: int) -> int:
        """Return the number of images of a shard, without skipped scenes."""
        left_out = len(set(self.scenes(index)) & set(self.skipped))
        return self.per_shard - left_out * self.config.camera.views

    def _read_skipped(self) -> dict[int, str]:
        content = self.folder.read(SKIPPED)
        if content is None:
            return {}
        try:
            return {int(scene): str(why) for scene, why in json.loads(content).items()}
        except (ValueError, AttributeError):
            raise UserError(
                f"{self.folder.at(SKIPPED)} is damaged: delete {self.folder.at()} and render it again"
            ) from None

    def skip(self, scene: int, why: str) -> None:
        """Leave a scene out of its shard, now and in later runs.

        Args:
            scene: index of the scene.
            why: reason, for the record.
        """
        self.skipped[scene] = why
        self.folder.write(SKIPPED, (json.dumps(self.skipped, indent=1) + "\n").encode())

    def set_software(self, software: Mapping[str, str]) -> None:
        """Record the rendering software's versions, or compare them with the recorded ones.

        Raises:
            UserError: Renderer, Blender, BlenderProc or the kind of device differ: new images would not be like
                the old ones.
        """
        for key in ("renderer", "blender", "blenderproc", "device"):
            there, here = (versions.get(key, _FIRST.get(key)) for versions in (self.software, software))
            if self.software and there != here:
                raise UserError(
                    f"{self.folder.at()} was rendered with {key} {there}, installed is {here}: "
                    "their images differ; install that version, or render into another folder"
                )
        self.software = self.software or dict(software)

    def finish(self, index: int, record: ShardRecord) -> None:
        """Record that a shard is written, and update the manifest."""
        self._done[index] = record
        self._recorded.add(index)
        self.write_manifest()

    def vanished(self) -> list[str]:
        """Return the names of finished shards that are there no more."""
        try:
            present = self.folder.files(SHARDS)
        except (FileNotFoundError, NotADirectoryError):
            present = {}
        return [shard_name(i) for i in sorted(self._done) if shard_name(i) not in present]

    def write_manifest(self) -> None:
        """Write the manifest with all finished shards from the first one without a gap."""
        count = next((i for i in range(len(self._done)) if i not in self._done), len(self._done))
        config = self.config
        manifest = {
            "format": "lightning-tl render",
            "format_version": FORMAT_VERSION,
            "split": self.name,
            "seed": config.seed,
            "config": config_to_dict(config),
            "contents": self.catalogue.fingerprint,
            "categories": {str(number): name for number, name in self.catalogue.categories.items()},
            "image_size": list(config.image.shape),
            "software": self.software,
            "scenes_per_shard": config.scenes_per_shard,
            "views_per_scene": config.camera.views,
            "requested": self.requested,
            "images": sum(self.images(i) for i in range(count)),
            **({"skipped": sorted(self.skipped)} if self.skipped else {}),
            "shards": [
                {
                    "name": shard_name(i),
                    "scenes": [self.scenes(i).start, self.scenes(i).stop],
                    "images": self.images(i),
                    "sha256": self._done[i].sha256,
                    "bytes": self._done[i].size,
                }
                for i in range(count)
            ],
        }
        self.folder.write(MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        for i in [i for i in self._recorded if i < count]:
            self.folder.delete(f"{SHARDS}/{shard_name(i)}.sha256")
            self._recorded.remove(i)


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """Add keys that an older version did not write and drop paths: their contents are compared instead."""
    try:
        filled = config_to_dict(config_from_dict(values))
    except UserError:  # a key or a category that no longer exists
        return values
    for source in filled["sources"]:
        source["path"] = ""
    filled["camera"]["intrinsics"] = bool(filled["camera"]["intrinsics"])
    filled["lights"]["hdris"] = bool(filled["lights"]["hdris"])
    filled["room"]["materials"] = bool(filled["room"]["materials"])
    return filled


def _first_difference(old: Any, new: Any, where: str) -> str:
    """Describe the first key at which two configurations differ; empty if none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            difference = _first_difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
            if difference:
                return difference
        return ""
    return "" if old == new else f"'{where}' is {old!r} there and {new!r} here"
