"""Files on stores: the file system as one, and S3 where moto's server is installed; one message for every failure."""

import sys
from pathlib import Path

import fsspec
import pytest

from lightning_tl._io.stores import delete, download, file_system, put, read_url, remove_partial_puts, store_errors
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


def test_a_put_is_seen_whole_or_not_at_all(tmp_path, monkeypatch):
    url = f"local://{tmp_path}/store/manifest.json"
    put(url, b"old and whole")
    system = fsspec.implementations.local.LocalFileSystem

    def killed(self, path, value, **_):
        Path(path).write_bytes(value[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(system, "pipe_file", killed)
    with pytest.raises(KeyboardInterrupt):
        put(url, b"new")
    assert read_url(url) == b"old and whole"
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["manifest.json"]


def test_a_store_that_renames_to_no_existing_file(monkeypatch):
    system = fsspec.implementations.memory.MemoryFileSystem
    move = system.mv

    def strict(self, old, new, **_):
        if self.exists(new):
            raise FileExistsError(new)
        move(self, old, new)

    monkeypatch.setattr(system, "mv", strict)
    put("memory://renames/a", b"one")
    put("memory://renames/a", b"two")
    assert read_url("memory://renames/a") == b"two"
    assert fsspec.filesystem("memory").find("/renames") == ["/renames/a"]


def test_leftovers_of_killed_processes_are_deleted_and_nothing_else(tmp_path):
    names = [".manifest.json.0123abcd.tmp", "train/.000001.tar.00000000.tmp", "a.tmp", ".own.tmp", "train/b"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_partial_puts(f"local://{tmp_path}")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(names[2:])
    remove_partial_puts(f"local://{tmp_path}/none")
