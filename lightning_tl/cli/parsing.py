"""What the light sub-commands share: a parser that takes YAML, dotted overrides and names the nearest valid key."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from lightning_tl.cli.config_files import with_found_configs
from lightning_tl.errors import UserError, nearest

_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: --?([\w.\-]+)", re.IGNORECASE)
_UNKNOWN_KEY = re.compile(r"(?:Group '(?P<group>[^']*)' )?does not accept (?:option|key) '(?P<key>[^']*)'")


def explain(parser: ArgumentParser, message: str) -> str:
    """Return a parser's complaint as one sentence, with the nearest valid option where one was unknown."""
    text = " ".join(message.split())
    valid = {action.dest for action in parser._actions if action.dest not in ("help", "print_config")}
    if unknown := _UNKNOWN_OPTION.search(text):
        text = f"unknown option --{unknown[1]}{nearest(unknown[1].replace('-', '_'), valid)}"
    elif unknown := _UNKNOWN_KEY.search(text):
        key = ".".join(filter(None, [unknown["group"], unknown["key"]]))
        text = f"unknown key '{key}' in the configuration{nearest(key, valid)}"
    return f"{text}\n(options: {parser.prog} --help)"


class CommandParser(ArgumentParser):
    """An argument parser whose errors are a ``UserError`` of one clear sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's complaint as a ``UserError``."""
        raise UserError(explain(self, message)) from ex


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
