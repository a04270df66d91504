"""What is installed by the pinned list is what the project says it needs, and nothing that is known to be harmful."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements() -> list[Requirement]:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in PROJECT["dependencies"] + extras]


def test_the_pins_are_within_the_ranges():
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = dict(line.partition(";")[0].strip().split("==") for line in lines if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    found = [each for each in requirements() if each.name.lower().replace("_", "-") in pins]
    assert len(found) > 20
    for each in found:
        version = pins[each.name.lower().replace("_", "-")]
        assert version in each.specifier, f"constraints.txt has {each.name} {version}; pyproject.toml wants {each}"


def test_releases_that_steal_credentials_are_excluded():
    (lightning,) = [each for each in requirements() if each.name == "lightning"]
    allowed = {version: version in lightning.specifier for version in ("2.5.5", "2.6.1", "2.6.2", "2.6.3", "2.6.6")}
    assert allowed == {"2.5.5": True, "2.6.1": True, "2.6.2": False, "2.6.3": False, "2.6.6": True}
