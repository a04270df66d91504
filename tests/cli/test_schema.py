from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from lightning_tl.cli.main import main
from lightning_tl.cli.shipped_schemas import schema_path, versions
from lightning_tl.config_files import configs_root, read_yaml

SHIPPED = sorted(configs_root().rglob("*.yaml"))
VALIDATORS = {
    command: jsonschema.Draft7Validator(json.loads(schema_path(folder).read_text()))
    for folder, command in {"render": "render", "pretrain": "fit", "study": "study"}.items()
}


def test_schemas_are_valid_schemas():
    for validator in VALIDATORS.values():
        validator.check_schema(validator.schema)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(configs_root()).as_posix())
def test_shipped_configurations_name_their_schema_and_are_valid(path):
    key, _, named = path.read_text().splitlines()[0].partition("=")
    assert key == "# yaml-language-server: $schema"
    schema = path.parent / named
    assert schema.resolve().parent == (configs_root() / "schemas").resolve()
    VALIDATORS[schema.stem].validate(read_yaml(path))


def changed(path: str, key: str, value: object) -> dict:
    content = copy.deepcopy(read_yaml(configs_root() / f"{path}.yaml"))
    *groups, last = key.split(".")
    inside = content
    for group in groups:
        inside = inside[group]
    inside[last] = value
    return content


WRONG = [
    ("render", "render/digits", "camera.vews", 4),
    ("render", "render/digits", "camera.views", "four"),
    ("render", "render/digits", "appearance", "many"),
    ("render", "render/digits", "digits.slant", [0.1, 0.2, 0.3]),
    ("render", "render/digits", "sources", [{"kind": "folder", "pth": "x"}]),
    ("study", "study/quickstart", "finetne", {"config": "x"}),
    ("study", "study/quickstart", "until.question", "why"),
    ("study", "study/quickstart", "pretrain.product", [1]),
    ("study", "study/quickstart", "law.target_errors", 0.1),
    ("fit", "finetune/digits", "trainer.max_stepz", 3),
    ("fit", "finetune/digits", "trainer.max_steps", "many"),
    ("fit", "finetune/digits", "model.init_args.bakbone", "resnet18"),
    ("fit", "finetune/digits", "model.class_path", "Clasification"),
    ("fit", "finetune/digits", "model.init_args.optimizer.init_args.lrr", 0.1),
    ("fit", "finetune/digits", "data.init_args.shots", [1]),
    ("fit", "finetune/digits", "trainer.callbacks", [{"class_path": "ModelCheckpoint", "init_args": {"nme": 1}}]),
]


@pytest.mark.parametrize("command,path,key,value", WRONG, ids=[f"{path}:{key}" for _, path, key, _ in WRONG])
def test_schema_and_parser_refuse_the_same_mistakes(command, path, key, value, tmp_path, capsys):
    content = changed(path, key, value)
    assert not VALIDATORS[command].is_valid(content)
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    options = {"fit": [], "render": [f"--out={tmp_path}", "--images=8"], "study": [f"--out={tmp_path}", "--dry_run"]}[
        command
    ]
    assert main([*command.split(), *(["run"] if command == "study" else []), f"--config={file}", *options]) == 2
    assert key.split(".")[-1] in capsys.readouterr().err or isinstance(value, str | list)


@pytest.mark.parametrize(
    "key,value",
    [
        ("model", {"class_path": "my_module.MyModel", "init_args": {"anything": 1}}),
        ("model.class_path", "lightning_tl.tasks.Classification"),
        ("data", {"batch_size": 5}),  # over another file, which names the class
        ("trainer.max_steps", "${data.init_args.n}"),
        ("model.init_args.transfer", ["LinearProbe", {"class_path": "L2SP", "init_args": {"strength": 0.1}}]),
    ],
    ids=str,
)
def test_schema_accepts_what_the_parser_does(key, value):
    VALIDATORS["fit"].validate(changed("finetune/digits", key, value))


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--config=finetune/digits", "--config=callbacks/measure"],
        ["study", "run", "--config=study/transfer_methods_small"],
        ["render", "--config=render/shapes", "--out=x", "--images=8"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_complete_configurations_are_valid(arguments, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, "--print_config"])
    VALIDATORS[arguments[0]].validate(yaml.safe_load(capsys.readouterr().out))


def test_shipped_files_are_up_to_date():
    noted = json.loads(schema_path("pretrain").read_text())["$comment"]
    if noted != f"made with {versions()}":
        pytest.skip(f"the shipped schemas were {noted}")
    # in a process of its own: classes that other tests have defined are no part of it
    code = (
        "import json; from lightning_tl.cli.shipped_schemas import shipped_files\n"
        "print(json.dumps({str(path): text for path, text in shipped_files()}))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name, text in json.loads(made.splitlines()[-1]).items():
        assert Path(name).read_text() == text, f"{name}: run python -m lightning_tl.cli.shipped_schemas"


def test_schema_command(capsys):
    assert main(["schema"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert {"fit", "study plan", "dataset stats", "lab caulking", "law"} <= set(names)
    for name in ("law", "study", "study plan"):
        assert main(["schema", *name.split()]) == 0
        schema = json.loads(capsys.readouterr().out)
        jsonschema.Draft7Validator.check_schema(schema)
        assert schema["title"] == {"study": "lightning-tl study run"}.get(name, f"lightning-tl {name}")
    assert main(["schema", "studdy"]) == 2
    assert "no command 'studdy'; did you mean 'study" in capsys.readouterr().err


COMPLETE = """
source "$SCRIPT"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_lightning_tl
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    arguments = ["bash", "-c", COMPLETE, "bash", "lightning-tl", *words]
    done = subprocess.run(arguments, env={**os.environ, "SCRIPT": str(script)}, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.split()


def test_bash_completes(tmp_path, capsys):
    assert main(["--completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    assert "study" in completed(script, "")
    assert completed(script, "stu") == ["study"]
    assert completed(script, "study", "") == ["run", "plan", "status"]
    assert "--until.question" in completed(script, "study", "run", "--unt")
    assert completed(script, "study", "run", "--config", "study/quick") == ["study/quickstart"]
    assert completed(script, "study", "run", "--config", "=", "study/quick") == ["study/quickstart"]
    assert completed(script, "render", "--engine", "") == ["local", "ray"]
    assert "Rendered" in completed(script, "fit", "--data", "=", "Ren")
    assert "--model.backbone" in completed(script, "fit", "--model.ba")
    assert completed(script, "law", "resul") == []  # bash then offers files
    assert completed(script, "--completion", "") == ["bash", "zsh"]
    assert completed(script, "schema", "st") == ["study"]


def test_completion_is_quick_and_names_its_shells(capsys):
    imported = "import sys; from lightning_tl.cli.main import main; main(['--completion', 'zsh']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("_lightning_tl_words()")
    assert not {"torch", "lightning", "jsonargparse", "numpy"} & set(done.stdout.splitlines()[-1].split())
    assert main(["--completion", "fish"]) == 2
    assert "give bash or zsh" in capsys.readouterr().err
    assert main(["--completion"]) == 2
    assert "needs a shell" in capsys.readouterr().err


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "lightning_tl", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert (
        done.stdout
        == subprocess.run(
            [Path(sys.executable).with_name("lightning-tl"), "--version"], capture_output=True, text=True
        ).stdout
    )
