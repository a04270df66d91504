"""Data sets on a store: the commands say of them what they say of the same folder."""

import json

import fsspec
import pytest

from lightning_tl.cli.dataset import main


@pytest.fixture
def both(store, renders, tmp_path, monkeypatch):
    """The same renders in a folder and on a store; what is read goes to a cache of this test's own."""
    monkeypatch.setenv("LIGHTNING_TL_CACHE", str(tmp_path / "cache"))
    system, root = fsspec.core.url_to_fs(store)
    for file in renders.rglob("*"):
        if file.is_file():
            remote = f"{root}/{file.relative_to(renders).as_posix()}"
            system.makedirs(remote.rsplit("/", 1)[0], exist_ok=True) if store.startswith("local") else None
            system.put_file(str(file), remote)
    return str(renders), store


def test_validate(both, tmp_path):
    reports = []
    for number, root in enumerate(both):
        main(["validate", root, f"--out={tmp_path / str(number)}", "--workers=1"])
        reports.append(json.loads((tmp_path / str(number)).read_text().replace(root, "ROOT")))
    assert reports[0] == reports[1]
    system, path = fsspec.core.url_to_fs(both[1])
    system.rm_file(f"{path}/train/shards/000001.tar")
    assert main(["validate", both[1], f"--out={tmp_path / 'less'}", "--workers=1"]) == 1
    assert "shard-missing" in (tmp_path / "less").read_text()


def test_one_split_of_it(both, capsys):
    main(["validate", f"{both[1]}/val", "--workers=1"])
    said = capsys.readouterr().out
    assert "val" in said
    assert "train" not in said.replace(both[1], "")


def test_stats_and_preview(both, tmp_path):
    for number, root in enumerate(both):
        main(["stats", root, f"--out={tmp_path / str(number)}"])
        main(["preview", root, f"--out={tmp_path / str(number) / 'preview.png'}"])
    for name in ("stats.json", "sheet_train.png", "preview.png"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_export(both, tmp_path):
    for number, root in enumerate(both):
        main(["export", root, "--format=coco", f"--out={tmp_path / str(number)}"])
    files = [
        {str(file.relative_to(tmp_path / name)): file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in ("0", "1")
    ]
    assert files[0] == files[1]
    assert len(files[0]) > 40


def test_nothing_there(store):
    from lightning_tl.errors import UserError

    with pytest.raises(UserError, match=r"train/manifest\.json: no such file, so .* is no rendered split"):
        main(["validate", f"{store}/nowhere"])
