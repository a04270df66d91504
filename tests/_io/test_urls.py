"""Folders of this machine and URLs on stores."""

import pickle
from pathlib import Path

import pytest

from lightning_tl._io.urls import Url, is_url, to_place


@pytest.mark.parametrize("place", ["s3://b/x", "memory://x", "gs://b", "local:///x", Url("s3://b")])
def test_urls(place):
    assert is_url(place)
    assert to_place(place) == place
    assert isinstance(to_place(place), Url)


@pytest.mark.parametrize("place", ["renders", "/x/y", "file:///x", "c://x", "a:b", "s3:/x", Path("s3://x"), Path("/x")])
def test_folders(place):
    assert not is_url(place)
    assert isinstance(to_place(place), Path)
    assert str(to_place(place)) == str(place).removeprefix("file://").replace("c://", "c:/")


def test_urls_are_joined_as_paths_are():
    assert to_place("s3://b/x/") / "train" == "s3://b/x/train"
    assert isinstance(to_place("s3://b") / "x" / "y", Url)
    url = pickle.loads(pickle.dumps(Url("s3://b/x")))
    assert (url, type(url)) == ("s3://b/x", Url)
