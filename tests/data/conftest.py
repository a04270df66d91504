"""Data sets that tests break: one sound set of each format, copied for each test."""

from __future__ import annotations

import shutil

import pytest

from data.sets import write_ade20k, write_coco, write_folder, write_voc


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Sound data sets, to be copied."""
    root = tmp_path_factory.mktemp("whole")
    write_folder(root / "folder")
    write_coco(root / "coco")
    write_ade20k(root / "ade20k")
    write_voc(root / "voc")
    return root


@pytest.fixture
def sets(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "sets")
    return tmp_path / "sets"
