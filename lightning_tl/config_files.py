"""Finding configuration files: by path, or by name among those that ship with the package."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from lightning_tl.errors import UserError, nearest
from lightning_tl.yaml_limits import limit_parsers, load_yaml

PACKAGE = Path(__file__).resolve().parent


def configs_root() -> Path:
    """Return the folder of the shipped configurations: inside an installed wheel, else at the top of the checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def find_config(name: str) -> Path:
    """Return the path of a configuration.

    Args:
        name: A path; or the name of a shipped configuration, such as ``render/digits``, ``configs/render/digits.yaml``
            or, where no other has it, ``digits``.

    Raises:
        UserError: There is no such file, or several shipped ones have this name.
    """
    path = Path(name)
    if path.is_file():
        return path
    root = configs_root()
    wanted = name.removeprefix("configs/").removesuffix(".yaml")
    if (exact := root / f"{wanted}.yaml").is_file():
        return exact
    shipped = {file.relative_to(root).with_suffix("").as_posix(): file for file in sorted(root.rglob("*.yaml"))}
    matches = [key for key in shipped if key.endswith(f"/{wanted}")]
    if len(matches) == 1:
        return shipped[matches[0]]
    if matches:
        raise UserError(f"--config {name}: several shipped configurations have this name: {', '.join(matches)}")
    raise UserError(
        f"--config {name}: no such file, and no shipped configuration of this name{nearest(wanted, shipped)}"
    )


def _checked(path: Path) -> Path:
    """Return ``path`` if the file is valid YAML. The parsers that read it later do not name the file in their errors.

    Raises:
        UserError: As :func:`~lightning_tl.yaml_limits.load_yaml`, or the file is not a mapping.
    """
    read_yaml(path, empty=True)
    limit_parsers()
    return path


def read_yaml(path: Path, empty: bool = False) -> dict[str, Any]:
    """Return the content of a YAML file of keys and values. It is shared between calls and must not be changed.

    Args:
        path: The file.
        empty: Whether an empty file will do.

    Raises:
        UserError: The file cannot be read, is beyond the limits, or is not a mapping.
    """
    content = load_yaml(path)
    if content is None and empty:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a mapping of keys to values")
    return content


def merge_keys(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Merge ``other`` into a nested dict: groups key by key, while lists and values replace those of ``into``."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge_keys(into[key], value)
        else:
            into[key] = value


def with_merged_configs(argv: list[str], folder: Path) -> list[str]:
    """Return the arguments with several ``--config`` merged into one file; later ones override earlier ones.

    Without this a later file would replace a whole mapping where it changes only some of its keys.

    Args:
        argv: Arguments whose configurations are paths, as :func:`with_config_paths` returns them.
        folder: Folder for the merged file.
    """
    names: list[Path] = []
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-c"):
            names.append(Path(next(arguments, "")))
        elif argument.startswith("--config="):
            names.append(Path(argument.removeprefix("--config=")))
        else:
            rest.append(argument)
    if len(names) < 2:
        return argv
    merged: dict[str, Any] = {}
    for name in names:
        merge_keys(merged, deepcopy(read_yaml(name)))
    path = folder / "merged.yaml"
    path.write_text(yaml.safe_dump(merged, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return [f"--config={path}", *rest]


def with_config_paths(argv: list[str]) -> list[str]:
    """Return the arguments with the value of each ``--config`` (or ``-c``) replaced by the file's path.

    Raises:
        UserError: A file is missing or not valid YAML.
    """
    resolved: list[str] = []
    is_value = False
    for argument in argv:
        if is_value:
            resolved.append(str(_checked(find_config(argument))))
        elif argument.startswith("--config="):
            resolved.append(f"--config={_checked(find_config(argument.removeprefix('--config=')))}")
        else:
            resolved.append(argument)
        is_value = argument in ("--config", "-c") and not is_value
    return resolved
