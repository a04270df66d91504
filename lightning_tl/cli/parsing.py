"""The parser of the sub-commands without LightningCLI: YAML, dotted overrides, errors with the nearest valid key."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from lightning_tl.config_files import with_config_paths
from lightning_tl.errors import UserError, explain
from lightning_tl.yaml_limits import limit_parsers


class CommandParser(ArgumentParser):
    """An argument parser that raises a ``UserError`` with one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's error as a ``UserError``."""
        raise UserError(explain(self, message, ex)) from ex


def command_parser(name: str, description: str, **kwargs: Any) -> CommandParser:
    """Return the parser of ``lightning-tl <name>``, with ``--config FILE`` and ``--print_config`` added."""
    parser = CommandParser(prog=f"lightning-tl {name}", description=description, **kwargs)
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        help="YAML file with any of the options below, or the name of a shipped one.",
    )
    return parser


def parse(parser: ArgumentParser, argv: list[str] | None) -> Namespace:
    """Parse arguments. ``--config`` may name a shipped configuration.

    Args:
        parser: From :func:`command_parser`.
        argv: The arguments; None for those of the process.

    Raises:
        UserError: An unknown option or key, a value of the wrong type, a missing file.
    """
    limit_parsers()
    return parser.parse_args(None if argv is None else with_config_paths(argv))


def with_underscores(argument: str, options: Collection[str]) -> str:
    """Return one of these options as the parser has it: ``--fix-d=shared`` becomes ``--fix_d=shared``."""
    name, equals, value = argument.partition("=")
    option = name.removeprefix("--").replace("-", "_")
    return f"--{option}{equals}{value}" if name.startswith("--") and option in options else argument
