"""Every key of every command, read from the parsers that the commands themselves use, and from classes."""

from __future__ import annotations

import inspect
from argparse import SUPPRESS, Action
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, is_dataclass, replace
from importlib import import_module
from typing import Any, get_args

from jsonargparse import ArgumentParser

from lightning_tl.cli import corpus, dataset, study
from lightning_tl.cli.main import COMMANDS
from lightning_tl.cli.parsing import CommandParser
from lightning_tl.labs.catalogue import LABS

#: Commands that have actions, each with a parser of its own.
ACTIONS: dict[str, Iterable[str]] = {
    "corpus": corpus.ACTIONS,
    "dataset": dataset.ACTIONS,
    "study": study.ACTIONS,
    "lab": ["all", *LABS],
}
#: LightningCLI's commands.
TRAINING = ("fit", "validate", "test", "predict")
#: The command that only adds options to another.
SHORTCUTS = {"quickstart": "study run --config study/quickstart --out runs/quickstart"}
_OWN = ("lightning_tl", "data_gen")


@dataclass(frozen=True)
class Key:
    """One key or option.

    Attributes:
        name: Its dotted name, or that of a positional argument.
        type: Its type, as annotated; None where the value is free text.
        choices: The only values that it takes, if they are listed.
        default: Its default.
        required: Whether it has to be given.
        positional: Whether it stands without a name on the command line.
        help: What it is.
    """

    name: str
    type: Any
    choices: tuple[Any, ...]
    default: Any
    required: bool
    positional: bool
    help: str


class _Parser(Exception):
    """A command's parser, at the moment when it would parse the arguments."""

    def __init__(self, parser: ArgumentParser) -> None:
        self.parser = parser


def parsers() -> dict[str, ArgumentParser]:
    """Return the parser of each command, by its name with its action: ``study run``."""
    found: dict[str, ArgumentParser] = {}
    for command, (module, _) in COMMANDS.items():
        if command in TRAINING:
            found[command] = _training_parser(command)
        elif command not in SHORTCUTS:
            main = import_module(f"lightning_tl.cli.{module}").main
            for action in ACTIONS.get(command, [""]):
                found[f"{command} {action}".strip()] = _parser_in(main, [action] if action else [])
    return found


def _parser_in(main: Callable[[list[str]], int], arguments: list[str]) -> ArgumentParser:
    """Return the parser that a command makes, by running the command up to where it parses."""
    parse = CommandParser.parse_args

    def stop(self: ArgumentParser, *_: Any, **__: Any) -> Any:
        raise _Parser(self)

    CommandParser.parse_args = stop  # type: ignore[method-assign]
    try:
        main(arguments)
    except _Parser as reached:
        return reached.parser
    finally:
        CommandParser.parse_args = parse  # type: ignore[method-assign]
    raise RuntimeError(f"{main.__module__} {arguments} ended before it parsed its arguments")


def _training_parser(command: str) -> ArgumentParser:
    from lightning_tl.run import RunCLI

    class Stopped(RunCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise _Parser(self._subcommand_parsers[command])

    try:
        Stopped([command])
    except _Parser as reached:
        return reached.parser
    raise RuntimeError(f"{command} ended before it parsed its arguments")


def keys(parser: ArgumentParser) -> list[Key]:
    """Return the keys of a parser, in its order."""
    return [_key(action) for action in parser._actions if not _only_helps(action)]


def _only_helps(action: Action) -> bool:
    """Return whether an action is no key: help, and files for a part of the keys."""
    return type(action).__name__ in ("_HelpAction", "_ActionHelpClassPath", "_ActionConfigLoad", "ActionLink")


def _key(action: Action) -> Key:
    kind = getattr(action, "_typehint", None) or action.type
    if type(action).__name__ == "_StoreTrueAction":
        kind = bool
    elif type(action).__name__ == "_StoreAction" and kind is None and action.choices is None:
        kind = str
    return Key(
        name=action.dest,
        type=list[kind] if action.nargs == "+" else kind,  # type: ignore[valid-type]
        choices=tuple(action.choices or ()),
        default=None if action.default is SUPPRESS else action.default,
        required=bool(action.required),
        positional=not action.option_strings,
        help=action.help or "",
    )


def keys_of_class(kind: type) -> list[Key]:
    """Return the arguments of a class, those of its bases included, as a configuration takes them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, fail_untyped=False)
    required = {
        each.name
        for each in inspect.signature(kind).parameters.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    return [replace(key, required=key.name in required) for key in keys(parser)]


def classes_in(hint: Any) -> Iterator[type]:
    """Yield the dataclasses of this project in an annotation: those whose keys are written out beneath the key."""
    if isinstance(hint, type) and is_dataclass(hint) and hint.__module__.startswith(_OWN):
        yield hint
    for part in get_args(hint):
        yield from classes_in(part)


def nested(start: Iterable[Key]) -> list[type]:
    """Return the dataclasses that these keys' values are made of, and those of their keys, each once."""
    found: list[type] = []
    waiting = [kind for key in start for kind in classes_in(key.type)]
    while waiting:
        kind = waiting.pop(0)
        if kind not in found:
            found.append(kind)
            waiting += [each for key in keys_of_class(kind) for each in classes_in(key.type)]
    return found


def classes(package: str, base: type) -> list[type]:
    """Return the public classes of a package that derive from a base and can be made."""
    module = import_module(package)
    public = [getattr(module, name) for name in module.__all__]
    kinds = [each for each in public if isinstance(each, type) and issubclass(each, base) and each is not base]
    return [each for each in kinds if not inspect.isabstract(each)]
