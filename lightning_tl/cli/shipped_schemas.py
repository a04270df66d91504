"""Writes the files made from the commands' parsers: ``python -m lightning_tl.cli.shipped_schemas``, in a checkout.

The schemas that the shipped configurations name, and the table that shell completion is made from. A test fails where
they are out of date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import write_atomically
from lightning_tl.cli.command_options import TRAINING, command_names, command_schema
from lightning_tl.cli.completion import OPTIONS_TABLE
from lightning_tl.config_files import configs_root

#: Folder of shipped configurations → the command that takes them.
COMMAND_OF = {
    "render": "render",
    "pretrain": "fit",
    "finetune": "fit",
    "callbacks": "fit",
    "study": "study run",
}
_SHOWN = ("lightning", "torch")  # whose classes and options the schema of `fit` describes


def schema_path(folder: str) -> Path:
    """Return the file of the schema that the configurations of a folder name."""
    return configs_root() / "schemas" / f"{COMMAND_OF[folder].split(' ')[0]}.json"


def versions() -> str:
    """Return the versions that the schemas depend on."""
    return ", ".join(f"{name} {version(name).split('+')[0]}" for name in _SHOWN)


def shipped_files() -> Iterator[tuple[Path, str]]:
    """Yield the path and text of each file."""
    schemas = {name: command_schema(name) for name in command_names() if name not in TRAINING[1:]}
    for command, path in {command: schema_path(folder) for folder, command in COMMAND_OF.items()}.items():
        yield path, _lines({"$comment": f"made with {versions()}", **schemas[command]})
    table = {name: dict(options(schema, name in TRAINING)) for name, schema in schemas.items()}
    table.update(dict.fromkeys(TRAINING, table["fit"]))  # the four differ in hardly an option
    yield OPTIONS_TABLE, _lines(table)


def _lines(content: Mapping[str, Any]) -> str:
    """Return JSON of which each line holds one class, group of keys or command, so that changes can be read."""
    parts = []
    for key, value in content.items():
        text = json.dumps(value)
        if key in ("definitions", "properties"):
            text = "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in value.items()) + "\n}"
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def options(schema: Mapping[str, Any], is_training: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield a command's options, ``--key.key``, each with the values that it may have, where they are few."""
    definitions = schema.get("definitions", {})
    yield "--config", []
    yield from _options(schema, "--", definitions)
    if is_training:
        for key, kind in (("model", "LightningModule"), ("data", "LightningDataModule")):
            named = definitions[f"{kind}_by_class_path"]
            keys: set[str] = set()
            for name in named["anyOf"][0]["anyOf"][0]["enum"]:
                keys.update(definitions[f"{name}_arguments"].get("properties", ()))
            yield from ((f"--{key}.{each}", []) for each in sorted(keys) if not each.endswith("+"))


def _options(schema: Mapping[str, Any], prefix: str, definitions: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for key, inside in schema.get("properties", {}).items():
        if inside.get("x-positional") or key.endswith("+"):
            continue
        group = _group(inside, definitions)
        if "properties" not in inside:
            yield f"{prefix}{key}", _values(inside, definitions)
        if group is not None:
            yield from _options(group, f"{prefix}{key}.", definitions)


def _group(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of a group of keys that a value is, or may be."""
    for each in (schema, *schema.get("anyOf", ())):
        resolved = definitions.get(str(each.get("$ref", "")).rpartition("/")[2], each)
        if "properties" in resolved:
            found: Mapping[str, Any] = resolved
            return found
    return None


def _values(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    """Return the values of a choice, or the names of the classes that may be given."""
    found: list[str] = []
    for each in (schema, *schema.get("anyOf", ())):
        name = str(each.get("$ref", "")).rpartition("/")[2]
        by_class = definitions[name]["anyOf"][0]["anyOf"][0] if name.endswith("_by_class_path") else {}
        found += [str(value) for value in (*each.get("enum", ()), *by_class.get("enum", ())) if value not in (None, "")]
    if schema.get("type") == "boolean":
        found += ["true", "false"]
    return found


def main() -> None:
    """Write the files."""
    for path, text in shipped_files():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text)


if __name__ == "__main__":
    main()
