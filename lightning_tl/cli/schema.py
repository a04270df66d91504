"""`lightning-tl schema`: a command's YAML as a JSON Schema, for editors and validators."""

from __future__ import annotations

import json
from collections.abc import Iterable

from lightning_tl.errors import UserError, nearest

USAGE = """usage: lightning-tl schema [COMMAND [ACTION]]

Print the JSON Schema of the YAML that a command takes by --config. With no COMMAND: list the commands.

  lightning-tl schema study > study.schema.json

and as the first line of the YAML file:

  # yaml-language-server: $schema=study.schema.json
"""


def main(argv: list[str]) -> int:
    """Print a schema, or the names of those that there are; return 0."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    from lightning_tl.cli.command_options import command_names, command_schema

    names = list(command_names())
    print(json.dumps(command_schema(_named(" ".join(argv), names)), indent=1) if argv else "\n".join(names))
    return 0


def _named(name: str, names: Iterable[str]) -> str:
    """Return the command of this name; with no action, its first: ``study`` is ``study run``."""
    for each in names:
        if each == name or each.startswith(f"{name} "):
            return each
    raise UserError(f"schema: no command '{name}'{nearest(name, names)}")
