"""Shards of data sets on a store: each is fetched once, into a cache on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_tl._io.atomic import replacing
from lightning_tl._io.cache import CACHE_VARIABLE, cache_folder
from lightning_tl._io.checksums import file_sha256
from lightning_tl._io.locks import waiting_lock
from lightning_tl._io.stores import download
from lightning_tl._io.urls import Url
from lightning_tl.errors import UserError, disk_full, is_disk_full

_SHA256 = re.compile(r"[0-9a-f]{64}")
_AT_ONCE = 8


def cached(sha256: str) -> Path:
    """Return the cached file of the shard with a hash; data sets share the cache.

    Raises:
        UserError: The hash is not a SHA-256.
    """
    if not _SHA256.fullmatch(sha256):
        raise UserError(f"the manifest lists a shard with sha256 {sha256!r}, which is none: render the data set again")
    return cache_folder() / "shards" / f"{sha256}.tar"


def fetch(url: Url, sha256: str) -> Path:
    """Fetch a shard, unless it is in the cache, and return its file.

    If several processes need the same shard, one fetches it and the others wait.

    Args:
        url: URL of the shard.
        sha256: Hash of its content, in hexadecimal; the fetched content is checked against it.

    Raises:
        UserError: The shard does not exist, its content has another hash, the store cannot be used or reached, or the
            disk is full.
    """
    path = cached(sha256)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with waiting_lock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                _get(url, sha256, path)
    except OSError as error:
        if is_disk_full(error):
            reason = disk_full(error.filename)
        else:
            reason = f"{path.parent}: cannot be written ({error.strerror})"
        raise UserError(f"{reason}; {CACHE_VARIABLE} names another folder for the cache") from error
    return path


def _get(url: Url, sha256: str, path: Path) -> None:
    with replacing(path) as beside:
        download(url, beside, missing="no such file: run the same lightning-tl render again")
        if file_sha256(beside) != sha256:
            raise UserError(
                f"{url}: corrupted: its sha256 is not the manifest's: delete it and run the same lightning-tl render "
                "again"
            )


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
