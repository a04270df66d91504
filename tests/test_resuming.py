"""What ``--ckpt_path`` and ``--model.init_from`` name: nothing in it is executed, and what does not fit is said."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from training import finetuning, weights

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError
from lightning_tl.run import run

pytestmark = pytest.mark.filterwarnings("ignore")


class Bomb:
    """A value that writes a file when it is unpickled by ``pickle``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of six steps."""
    out = tmp_path_factory.mktemp("trained")
    run(finetuning(out))
    return out / "checkpoints/last.ckpt"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def bomb(trained: Path, tmp_path: Path, mark: Path) -> Path:
    """A whole checkpoint that would execute a command if it were unpickled."""
    path = tmp_path / "served" / "bomb.ckpt"
    path.parent.mkdir()
    torch.save(torch.load(trained, weights_only=True) | {"hyper_parameters": Bomb(mark)}, path)
    return path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the folder ``served``, on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "served").mkdir(exist_ok=True)
    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_bomb_goes_off_where_it_is_unpickled(bomb: Path, mark: Path) -> None:
    torch.load(bomb, weights_only=False)
    assert mark.exists()


PLACES = ("path", "suffixless", "file", "http", "store")


@pytest.mark.parametrize(
    "command, place, own",
    [
        *(("fit", place, own) for place in PLACES for own in ("", "weights_only: false")),
        *(("test", place, "") for place in PLACES),
        *((command, "http", own) for command in ("validate", "predict") for own in ("", "--weights_only=false")),
    ],
)
def test_no_pickle_runs_from_any_place(
    bomb: Path, mark: Path, served: str, tmp_path: Path, command: str, place: str, own: str
) -> None:
    if place == "suffixless":
        bomb = bomb.rename(bomb.with_suffix(""))
    where = {"path": str(bomb), "suffixless": str(bomb), "file": f"file://{bomb}", "http": f"{served}/{bomb.name}"}
    where["store"] = f"local://{bomb}"
    arguments = [command, *finetuning(tmp_path / "out")[1:], f"--ckpt_path={where[place]}"]
    if ":" in own:
        (tmp_path / "own.yaml").write_text(own)
        own = f"--config={tmp_path}/own.yaml"
    with pytest.raises(UserError, match=r"holds more than plain types and tensors|a checkpoint is data"):
        run([*arguments, *([own] if own else [])])
    assert not mark.exists()


def test_no_pickle_runs_by_init_from(bomb: Path, mark: Path, served: str, tmp_path: Path) -> None:
    for where in (bomb, f"file://{bomb}", f"{served}/{bomb.name}"):
        with pytest.raises(UserError, match="holds more than plain types"):
            run(finetuning(tmp_path / "out", f"--model.init_from={where}"))
    assert not mark.exists()


def test_a_checkpoint_from_a_server_is_as_good(trained: Path, served: str, tmp_path: Path) -> None:
    shutil.copy(trained, tmp_path / "served" / "last.ckpt")
    here = read_checkpoint(trained)["state_dict"]
    there = read_checkpoint(f"{served}/last.ckpt")["state_dict"]
    assert all(torch.equal(here[name], there[name]) for name in here)
    cli = run(finetuning(tmp_path / "out", "--trainer.max_steps=7", f"--ckpt_path={served}/last.ckpt"))
    assert cli.trainer.global_step == 7
    run(finetuning(tmp_path / "other", f"--model.init_from={served}/last.ckpt", "--trainer.max_steps=3"))
    with pytest.raises(UserError, match=r"none\.ckpt: no such file"):
        run(finetuning(tmp_path / "none", f"--ckpt_path={served}/none.ckpt"))


def test_an_archive_that_grows_is_refused(tmp_path: Path) -> None:
    import zipfile

    torch.save({"state_dict": {"a": torch.zeros(1_000_000)}}, tmp_path / "plain.ckpt")
    with zipfile.ZipFile(tmp_path / "plain.ckpt") as old, zipfile.ZipFile(tmp_path / "packed.ckpt", "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="its parts are larger than the file"):
        read_checkpoint(tmp_path / "packed.ckpt")


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    for name, what in (("pipe.ckpt", "a pipe, not a file"), ("", "a folder, not a file"), ("x", "no such file")):
        with pytest.raises(UserError, match=what):
            read_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="a device, not a file"):
        read_checkpoint("/dev/zero")


Change = Callable[[dict[str, Any]], Any]


def put(*keys: Any) -> Change:
    """Return a change that sets a value at a path of keys."""

    def change(content: dict[str, Any]) -> None:
        *parents, last, value = keys
        into: Any = content
        for key in parents:
            into = into[key]
        into[last] = value

    return change


def drop(*keys: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        *parents, last = keys
        into: Any = content
        for key in parents:
            into = into[key]
        del into[last]

    return change


def with_nan(content: dict[str, Any]) -> None:
    content["state_dict"]["head.weight"][0, 0] = float("nan")


FIT = [
    (drop("optimizer_states"), "holds no training state to resume from; to start a new run from its weights use"),
    (drop("lr_schedulers"), "has no lr_schedulers"),
    (drop("loops"), "has no loops"),
    (put("loops", 3), "its loops is a int"),
    (put("loops", {}), "loops.fit_loop is None: the file is damaged"),
    (put("loops", "fit_loop", "epoch_progress", "total", "ready", "x"), "epoch_progress.total.ready is 'x'"),
    (put("optimizer_states", []), "has 0 optimisers, this run has 1"),
    (put("optimizer_states", [3]), "optimizer_states is 3: the file is damaged"),
    (put("optimizer_states", 0, "param_groups", 0, "params", [0]), "its optimiser has other parameters"),
    (put("optimizer_states", 0, "param_groups", 0, "lr", "fast"), "param_groups[0].lr is 'fast'"),
    (put("optimizer_states", 0, "state", 0, "exp_avg", torch.zeros(3)), "exp_avg is of another shape"),
    (put("optimizer_states", 0, "state", 0, 7), "the optimiser's state is damaged"),
    (put("lr_schedulers", [{"last_epoch": "soon"}]), "lr_schedulers[0].last_epoch is 'soon'"),
    (put("lr_schedulers", []), "has 0 learning-rate schedules, this run has 1"),
    (put("callbacks", [1]), "its callbacks is a list"),
    (put("epoch", -1), "its epoch is -1, no whole number"),
    (put("global_step", 10**30), "its global_step is 1000"),
]
BOTH = [
    (put("global_step", "many"), "its global_step is 'many', no whole number"),
    (put("state_dict", 3), "is no checkpoint of a Lightning run"),
    (put("state_dict", "head.weight", 3), "'head.weight' in its state_dict is no tensor"),
    (put("state_dict", "head.weight", torch.zeros(3, 4)), "head.weight is [3, 4] there and"),
    (put("state_dict", "head.weight", torch.zeros(10, 64, dtype=torch.int8)), "head.weight is"),
    (drop("state_dict", "head.weight"), "it lacks 'head.weight'"),
    (put("state_dict", "other", torch.zeros(2)), "it has 'other', which the model lacks"),
    (put("pytorch-lightning_version", 2), "is no checkpoint of a Lightning run"),
    (put("pytorch-lightning_version", "newest"), "its Lightning version is 'newest', which is none"),
    (with_nan, "head.weight has 1 of "),
]
CASES = [("fit", *case) for case in [*FIT, *BOTH]] + [("test", *case) for case in BOTH]


@pytest.mark.parametrize("command, change, message", CASES, ids=[f"{c}-{m[:30]}" for c, _, m in CASES])
def test_what_does_not_fit_is_said_in_one_sentence(
    trained: Path, tmp_path: Path, command: str, change: Change, message: str
) -> None:
    content = copy.deepcopy(torch.load(trained, weights_only=True))
    change(content)
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(UserError) as error:
        run([command, *finetuning(tmp_path / "out")[1:], f"--ckpt_path={tmp_path}/changed.ckpt"])
    text = str(error.value)
    assert message in text
    assert text.startswith(f"--ckpt_path {tmp_path}/changed.ckpt")
    assert "\n" not in text
    assert len(text) < 600
    assert "--model.init_from" in text


def test_another_models_checkpoint(trained: Path, tmp_path: Path) -> None:
    arguments = finetuning(tmp_path / "out", "--model.backbone=resnet18", f"--ckpt_path={trained}")
    with pytest.raises(UserError, match=r"does not fit Classification: it lacks 'backbone.*--model.init_from"):
        run(arguments)


def test_a_state_dict_is_no_run(trained: Path, tmp_path: Path) -> None:
    torch.save(weights(trained), tmp_path / "weights.pt")
    for command in ("fit", "test"):
        with pytest.raises(UserError, match=r"is no checkpoint of a Lightning run.*--model.init_from"):
            run([command, *finetuning(tmp_path / "out")[1:], f"--ckpt_path={tmp_path}/weights.pt"])


@pytest.mark.parametrize(
    "value, message",
    [
        (float("nan"), "values that are not finite: its training diverged"),
        (float("inf"), "values that are not finite: its training diverged"),
        (torch.int8, "is of int8 there and float32 here"),
    ],
    ids=str,
)
def test_init_from_refuses_what_are_no_weights(trained: Path, tmp_path: Path, value: Any, message: str) -> None:
    state = weights(trained)
    if isinstance(value, torch.dtype):
        state = {name: tensor.to(value) for name, tensor in state.items()}
    else:
        state["backbone.conv1.weight"].view(-1)[5] = value
    torch.save({"state_dict": state}, tmp_path / "wrong.ckpt")
    with pytest.raises(UserError, match=r"conv1\.weight") as error:
        run(finetuning(tmp_path / "out", f"--model.init_from={tmp_path}/wrong.ckpt"))
    assert message in str(error.value)


def test_the_command_says_it_too(bomb: Path, mark: Path, served: str, tmp_path: Path) -> None:
    """In a process of its own: exit code 2, one message, nothing executed."""
    arguments = [*finetuning(tmp_path / "out"), f"--ckpt_path={served}/bomb.ckpt"]
    command = [sys.executable, "-m", "lightning_tl.cli.main", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert f"error: checkpoint {served}/bomb.ckpt: holds more than plain types" in result.stderr
    assert not mark.exists()
