"""The page on ways of fine-tuning: its Python runs, its YAML and commands parse, and it names every method."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import lightning_tl.transfer
from lightning_tl.errors import UserError
from lightning_tl.run import CheckCLI
from lightning_tl.tasks import Classification
from lightning_tl.transfer import TransferMethod

PAGE = (Path(__file__).parents[2] / "docs" / "transfer.md").read_text(encoding="utf-8")
FIT = re.findall(r"^lightning-tl (fit --config .*)$", PAGE, flags=re.MULTILINE)


def test_the_python_runs(capsys):
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(block, names)
    assert "freeze_stages(stages=2)" in capsys.readouterr().out
    trained = {name for name, parameter in names["task"].named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"layer4", "weight", "bias"}


def test_every_method_is_in_the_table():
    public = [getattr(lightning_tl.transfer, name) for name in lightning_tl.transfer.__all__]
    methods = [each.__name__ for each in public if isinstance(each, type) and issubclass(each, TransferMethod)]
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    assert [name for name in methods if name != "TransferMethod" and f"`{name}" not in rows] == []


@pytest.mark.parametrize("command", FIT)
def test_the_commands_parse(command, tmp_path):
    torch.save(Classification(3, "resnet10_w16").state_dict(), tmp_path / "start.ckpt")
    words = [str(tmp_path / "start.ckpt") if word == "CKPT" else word for word in shlex.split(command)]
    assert CheckCLI(words, make=False).config.fit.model.init_args.transfer.class_path.startswith("lightning_tl.")


def test_the_yaml_parses(tmp_path):
    (tmp_path / "transfer.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[0])
    cli = CheckCLI(["fit", "--config=finetune/sinclass_small", f"--config={tmp_path / 'transfer.yaml'}"], make=False)
    assert [each.class_path.rpartition(".")[2] for each in cli.config.fit.model.init_args.transfer] == ["LPFT", "L2SP"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[LoRA, WiSEFT]", "LoRA needs rank; give each method as"),
        ("[{class_path: L2SP, init_args: {}}, LPFT]", "L2SP needs strength; give each method as"),
        (
            "[{class_path: L2SP, init_args: {strength: strong}}, LPFT]",
            "transfer: the name or the value of an argument in the list is wrong",
        ),
        ("[LinearProb, LPFT]", "no method 'LinearProb'; did you mean 'LinearProbe'"),
        (
            "[{class_path: WiSEF, init_args: {take: 0}}, LPFT]",
            "^model: transfer: no method 'WiSEF'; did you mean 'WiSEFT'",
        ),
        ("[LoRA, lightning_tl.transfer.SAMM]", "no method 'SAMM'; did you mean 'SAM'"),
    ],
)
def test_a_wrong_list_is_one_sentence(given, message):
    with pytest.raises(UserError, match=message) as caught:
        CheckCLI(["fit", "--config=finetune/sinclass_small", f"--model.transfer={given}"], make=False)
    assert "Namespace" not in str(caught.value)
