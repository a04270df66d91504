"""YAML that grows, is deep, contains itself, or is none: one message at once, from every command."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from jsonargparse import get_loader

from lightning_tl.cli.main import main
from lightning_tl.config_files import configs_root, read_yaml
from lightning_tl.errors import UserError
from lightning_tl.yaml_limits import LimitError, check_limits, parsed_value

LEVELS = "\n".join(
    f"{chr(97 + i)}: &{chr(97 + i)} [{', '.join([f'*{chr(96 + i)}'] * 9) if i else 'x'}]" for i in range(9)
)
SELF = "zz: &a {b: *a}"
DEEP = "a: " + "[" * 3000 + "]" * 3000
CHAIN = "a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 100))
HOSTILE = {
    "aliases": (LEVELS, "it has more than 100,000 values, aliases expanded"),
    "cycle": (SELF, "the alias *a is inside of what it stands for"),
    "deep": (DEEP, "it is nested more than 60 levels deep"),
    "chain": (CHAIN, "it is nested more than 60 levels deep, aliases expanded"),
    "number": ("a: " + "9" * 5000, "Exceeds the limit"),
    "null key": ("~: 3", "the key None is no text: put it in quotes"),
    "yes": ("trainer: {on: 3}", "the key True under trainer is no text"),
    "list": ("- a", "is not a mapping of keys to values"),
    "tag": ("a: !!python/object/apply:os.system [id]", "not valid YAML (could not determine a constructor"),
    "date": ("a: 2020-99-99", "not valid YAML"),
    "bytes": ("a: \x00", "not valid YAML"),
    "open": ("a: [", "not valid YAML"),
    "large": ("a: " + "x" * (1 << 20), "has more than 1,048,576 bytes"),
}
COMMANDS = {
    "render": ["render", "--out={out}", "--images=1"],
    "fit": ["fit"],
    "study": ["study", "run", "--out={out}"],
    "law": ["law", "x.csv"],
    "measure": ["measure", "--ckpt=x"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_every_command_answers_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    text, message = HOSTILE[kind]
    (tmp_path / "c.yaml").write_text(text)
    begun = time.process_time()
    arguments = [part.format(out=tmp_path / "out") for part in COMMANDS[command]]
    assert main([*arguments, f"--config={tmp_path}/c.yaml"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/c.yaml" in error
    assert message in error
    assert len(error) < 800
    assert time.process_time() - begun < 20


def test_a_second_file_is_checked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a key that takes a file's name."""
    (tmp_path / "model.yaml").write_text(LEVELS)
    assert main(["fit", "--config=finetune/digits", f"--model={tmp_path}/model.yaml"]) == 2
    assert "error: " in capsys.readouterr().err
    assert main(["fit", "--config=finetune/digits", f"--data.shots={DEEP[3:]}"]) == 2
    assert len(capsys.readouterr().err) < 3000


def test_pipes_and_devices_are_no_configurations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in (f"{tmp_path}/pipe.yaml", "/dev/zero", str(tmp_path)):
        assert main(["fit", f"--config={name}"]) == 2
        assert f"--config {name}: no such file" in capsys.readouterr().err
    with pytest.raises(UserError, match="a pipe, not a file"):
        read_yaml(tmp_path / "pipe.yaml")


@pytest.mark.parametrize("path", sorted(configs_root().rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_far_within_the_limits(path: Path) -> None:
    text = path.read_text()
    check_limits(text)
    assert read_yaml(path) == yaml.safe_load(text)


def test_aliases_that_are_used_as_meant() -> None:
    check_limits("base: &base {a: 1, b: [1, 2]}\nother: {<<: *base, c: *base}")
    check_limits("a: &a x\nb: *a\nc: &a y\nd: *a")  # an anchor may be set again
    with pytest.raises(LimitError):
        check_limits("a: &a [x]\nb: &a [*a, &a [*a]]")


@pytest.mark.parametrize(
    "text", ["1e-3", "1E5", "-2.5e+3", ".5e1", "1.e2", "1e", "e3", "1e-3x", "0x1e3", "2e-3 m", "7"]
)
def test_numbers_are_those_of_jsonargparse(text: str) -> None:
    assert parsed_value(text) == get_loader("yaml")(text)


def test_a_text_that_is_no_yaml_stays_as_it_is() -> None:
    assert parsed_value("[a: b") == "[a: b"
