"""Folders to read and write small files: on this machine, or a prefix on a store that fsspec supports.

Files are written atomically, on this machine and on a store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lightning_tl._io.atomic import remove_leftovers, write_atomically
from lightning_tl._io.stores import delete, file_system, put, read_url, remove_partial_puts, store_errors
from lightning_tl._io.urls import Url, to_place
from lightning_tl.errors import UserError, disk_full, is_disk_full


class Folder(Protocol):
    """A place to read and write files by name; a name may have folders (``shards/000000.tar``)."""

    remote: bool

    def at(self, name: str = "") -> str:
        """Return the full path or URL of a file."""
        ...

    def make(self, name: str = "") -> None:
        """Make the folder or a sub-folder, if it must exist before a file is written."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file's content; ``None`` if there is no such file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a small file atomically."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        ...

    def files(self, name: str = "") -> dict[str, int]:
        """Return the files in the folder or a sub-folder: name → size in bytes."""
        ...

    def clear(self) -> None:
        """Delete the temporary files of killed processes; call only while no other process writes here."""
        ...


def open_folder(place: str | Path) -> Folder:
    """Return the folder at a path or URL.

    Raises:
        StoreError: fsspec does not know the URL's protocol, or its package is not installed.
    """
    location = to_place(place)
    return StoreFolder(location) if isinstance(location, Url) else LocalFolder(location)


def read_file(place: Path | Url) -> bytes | None:
    """Return a small file's content, from this machine or a store; ``None`` if there is no such file.

    Raises:
        StoreError: the store cannot be used or reached.
    """
    if isinstance(place, Url):
        return read_url(place)
    return place.read_bytes() if place.is_file() else None


class LocalFolder:
    """A folder of this machine.

    Args:
        path: path of the folder.
    """

    remote = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def at(self, name: str = "") -> str:
        """Return the path of a file."""
        return str(self.path / name)

    def make(self, name: str = "") -> None:
        """Make the folder or a sub-folder.

        Raises:
            UserError: it cannot be made.
        """
        try:
            (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the output folder {self.path.parent}: {error.strerror}") from None

    def read(self, name: str) -> bytes | None:
        """Return a file's content; ``None`` if there is no such file."""
        return read_file(self.path / name)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file atomically.

        Raises:
            UserError: the disk is full.
        """
        try:
            write_atomically(self.path / name, content, sync=True)
        except OSError as error:
            if is_disk_full(error):
                raise UserError(disk_full(error.filename, len(content))) from None
            raise

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def files(self, name: str = "") -> dict[str, int]:
        """Return the files in the folder or a sub-folder: name → size in bytes."""
        return {path.name: path.stat().st_size for path in (self.path / name).iterdir() if path.is_file()}

    def clear(self) -> None:
        """Delete the temporary files of killed processes; call only while no other process writes here."""
        remove_leftovers(self.path)


class StoreFolder:
    """The prefix of a store.

    Args:
        url: URL of the prefix.

    Raises:
        StoreError: fsspec does not know the protocol, or its package is not installed; methods: the store cannot be
            reached, or refuses.
    """

    remote = True

    def __init__(self, url: Url) -> None:
        self.url = Url(url.rstrip("/"))
        self._system, self._path = file_system(self.url)

    def at(self, name: str = "") -> str:
        """Return the URL of a file."""
        return self.url / name if name else self.url

    def make(self, name: str = "") -> None:
        """Do nothing: a store has no folders, or makes them with their files."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content; ``None`` if there is no such file."""
        return read_url(self.at(name))

    def write(self, name: str, content: bytes) -> None:
        """Put a small file atomically."""
        put(self.at(name), content)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        delete(self.at(name))

    def files(self, name: str = "") -> dict[str, int]:
        """Return the files in the folder or a sub-folder: name → size in bytes."""
        with store_errors(self.at(name)):
            try:
                listing = self._system.ls(f"{self._path}/{name}".rstrip("/"), detail=True, refresh=True)
            except FileNotFoundError:
                return {}
            return {e["name"].rsplit("/", 1)[-1]: int(e["size"] or 0) for e in listing if e["type"] == "file"}

    def clear(self) -> None:
        """Delete the temporary files of killed processes; call only while no other process writes here."""
        remove_partial_puts(self.url)
