"""`lightning-tl`: runs a sub-command, and prints an error in the user's input as one message."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module

from lightning_tl import __version__
from lightning_tl._io.processes import die_with_parent
from lightning_tl.cli.terminal import Terminated, acknowledged_at_once, prepare_streams, stopped_by_sigterm
from lightning_tl.errors import UserError, limited, nearest, os_error

# name → (module in lightning_tl.cli, one line for --help)
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart", "all steps on real data: render, pre-train, fine-tune, fit the law, report"),
    "render": ("render", "render a labelled data set with BlenderProc; add to it, or verify it"),
    "dataset": ("dataset", "a rendered data set: preview, validate, stats, export, complexity"),
    "corpus": ("corpus", "text as token ids: build a corpus, show one"),
    "fit": ("train", "train: pre-training or fine-tuning, from YAML and dotted overrides (LightningCLI)"),
    "validate": ("train", "run a model's validation"),
    "test": ("train", "run a model's test: test/error = 1 - score"),
    "predict": ("train", "run a model's predictions"),
    "measure": ("measure", "distance, Hessian trace and sensitivity of saved checkpoints"),
    "export": ("export", "the backbone of a checkpoint as a plain state dict, LoRA merged"),
    "law": ("law", "fit error = D*n^-alpha + C to a table of results, and say what to do"),
    "next": ("next", "which run to do next, or stop: is a question decided by the results so far?"),
    "study": ("study", "many runs from one YAML file, resumable: run, status"),
    "lab": ("lab", "theory with a known answer, simulated; the library's answers compared with it"),
    "schema": ("schema", "the JSON Schema of a command's YAML, for editors: schema study > study.schema.json"),
    "report": ("report", "write the report of a folder of results: one self-contained HTML page"),
}
# commands that leave processes and files behind where they are not stopped in order
_STOPPED_BY_SIGTERM = {"quickstart", "render", "study"}


def usage() -> str:
    """Return the text of ``lightning-tl --help``."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items())
    return (
        "usage: lightning-tl COMMAND [OPTIONS]\n\n"
        "Is my synthetic pre-training worth anything, should I render more or render differently?\n\n"
        f"commands:\n{rows}\n\n"
        "lightning-tl COMMAND --help lists its options; every command takes --config FILE (YAML) and --print_config.\n"
        "lightning-tl --completion bash (or zsh) prints a script that completes commands and options.\n"
    )


@contextmanager
def _own_modules() -> Iterator[None]:
    """Let Python find modules of the current folder (``--model my_module.MyModel``), after all installed ones."""
    before = list(sys.path)
    if not sys.flags.safe_path:
        with suppress(FileNotFoundError):  # the folder was deleted
            sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, *rest = arguments
    if name == "--completion":
        from lightning_tl.cli.completion import script

        print(script(rest, COMMANDS), end="")
        return 0
    if name not in COMMANDS:
        raise UserError(f"no command '{name}'{nearest(name, COMMANDS)}\n(commands: lightning-tl --help)")
    module = import_module(f"lightning_tl.cli.{COMMANDS[name][0]}")
    # LightningCLI's four commands share a module, which needs their name
    arguments = arguments if COMMANDS[name][0] == "train" else rest
    with stopped_by_sigterm() if name in _STOPPED_BY_SIGTERM else nullcontext():
        return int(module.main(arguments) or 0)


def main(argv: list[str] | None = None) -> int:
    """Run ``lightning-tl`` and return its exit code.

    It is 0; 2 for an error in the user's input; 130 or 143 when interrupted by Ctrl-C or SIGTERM.
    """
    prepare_streams()
    if os.environ.get("LOCAL_RANK", "0") != "0":
        die_with_parent()  # a further process of a training on several
    try:
        with acknowledged_at_once(), _own_modules():
            code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()  # a closed pipe raises here, and not while Python exits
        return code
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt as how:
        print("\ninterrupted: finished work is kept; run the same command again to continue", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(how, Terminated) else signal.SIGINT)
    except BrokenPipeError:  # `lightning-tl … | head`
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        message = os_error(error)
    except MemoryError:
        message = "the memory is full: use less data at a time (data.batch_size, --workers), or a larger machine"
    with suppress(OSError):  # the error output is closed too
        print(f"error: {limited(message)}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
