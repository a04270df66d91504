"""The configuration reference: a page for each command, for the classes that its YAML names, for the shipped files."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))  # this hook's own modules

from configuration_keys import ACTIONS, SHORTCUTS, Key, classes, keys, keys_of_class, nested, parsers
from configuration_words import listed, markdown

from lightning_tl.cli.command_options import TRAINING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_INDEX = """# Commands and configuration

Every command takes its keys as options (`--camera.views 10`) or from YAML (`--config FILE`), nested by the dots; an
option wins over the file before it. `--config` takes a path, or the name of a [shipped file](shipped.md).
`--print_config` prints all keys with their values and does nothing else; `--help` lists the options. A key that does
not exist is an error that names the nearest one. Hyphens may stand for underscores in options of `lightning-tl` itself.

These pages are generated from the commands' own parsers and classes, so they have every key.

| Command | What it does |
|---|---|
"""
# taken off the arguments before LightningCLI sees them
_PICTURES = """<code id="predict--pictures">pictures</code> <small>int</small>
:   Only as an option: save pictures of so many predictions beside the truth, `predictions.png` in the run's folder.
"""
_CLASSES = """
What a training's YAML names by class:

| Key | Classes |
|---|---|
| `model` | [tasks](model.md) |
| `model.transfer` | [ways of fine-tuning](transfer.md) |
| `model.schedule` | [schedules of the learning rate](schedule.md) |
| `lr_scheduler` | [schedulers](lr_scheduler.md) of this package, and torch's |
| `data` | [data modules](data.md) |
| `trainer.callbacks` | [callbacks](callbacks.md) |
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    from mkdocs.structure.files import File

    logging.getLogger("lightning").setLevel(logging.ERROR)
    for path, content in pages(Path(config.config_file_path).parent).items():
        files.append(File.generated(config, path, content=content))
    return files


def pages(root: Path) -> dict[str, str]:
    """Return the text of each page of the reference, by its path in the site.

    Args:
        root: The repository.
    """
    return command_pages() | class_pages() | {"reference/shipped.md": _shipped(root / "configs")}


def command_pages() -> dict[str, str]:
    """Return the pages of the commands, and the index."""
    from lightning_tl.cli.main import COMMANDS
    from lightning_tl.cli.schema import USAGE

    found = parsers()
    content: dict[str, str] = {}
    rows: list[str] = []
    for command, (_, line) in COMMANDS.items():
        path = "reference/fit.md" if command in TRAINING else f"reference/{command}.md"
        rows.append(f"| [`{command}`]({Path(path).name}) | {line} |")
        if command in SHORTCUTS:
            content[path] = (
                f"# lightning-tl {command}\n\nIs `lightning-tl {SHORTCUTS[command]}`; it takes all options of "
                "[`lightning-tl study run`](study.md#study-run).\n"
            )
        elif command == "schema":
            content[path] = f"# lightning-tl schema\n\n```\n{USAGE.rstrip()}\n```\n"
        elif command == "fit":
            content[path] = _training({name: keys(found[name]) for name in TRAINING})
        elif command not in TRAINING:
            own = {name: parser for name, parser in found.items() if name.split()[0] == command}
            content[path] = _command(command, line, {name: (p.description or "", keys(p)) for name, p in own.items()})
    content["reference/index.md"] = _INDEX + "\n".join(rows) + "\n" + _CLASSES
    return content


def class_pages() -> dict[str, str]:
    """Return the pages of the classes that YAML names."""
    from lightning.pytorch import Callback, LightningDataModule
    from torch.optim.lr_scheduler import LRScheduler

    from lightning_tl.tasks import Schedule, TransferTask
    from lightning_tl.transfer import TransferMethod

    kinds = {
        "model": ("Tasks", "model", classes("lightning_tl.tasks", TransferTask)),
        "transfer": ("Ways of fine-tuning", "model.transfer", classes("lightning_tl.transfer", TransferMethod)),
        "schedule": ("Schedules of the learning rate", "model.schedule", classes("lightning_tl.tasks", Schedule)),
        "lr_scheduler": ("Schedulers", "lr_scheduler", classes("lightning_tl.tasks", LRScheduler)),
        "data": ("Data modules", "data", classes("lightning_tl.data", LightningDataModule)),
        "callbacks": ("Callbacks", "trainer.callbacks", classes("lightning_tl.callbacks", Callback)),
    }
    return {f"reference/{name}.md": _classes(*content) for name, content in kinds.items()}


def _command(command: str, line: str, parts: dict[str, tuple[str, list[Key]]]) -> str:
    """Return the page of a command: one list of keys, or one for each action."""
    text = [f"# lightning-tl {command}", f"{line[0].upper()}{line[1:]}."]
    everything: list[Key] = []
    seen: dict[str, str] = {}
    for name, (about, own) in parts.items():
        if command in ACTIONS:
            text += [f"## lightning-tl {name} {{ #{name.replace(' ', '-')} }}"]
        text += [markdown(about)]
        new = [key for key in own if seen.setdefault(repr(key), name) == name]
        shared = {seen[repr(key)] for key in own} - {name}
        text += [listed(new, name)]
        if shared:
            before = ", ".join(f"[`lightning-tl {each}`](#{each.replace(' ', '-')})" for each in sorted(shared))
            text += [f"And, as for {before}: " + ", ".join(f"`{key.name}`" for key in own if key not in new) + "."]
        everything += own
    return "\n\n".join(text + _nested(everything))


def _training(parts: dict[str, list[Key]]) -> str:
    """Return the page of LightningCLI's commands: what they share once, then what each has of its own."""
    common = [key for key in parts["fit"] if all(repr(key) in map(repr, own) for own in parts.values())]
    shared = set(map(repr, common))
    text = [
        "# lightning-tl fit, validate, test, predict",
        "LightningCLI: `fit` trains, the others take a trained network. [Tasks](../tasks.md) shows how they are used. "
        "`model`, `data` and what is in them are classes with keys of their own: [tasks](model.md), "
        "[data modules](data.md), [ways of fine-tuning](transfer.md), [schedules](schedule.md), "
        "[callbacks](callbacks.md). In YAML a class's keys stand under `init_args`, as in `model.init_args.init_from`; "
        "options leave that out: `--model.init_from`. `optimizer` and `lr_scheduler` take any class of torch.",
    ]
    for name, own in parts.items():
        text += [f"## lightning-tl {name} {{ #{name} }}"]
        text += [listed([key for key in own if repr(key) not in shared], name)]
        if name == "predict":
            text += [_PICTURES]
    text += ["## All four", listed([key for key in common if not key.name.startswith("trainer")], "all")]
    text += ["## The trainer", "Lightning's own keys, for all four commands."]
    text += [listed([key for key in common if key.name.startswith("trainer")], "all")]
    return "\n\n".join(text + _nested([key for own in parts.values() for key in own]))


def _nested(own: Sequence[Key]) -> list[str]:
    """Return the parts about the dataclasses that values of keys are made of."""
    return [part for kind in nested(own) for part in _class(kind, 2)]


def _classes(title: str, key: str, kinds: Sequence[type]) -> str:
    name = kinds[-1].__name__
    value = f"{{class_path: {name}, init_args: {{…}}}}"
    if key == "trainer.callbacks":
        value = f"[{value}]"
    text = [
        f"# {title}",
        f"Values of `{key}`: `--{key} {name}` on the command line, `{key.rpartition('.')[2]}: {value}` in YAML. "
        "Classes of your own by their dotted path.",
    ]
    text += [part for kind in kinds for part in _class(kind, 2)]
    text += _nested([key for kind in kinds for key in keys_of_class(kind)])
    return "\n\n".join(text)


def _class(kind: type, level: int) -> list[str]:
    own = keys_of_class(kind)
    summary = (inspect.getdoc(kind) or "").split("\n\n")[0]
    return [
        f"{'#' * level} {kind.__name__} {{ #{kind.__name__.lower()} }}",
        markdown(summary),
        listed(own, kind.__name__.lower()) if own else "It has no keys.",
    ]


def _shipped(folder: Path) -> str:
    """Return the page with the text of every shipped file."""
    text = [
        "# Shipped configurations",
        "Named without `configs/` and `.yaml`: `--config finetune/digits`. Several may be given; the later one wins.",
    ]
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        content = path.read_text(encoding="utf-8").rstrip()
        text += [f"## {name} {{ #{name.replace('/', '-')} }}", f"```yaml\n{content}\n```"]
    return "\n\n".join(text) + "\n"
