"""Reading and writing files on stores that fsspec supports; all their exceptions become one clear message."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_tl.errors import StoreError, UserError, is_disk_full, one_line

# here "make the folder" would mean "make the bucket"
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"})
_REFUSED = ("NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError", "RefreshError")
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL and the path in it.

    Called whenever one is needed and not stored: fsspec caches them and knows when a process was forked.

    Raises:
        StoreError: no such protocol, or its package is not installed.
    """
    import fsspec

    with store_errors(url):
        system, path = fsspec.core.url_to_fs(url)
        return system, str(path)


def read_url(url: str) -> bytes | None:
    """Return a small file; ``None`` if there is no such file.

    Raises:
        StoreError: the store cannot be used or reached.
    """
    system, path = file_system(url)
    with store_errors(url):
        try:
            return bytes(system.cat_file(path))
        except FileNotFoundError:
            return None


def _puts_atomically(system: Any) -> bool:
    """Tell whether a file system is an object store, where nobody sees half a file."""
    return bool(_OBJECT_STORES.intersection([system.protocol] if isinstance(system.protocol, str) else system.protocol))


def put(url: str, content: bytes | Path) -> None:
    """Put a file on a store: whole, or not at all.

    Where the store shows files while they are written (a file system, SFTP, SMB, HDFS), a hidden file beside it is
    written and then renamed. A killed process may leave that file; :func:`remove_partial_puts` deletes it.

    Args:
        url: URL of the file.
        content: its bytes, or the local file that holds them.

    Raises:
        StoreError: the store cannot be reached, refuses, or has no such bucket.
    """
    system, path = file_system(url)
    with store_errors(url):
        if _puts_atomically(system):
            _write(system, path, content)
            return
        folder, _, name = path.rpartition("/")
        system.makedirs(folder, exist_ok=True)
        beside = f"{folder}/.{name}.{secrets.token_hex(4)}.tmp"
        try:
            _write(system, beside, content)
            try:
                system.mv(beside, path)
            except FileExistsError:  # SMB renames to no existing file
                system.rm_file(path)
                system.mv(beside, path)
        except BaseException:
            with suppress(Exception):  # what went wrong first is the error
                system.rm_file(beside)
            raise


def _write(system: Any, path: str, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        system.pipe_file(path, content)
    else:
        system.put_file(str(content), path)


def remove_partial_puts(url: str) -> None:
    """Delete the hidden files that killed processes left in a folder of a store and its sub-folders.

    Call it only while no other process writes there.

    Raises:
        StoreError: the store cannot be reached, or refuses.
    """
    system, path = file_system(url)
    if _puts_atomically(system):
        return
    with store_errors(url):
        for name in system.find(path):
            if _PARTIAL.fullmatch(name.rsplit("/", 1)[-1]):
                with suppress(FileNotFoundError):
                    system.rm_file(name)


def download(url: str, path: Path, missing: str = "") -> None:
    """Fetch a file from a store.

    Args:
        url: URL of the file.
        path: file to write, not atomically; see :func:`lightning_tl._io.atomic.replacing`.
        missing: as for :func:`store_errors`.

    Raises:
        StoreError: there is no such file, or the store cannot be used or reached.
        OSError: this machine's disk is full.
    """
    system, remote = file_system(url)
    try:
        with store_errors(url, missing):
            system.get_file(remote, str(path))
    except StoreError as error:
        if isinstance(error.__cause__, OSError) and is_disk_full(error.__cause__):
            raise error.__cause__ from None
        raise


def delete(url: str) -> None:
    """Delete a file, if it is there.

    Raises:
        StoreError: the store cannot be reached, or refuses.
    """
    system, path = file_system(url)
    with store_errors(url):
        try:
            system.rm_file(path)
        except FileNotFoundError:
            return


@contextmanager
def store_errors(url: str, missing: str = "") -> Iterator[None]:
    """Convert the exceptions of a store's package into one clear message.

    Args:
        url: the requested URL.
        missing: message if it does not exist (default: there is no such bucket or folder).

    Raises:
        StoreError: for any exception other than a ``UserError``.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise StoreError(f"{url}: {_reason(error, missing)}") from error


def _reason(error: Exception, missing: str) -> str:
    kind = type(error).__name__
    if isinstance(error, ImportError):
        return f"{one_line(error)} (by pip, on every machine that renders or reads)"
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return f"{one_line(error)}; fsspec knows s3, gs, az and others"
    if isinstance(error, FileNotFoundError):
        return missing or f"no such bucket or folder ({one_line(error)}): make it first, or correct its name"
    if isinstance(error, PermissionError) or kind in _REFUSED:
        return (
            f"access is refused ({one_line(error)}): give credentials that may list, read, write and delete there, on "
            "S3 by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile"
        )
    return f"the store failed ({kind}: {one_line(error)}); run the same command again to continue"
