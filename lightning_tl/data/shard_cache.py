"""Rendered data sets on a store that fsspec reaches: each shard is fetched once, into a cache on this machine."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_tl.errors import DISK_FULL, UserError, disk_full

CACHE_VARIABLE = "LIGHTNING_TL_CACHE"
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_AT_ONCE = 8


class Url(str):
    """The place of a data set on a store; ``/`` joins as it does for a path."""

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.rstrip('/')}/{name}")


def place(root: str | Path) -> Path | Url:
    """Return a folder of this machine as a path, all else that names a protocol as a URL."""
    if isinstance(root, Path):
        return root
    if _URL.match(root) and not root.startswith("file://"):
        return Url(root)
    return Path(root.removeprefix("file://"))


def read(url: Url) -> bytes | None:
    """Return a small file; ``None`` where there is no such file.

    Raises:
        UserError: The store cannot be used or reached.
    """
    import fsspec

    with _told(url):
        system, path = fsspec.core.url_to_fs(url)
        try:
            return bytes(system.cat_file(path))
        except FileNotFoundError:
            return None


def cache_folder() -> Path:
    """Return where shards are kept: ``$LIGHTNING_TL_CACHE``, else ``~/.cache/lightning_tl``."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "lightning_tl"


def cached(sha256: str) -> Path:
    """Return where the shard with a hash is kept once it is fetched, whatever data set it belongs to.

    Raises:
        UserError: That is no SHA-256.
    """
    if not _SHA256.fullmatch(sha256):
        raise UserError(f"the manifest lists a shard with sha256 {sha256!r}, which is none: render the data set again")
    return cache_folder() / "shards" / f"{sha256}.tar"


def fetch(url: Url, sha256: str) -> Path:
    """Fetch a shard, unless it is there already, and return its file.

    Of several processes that want the same one fetches and the others wait.

    Args:
        url: The shard.
        sha256: Of its content, in hexadecimal; what arrives is checked against it.

    Raises:
        UserError: It is not there, what arrives is not what the manifest says, the store cannot be used or reached, or
            the disk is full.
    """
    import filelock

    path = cached(sha256)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                _get(url, sha256, path)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(f"{disk_full(error)}; {CACHE_VARIABLE} names another folder for the cache") from None
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}), {CACHE_VARIABLE} names another folder for the cache"
        ) from error
    return path


def _get(url: Url, sha256: str, path: Path) -> None:
    import fsspec

    beside = path.with_name(f".{path.name}.part")
    try:
        with _told(url):
            system, remote = fsspec.core.url_to_fs(url)
            system.get_file(remote, str(beside))
        with beside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise UserError(
                f"{url}: corrupted: its sha256 is not the manifest's: delete it and run the same lightning-tl render "
                "again"
            )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def fetch_all(shards: list[tuple[Url, str]]) -> None:
    """Fetch shards, several at a time.

    Args:
        shards: The URL and the sha256 of each.

    Raises:
        UserError: As ``fetch``.
    """
    from concurrent.futures import ThreadPoolExecutor, as_completed

    from lightning_tl.progress import progress_bar

    missing = [(url, sha256) for url, sha256 in shards if not cached(sha256).is_file()]
    if not missing:
        return
    with progress_bar(f"fetch {missing[0][0].rsplit('/', 2)[0]}", "shards") as advance:
        advance(0, len(missing))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            futures = [pool.submit(fetch, url, sha256) for url, sha256 in missing]
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    advance(done, len(missing))
            finally:
                pool.shutdown(cancel_futures=True)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what a store's package raises, each its own kinds, into one clear message."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise UserError(f"{url}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"{error} (by pip)"
    if isinstance(error, FileNotFoundError):
        return "no such file: run the same lightning-tl render again"
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return f"access is refused ({error}): give credentials that may read there"
    return f"cannot be read ({type(error).__name__}: {error})"
