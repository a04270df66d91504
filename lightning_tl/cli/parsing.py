"""What the light sub-commands share: a parser that takes YAML, dotted overrides and names the nearest valid key."""

from __future__ import annotations

from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from lightning_tl.config_files import with_found_configs
from lightning_tl.errors import UserError, explain


class CommandParser(ArgumentParser):
    """An argument parser whose errors are a ``UserError`` of one clear sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's complaint as a ``UserError``."""
        raise UserError(explain(self, message, ex)) from ex


def command_parser(name: str, description: str, **kwargs: Any) -> CommandParser:
    """Return the parser of ``lightning-tl <name>``, with ``--config FILE`` and ``--print_config`` added."""
    parser = CommandParser(prog=f"lightning-tl {name}", description=description, **kwargs)
    parser.add_argument(
        "--config", action=ActionConfigFile, help="YAML file with any of the options below, or a shipped one's name."
    )
    return parser


def parse(parser: ArgumentParser, argv: list[str] | None) -> Namespace:
    """Parse ``argv`` (``None``: the process's own arguments), shipped configurations found by name.

    Raises:
        UserError: An unknown option or key, a value of the wrong type, a missing file.
    """
    return parser.parse_args(None if argv is None else with_found_configs(argv))
