"""Files on stores: the file system as one, and S3 where moto's server is installed; one message for every failure."""

import sys

import fsspec
import pytest

from lightning_tl._io.stores import delete, download, file_system, put, read_url, store_errors
from lightning_tl.errors import StoreError, UserError


def test_files_come_back_as_they_were_put(store, tmp_path):
    url = f"{store}/a/b.bin"
    assert read_url(url) is None
    put(url, b"\0one")
    assert read_url(url) == b"\0one"
    (tmp_path / "two").write_bytes(b"two")
    put(url, tmp_path / "two")
    download(url, tmp_path / "three")
    assert (tmp_path / "three").read_bytes() == b"two"
    delete(url)
    delete(url)
    assert read_url(url) is None


def test_what_is_missing(store, tmp_path):
    with pytest.raises(StoreError, match=rf"^{store}/none: no such bucket or folder \(.*\): make it first"):
        download(f"{store}/none", tmp_path / "x")
    with pytest.raises(StoreError, match=rf"^{store}/none: render again$"):
        download(f"{store}/none", tmp_path / "x", missing="render again")


def test_protocols_that_cannot_be_used(monkeypatch):
    with pytest.raises(StoreError, match=r"^nothere://x: Protocol not known: nothere; fsspec knows s3, gs, az and oth"):
        file_system("nothere://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(StoreError, match=r"^s3://x: Install s3fs to access S3 \(by pip, on every machine"):
        read_url("s3://x")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("no"), r"access is refused \(no\): give credentials that may list, read, write and delete"),
        (type("NoCredentialsError", (Exception,), {})("none"), r"access is refused \(none\)"),
        (ConnectionError("gone\naway"), r"the store failed \(ConnectionError: gone away\); run the same command again"),
        (TimeoutError(), r"the store failed \(TimeoutError: TimeoutError\)"),
    ],
)
def test_what_a_stores_package_raises(error, message):
    with pytest.raises(StoreError, match=f"^s3://x: {message}") as caught, store_errors("s3://x"):
        raise error
    assert caught.value.__cause__ is error


def test_an_error_that_is_clear_already_passes():
    with pytest.raises(UserError, match=r"^clear$"), store_errors("s3://x"):
        raise UserError("clear")


def test_a_full_disk_of_this_machine_is_no_fault_of_the_store(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device", "x")

    put("memory://somewhere/a", b"")
    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "get_file", full)
    with pytest.raises(OSError, match="No space left"):
        download("memory://somewhere/a", tmp_path / "x")
