"""The parser of the sub-commands without LightningCLI: YAML, dotted overrides, errors with the nearest valid key."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from lightning_tl.config_files import with_config_paths
from lightning_tl.errors import UserError, explain
from lightning_tl.yaml_limits import limit_parsers

_only_built: ContextVar[bool] = ContextVar("only_built", default=False)


class ParserBuilt(Exception):
    """Hands over a command's parser instead of parsing with it; see :func:`parsers_only_built`."""

    def __init__(self, parser: ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


@contextmanager
def parsers_only_built() -> Iterator[None]:
    """Make commands stop at their parser with :class:`ParserBuilt`, for what describes their options."""
    token = _only_built.set(True)
    try:
        yield
    finally:
        _only_built.reset(token)


class CommandParser(ArgumentParser):
    """An argument parser that raises a ``UserError`` with one sentence."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parse arguments; hand over the parser where only that is asked for."""
        if _only_built.get():
            raise ParserBuilt(self)
        parsed: Namespace = super().parse_args(*args, **kwargs)
        return parsed

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
