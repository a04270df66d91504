"""The names at the package's top exist, and importing the package imports none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import data_gen


@pytest.mark.parametrize("name", data_gen.__all__)
def test_every_name_is_there(name):
    assert getattr(data_gen, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'data_gen' has no attribute 'Rendering'"):
        _ = data_gen.Rendering


def test_the_package_imports_none_of_its_modules():
    code = "import sys, data_gen; print([name for name in sys.modules if name.startswith('data_gen.')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
