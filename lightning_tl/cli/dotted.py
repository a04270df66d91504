"""Objects that a user names on the command line by a dotted path, with options for what has to be called."""

from __future__ import annotations

import inspect
import pkgutil
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_tl.cli.parsing import CommandParser
from lightning_tl.errors import UserError, nearest, one_line


def named(path: str, option: str) -> Any:
    """Return what a dotted path names: a class, a function, an object of a module.

    Args:
        path: As ``my_module.MyModel``; modules of the current folder are found.
        option: The command-line option that it is the value of, for errors.

    Raises:
        UserError: There is no such module or name, or the module fails when it is imported.
    """
    if "." not in path.strip("."):
        raise UserError(f"{option} {path}: not a dotted path; name module and object, as in {option} my_module.{path}")
    try:
        return pkgutil.resolve_name(path)
    except ModuleNotFoundError as error:
        if error.name is not None and path.startswith(error.name):
            raise UserError(
                f"{option} {path}: no module '{error.name}', neither installed nor in the current folder, {Path.cwd()}"
            ) from None
        raise UserError(f"{option} {path}: cannot be imported: {one_line(error)}") from error
    except AttributeError as error:
        holder = getattr(error, "obj", None)
        names = [name for name in dir(holder) if not name.startswith("_")] if holder is not None else []
        raise UserError(
            f"{option} {path}: {getattr(holder, '__name__', path)} has no '{error.name}'{nearest(error.name, names)}"
        ) from None
    except Exception as error:  # whatever the user's module raises while it is imported
        raise UserError(f"{option} {path}: cannot be imported: {type(error).__name__}: {one_line(error)}") from error


def called(target: Any, option: str, arguments: Sequence[str], defaults: Mapping[str, Any] | None = None) -> Any:
    """Return what a class or function gives when it is called with options of the command line.

    Args:
        target: The class or function; any other object is returned as it is.
        option: Its name there, ``--model``; its arguments are ``--model.width 3`` or ``--model.init_args.width 3``.
        arguments: These options.
        defaults: Values of arguments that no option gives; those that the target does not take are left out.

    Raises:
        UserError: An option is unknown or of a wrong type, one is missing, or the call fails.
    """
    if not isinstance(target, type) and (not callable(target) or hasattr(target, "parameters")):
        if arguments:
            raise UserError(f"{arguments[0]}: {option} names an object, which takes no options")
        return target
    key, name = option.removeprefix("--"), getattr(target, "__qualname__", repr(target))
    parser = CommandParser(prog=f"lightning-tl measure {option}", add_help=False)
    add = parser.add_class_arguments if isinstance(target, type) else parser.add_function_arguments
    names = add(target, key, fail_untyped=False)
    known = {f"{key}.{name}": value for name, value in (defaults or {}).items() if f"{key}.{name}" in names}
    if known:
        parser.set_defaults(known)
    given = [argument.replace(f"{option}.init_args.", f"{option}.", 1) for argument in arguments]
    try:
        settings = parser.parse_args(given)
    except UserError as error:
        message = str(error).split("\n(options")[0]
        raise UserError(f"{message} (arguments of {name}: {', '.join(map(str, names)) or 'none'})") from error
    lacking = [need for need in _required(target) if f"{key}.{need}" in names and settings.get(f"{key}.{need}") is None]
    if lacking:
        raise UserError(f"{option}: {name} needs {' and '.join(f'{option}.{need}' for need in lacking)}")
    try:
        values = parser.instantiate_classes(settings).get(key, {})
        is_made = isinstance(target, type) and isinstance(values, target)
        return values if is_made else target(**dict(values or {}))
    except UserError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"{option}: {name} cannot be called: {type(error).__name__}: {one_line(error)}") from error


def _required(target: Any) -> list[str]:
    """Return the arguments without a default; the parser gives those without a type None."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(target).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind in kinds]


def hyper_parameters(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the constructor that a Lightning checkpoint keeps; empty for others.

    Lightning keeps them by name, or, where the constructor takes them as one object, with that argument's name.
    """
    kept = checkpoint.get("hyper_parameters", {})
    values = dict(vars(kept)) if isinstance(kept, Namespace) else dict(kept) if isinstance(kept, Mapping) else {}
    name = checkpoint.get("hparams_name", "kwargs")
    return values if name in ("kwargs", None) or not values else {str(name): Namespace(**values)}
