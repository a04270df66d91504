"""The configuration reference has every key: compared with what `--help` prints, with signatures and dataclasses."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from data_gen.scene_sampler import RenderConfig
from lightning_tl.cli.main import COMMANDS, main
from lightning_tl.labs.catalogue import LABS, lab_class
from lightning_tl.laws.law_options import LawOptions
from lightning_tl.laws.next_options import NextOptions
from lightning_tl.study.config import Study

ROOT = Path(__file__).parents[2]
# of a command with actions, the words after its name
ACTIONS = {
    "dataset": ["preview", "validate", "stats", "export", "complexity"],
    "corpus": ["build", "show"],
    "study": ["run", "plan", "status"],
    "lab": ["all", *LABS],
}
FIT = ("fit", "validate", "test", "predict")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    sys.path.insert(0, str(ROOT / "docs/hooks"))
    try:
        generator = importlib.import_module("configuration_pages")
    finally:
        sys.path.remove(str(ROOT / "docs/hooks"))
    return generator.pages(ROOT)


def _keys(page: str) -> set[str]:
    return set(re.findall(r'^<code id="[^"]*">([\w.]+)</code>', page, flags=re.MULTILINE))


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("quickstart", "schema")])
def test_every_option_of_help_is_on_the_page(command, pages, capsys):
    page = pages["reference/fit.md" if command in FIT else f"reference/{command}.md"]
    known = _keys(page)
    for action in ACTIONS.get(command, [""]):
        with pytest.raises(SystemExit):
            main([command, *filter(None, [action]), "--help"])
        printed = re.findall(r"^  (?:-h, )?((?:--[\w.+-]+(?: [^-\s]\S*)?, )*--[\w.+-]+)", capsys.readouterr().out, re.M)
        options = {match for line in printed for match in re.findall(r"--([\w.]+)(?=$|[, =])", line)}
        # --help of a class, and --camera FILE where there are --camera.views and others
        groups = {name for name in options if any(other.startswith(f"{name}.") for other in options)}
        options = {name for name in options - groups if name.rpartition(".")[2] != "help"}
        assert len(options) >= 2
        assert options <= known, f"{command} {action}: {sorted(options - known)}"


def _parts(kind: type) -> Iterator[type]:
    """Yield a dataclass and those that its fields hold."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        for part in [hint, *typing.get_args(hint)]:
            if dataclasses.is_dataclass(part):
                yield from _parts(part)


@pytest.mark.parametrize(
    "kind, page",
    [(RenderConfig, "render"), (Study, "study"), (LawOptions, "law"), (NextOptions, "next")]
    + [(lab_class(name), "lab") for name in LABS],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_field_is_there_with_its_default(kind, page, pages):
    text = pages[f"reference/{page}.md"]
    known = {name for key in _keys(text) for name in key.split(".")}
    for part in _parts(kind):
        for item in dataclasses.fields(part):
            assert item.name in known, f"{part.__name__}.{item.name}"
            if type(item.default) in (int, float, str) and item.default != "":
                shown = re.escape(str(item.default))
                assert re.search(rf">(?:\w+\.)*{item.name}</code> .*default `{shown}`", text), item.name


@pytest.mark.parametrize(
    "package, page", [("tasks", "model"), ("transfer", "transfer"), ("data", "data"), ("callbacks", "callbacks")]
)
def test_every_argument_of_every_class_is_there(package, page, pages):
    module = importlib.import_module(f"lightning_tl.{package}")
    sections = dict(re.findall(r"^## (\w+) \{ #.*?$(.*?)(?=^## |\Z)", pages[f"reference/{page}.md"], re.M | re.S))
    found = [getattr(module, name) for name in module.__all__ if name in sections]
    assert len(found) >= 5
    for kind in found:
        arguments = list(inspect.signature(kind.__init__).parameters.values())[1:]
        names = {each.name for each in arguments if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
        assert names <= _keys(sections[kind.__name__]), kind.__name__


def test_what_can_be_named_in_yaml_is_there(pages):
    shipped = " ".join(path.read_text() for path in (ROOT / "configs").rglob("*.yaml"))
    named = {name.rpartition(".")[2] for name in re.findall(r"class_path: ([\w.]+)", shipped)}
    ours = {name for name in named if f"## {name} {{" in "".join(pages.values())}
    assert {"WarmupCosine", "HessianTrace"} <= ours
    lacking = named - ours
    for name in lacking:  # the rest are of torch and Lightning
        assert not any(
            hasattr(importlib.import_module(f"lightning_tl.{room}"), name)
            for room in ("tasks", "transfer", "data", "callbacks")
        ), name


def test_the_trainers_arguments_are_there(pages):
    names = {f"trainer.{name}" for name in inspect.signature(Trainer.__init__).parameters if name != "self"}
    assert names <= _keys(pages["reference/fit.md"])


def test_options_that_no_parser_knows_are_there(pages):
    assert "pictures" in _keys(pages["reference/fit.md"])


def test_shipped_files_are_there_word_by_word(pages):
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert len(files) > 40
    for path in files:
        assert path.read_text().rstrip() in pages["reference/shipped.md"]


def test_help_is_shown_as_it_is(pages):
    words = sys.modules["configuration_words"]
    text = "see :class:`~a.b.Cd` and my_module.X <x> [N, C], a*b*c and *emphasis*, ends with ``co_de*``"
    shown = r"see `Cd` and my\_module.X &lt;x> \[N, C\], a\*b\*c and *emphasis*, ends with `co_de*`"
    assert words.markdown(text) == shown
    assert words.type_text(dict[str, int | None] | None) == "{name: int or null} or null"
    assert words.type_text(tuple[int, ...] | typing.Literal["a", "b"]) == "list of int, `a` or `b`"
