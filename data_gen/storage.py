"""Where a split is written: a folder, or a prefix of a store that fsspec reaches (``s3://bucket/set/train``).

A folder's files are written beside their place and renamed. On an object store a put is atomic by itself; of other
stores nothing is asked but that a file has its full size once it is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from data_gen.errors import DataGenError, StoreError, disk_full, is_disk_full

SHARDS = "shards"
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://")
# here "make the folder" would mean "make the bucket"
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"})
_REFUSED = ("NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError", "RefreshError")


class Shard(NamedTuple):
    """What identifies a finished shard: its SHA-256 in hexadecimal, and its size in bytes (-1: not recorded)."""

    sha256: str
    size: int


def is_url(place: str | Path) -> bool:
    """Tell whether a place is a URL, and not a folder of this machine."""
    return isinstance(place, str) and _URL.match(place) is not None and not place.startswith("file://")


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a small file by another in one step.

    Raises:
        DataGenError: the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full(path, len(content)) from None
        raise


def hash_file(path: Path) -> Path:
    """Return where the record of a shard's hash stands."""
    return path.with_name(path.name + ".sha256")


def hash_record(name: str, shard: Shard) -> bytes:
    """Return what stands beside a shard until the manifest lists it; ``sha256sum -c`` reads it."""
    return f"{shard.sha256}  {name}\n# {shard.size} bytes\n".encode()


def read_record(content: bytes | None) -> Shard | None:
    """Return what a record says; ``None`` where there is none, or it is damaged."""
    words = (content or b"").decode(errors="replace").split()
    if not words:
        return None
    return Shard(words[0], int(words[3]) if len(words) > 3 and words[3].isdigit() else -1)


class Folder(Protocol):
    """Where one split is written."""

    remote: bool

    def at(self, name: str = "") -> str:
        """Return the full path or URL of a file, by its path in the split."""
        ...

    def make(self) -> None:
        """Make what must be there before anything is written."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file's content; ``None`` where there is no such file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        ...

    def files(self) -> dict[str, int]:
        """Return the sizes of the files in ``shards/``, by name."""
        ...

    def is_intact(self, name: str, size: int, shard: Shard) -> bool:
        """Tell whether a file in ``shards/``, of a size, is what was recorded of it."""
        ...

    def clear(self) -> None:
        """Take away what dead processes left half done; only while no other process writes here."""
        ...


def open_folder(place: str | Path) -> Folder:
    """Return the folder for a path or URL.

    Raises:
        StoreError: a URL that fsspec does not know, or whose package is not installed.
    """
    if is_url(place):
        return _Remote(str(place))
    return _Local(Path(str(place).removeprefix("file://")))


class _Local:
    remote = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def at(self, name: str = "") -> str:
        return str(self.path / name)

    def make(self) -> None:
        try:
            (self.path / SHARDS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataGenError(f"cannot make the output folder {self.path.parent}: {error.strerror}") from None

    def read(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.exists() else None

    def write(self, name: str, content: bytes) -> None:
        write_atomically(self.path / name, content)

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def files(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in (self.path / SHARDS).iterdir()}

    def is_intact(self, name: str, size: int, shard: Shard) -> bool:
        return file_sha256(self.path / SHARDS / name) == shard.sha256

    def clear(self) -> None:
        for path in [*self.path.glob(".*.tmp"), *(self.path / SHARDS).glob(".*.tmp")]:
            path.unlink(missing_ok=True)


class _Remote:
    remote = True

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._path = file_system(self.url)

    def at(self, name: str = "") -> str:
        return f"{self.url}/{name}" if name else self.url

    def make(self) -> None:
        """Nothing: a store has no folders, or they are made with the files in them."""

    def read(self, name: str) -> bytes | None:
        with told(self.at(name)):
            try:
                return bytes(self._fs.cat_file(f"{self._path}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        put(self.at(name), content)

    def delete(self, name: str) -> None:
        with told(self.at(name)):
            try:
                self._fs.rm_file(f"{self._path}/{name}")
            except FileNotFoundError:
                return

    def files(self) -> dict[str, int]:
        with told(self.at(SHARDS)):
            try:
                listing = self._fs.ls(f"{self._path}/{SHARDS}", detail=True, refresh=True)
            except FileNotFoundError:
                return {}
            return {e["name"].rsplit("/", 1)[-1]: int(e["size"] or 0) for e in listing if e["type"] == "file"}

    def is_intact(self, name: str, size: int, shard: Shard) -> bool:
        """Compare the sizes: stores keep what they were given, and fetching all of it to see would take hours."""
        return shard.size in (size, -1)

    def clear(self) -> None:
        """Nothing: what was not put whole is not there."""


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL and the path in it.

    Called wherever one is needed, and not kept: fsspec keeps them, and knows when a process was forked.

    Raises:
        StoreError: no such protocol, or its package is not installed.
    """
    import fsspec

    with told(url):
        system, path = fsspec.core.url_to_fs(url)
        return system, str(path)


def put(url: str, content: bytes | Path) -> None:
    """Put a file on a store.

    Args:
        url: where.
        content: its bytes, or the local file that holds them.

    Raises:
        StoreError: the store cannot be reached, refuses, or has no such bucket.
    """
    system, path = file_system(url)
    with told(url):
        if not _OBJECT_STORES.intersection([system.protocol] if isinstance(system.protocol, str) else system.protocol):
            system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if isinstance(content, bytes):
            system.pipe_file(path, content)
        else:
            system.put_file(str(content), path)


def put_shard(file: Path, url: str) -> None:
    """Put a shard and the record of its hash on a store, and delete the local files.

    The record goes first. So it counts as soon as it is there whole, and a part of it, on a store that shows
    parts, does not.

    Raises:
        StoreError: as :func:`put`.
    """
    record = hash_file(file)
    put(f"{url}.sha256", record)
    put(url, file)
    file.unlink()
    record.unlink()


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turn what a store's package raises, each its own kinds, into one clear message.

    Raises:
        StoreError: in place of any other exception but those that this passes through from inside.
    """
    try:
        yield
    except DataGenError:
        raise
    except Exception as error:
        raise StoreError(f"{url}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, ImportError):
        return f"{error} (by pip, on every machine that renders or reads)"
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return f"{error}; s3, gs and az are among those that are"
    if isinstance(error, FileNotFoundError):
        return f"there is no such bucket or folder ({error}): make it first, or mend its name"
    if isinstance(error, PermissionError) or kind in _REFUSED:
        return (
            f"access is refused ({error}): give credentials that may list, read, write and delete there, on S3 by "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile"
        )
    return f"the store failed ({kind}: {error}); what is finished is kept, the same command goes on from there"
