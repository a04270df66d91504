"""What each command's YAML may hold, taken from the parser that the command itself builds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_tl.cli.config_schema import config_schema
from lightning_tl.cli.parsing import ParserBuilt, parsers_only_built

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

TRAINING = ("fit", "validate", "test", "predict")


def command_names() -> Iterator[str]:
    """Yield all commands with options, those with actions as ``study plan``."""
    from lightning_tl.cli import corpus, dataset, study
    from lightning_tl.cli.main import COMMANDS
    from lightning_tl.labs.catalogue import LABS

    actions: dict[str, Iterable[str]] = {
        "dataset": dataset.ACTIONS,
        "corpus": corpus.ACTIONS,
        "study": study.ACTIONS,
        "lab": [*LABS, "all"],
    }
    for name in COMMANDS:
        if name in actions:
            yield from (f"{name} {action}" for action in actions[name])
        elif name != "schema":
            yield name


def command_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of the YAML of a command, which is one of :func:`command_names`."""
    return config_schema(command_parser_of(name), f"lightning-tl {name}", interpolation=name in TRAINING)


def command_parser_of(name: str) -> ArgumentParser:
    """Return the parser of a command, which is one of :func:`command_names`, as the command builds it."""
    from lightning_tl.cli.main import COMMANDS

    command, *action = name.split(" ")
    try:
        if name in TRAINING:
            _stop_at_the_parser(name)
        else:
            with parsers_only_built():
                import_module(f"lightning_tl.cli.{COMMANDS[command][0]}").main(action)
    except ParserBuilt as built:
        return built.parser
    raise ValueError(f"{name} has no options")


def _stop_at_the_parser(name: str) -> None:
    from lightning_tl.run import RunCLI

    class Described(RunCLI):
        def parse_arguments(self, parser: ArgumentParser, args: Any) -> None:
            raise ParserBuilt(self._subcommand_parsers[name])

    Described([name])
