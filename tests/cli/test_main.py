from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lightning_tl import __version__
from lightning_tl.cli import main as cli
from lightning_tl.cli.main import COMMANDS, main
from lightning_tl.cli.terminal import Terminated
from lightning_tl.errors import UserError, nearest

EXECUTABLE = Path(sys.executable).with_name("lightning-tl")
HEAVY = ("torch", "lightning", "bpy", "blenderproc", "timm", "torchvision", "torchmetrics", "matplotlib", "pandas")

IMPORTED = f"""
import sys
from lightning_tl.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
assert not code, code
print("imported:", *(name for name in {HEAVY} if name in sys.modules))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["quickstart", "--help"],
        ["render", "--help"],
        ["dataset", "--help"],
        ["dataset", "preview", "--help"],
        ["corpus", "--help"],
        ["corpus", "build", "--help"],
        ["law", "--help"],
        ["next", "--help"],
        ["measure", "--help"],
        ["report", "--help"],
        ["export", "--help"],
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments):
    result = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "imported:"
    assert len(result.stdout.splitlines()) > 1


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in out
        assert line in out
    assert main([]) == 2
    assert capsys.readouterr().out == out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    "name,hint",
    [("quikstart", "did you mean 'quickstart'"), ("xyz", "valid: corpus, dataset, export, fit, lab"), ("Fit", "'fit'")],
)
def test_unknown_command(capsys, name, hint):
    assert main([name]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: no command '{name}'; ")
    assert hint in err
    assert "lightning-tl --help" in err


def test_unknown_option(capsys):
    assert main(["report", "--foldr", "x"]) == 2
    assert (
        "unknown option --foldr; did you mean 'folder'?\n(options: lightning-tl report --help)"
        in capsys.readouterr().err
    )


def test_the_executable(renders, tmp_path):
    out = tmp_path / "sheet.png"
    result = subprocess.run(
        [EXECUTABLE, "dataset", "preview", renders, f"--out={out}", "--count=3"], capture_output=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode().strip() == str(out)
    assert Image.open(out).size == (3 * (3 * 129 + 4), 128 + 16)


def test_fit_by_the_executable(renders, tmp_path):
    from training import pretraining

    command = [EXECUTABLE, *pretraining(renders, tmp_path / "out", "--trainer.max_steps=5")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/checkpoints/best.ckpt").is_file()
    assert os.listdir(tmp_path) == ["out"]


def test_wrong_fits_and_their_help(renders, tmp_path, capsys):
    from training import pretraining

    assert main(pretraining(renders, tmp_path / "out", "--data.n=99")) == 2
    assert "error: 99 images asked for, but" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit:
        main(["fit", "--help"])
    assert exit.value.code == 0
    assert "--trainer.max_steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["previw"], "dataset: no action 'previw'; did you mean 'preview'?"),
        (["preview", "{root}", "--count=0"], "--count is 0 and --side 128; they must be at least 1 and 16"),
        (["preview", "{root}", "--side=8"], "--count is 24 and --side 8; they must be"),
        (["preview", "{root}/train"], "train/train/manifest.json: no such file"),
        (["preview", "{root}", "--split=test"], "test/manifest.json: no such file"),
        (["preview", "{root}", "--cuont=3"], "unknown option --cuont; did you mean 'count'?"),
        (["preview", "{root}", "--count=many"], "count: should be a whole number, not many"),
        (["preview"], "required: root"),
    ],
)
def test_wrong_previews(renders, capsys, arguments, message):
    assert main(["dataset", *(text.format(root=renders) for text in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err


def test_preview_without_an_action(capsys):
    assert main(["dataset"]) == 2
    assert "dataset preview DIR" in capsys.readouterr().out


def raising(error):
    def run(argv):
        raise error

    return run


@pytest.mark.parametrize(
    "error,code,message",
    [
        (UserError("this and that"), 2, "error: this and that\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted: finished work is kept; run the same command again to continue\n"),
        (Terminated(), 143, "\ninterrupted: finished work is kept; run the same command again to continue\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b.tar"),
            2,
            "error: the disk is full while writing a/b.tar: free some space; run the same command again to continue\n",
        ),
        (OSError(errno.EIO, "Broken disk", "a/b"), 2, "error: a/b: broken disk; the disk or its connection failed: "),
        (
            OSError(errno.EROFS, "Read-only", "/ro/x"),
            2,
            "error: /ro/x: read-only; nothing can be written there: choose",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            2,
            "error: x: permission denied; permission is needed",
        ),
        (OSError("odd"), 2, "error: odd; correct that, and run the same command again\n"),
        (MemoryError(), 2, "error: the memory is full: use less data at a time"),
        (UserError("a" * 99_999), 2, "error: " + "a" * 1000),
        (UserError("a\x1b[31mb\x07"), 2, "error: a\ufffd[31mb\ufffd\n"),
        (OSError(errno.EDQUOT, "Quota"), 2, "error: the disk is full: free some space; run the same command again"),
    ],
    ids=[
        "user",
        "interrupted",
        "terminated",
        "full disk",
        "broken",
        "read-only",
        "denied",
        "odd",
        "memory",
        "long",
        "escapes",
        "quota",
    ],
)
def test_exit_codes(monkeypatch, capsys, error, code, message):
    from lightning_tl.cli import report

    monkeypatch.setattr(report, "main", raising(error))
    assert main(["report", "x"]) == code
    assert capsys.readouterr().err.startswith(message)


def test_data_gens_errors_are_told_too(monkeypatch, capsys):
    from lightning_tl.cli import report
    from lightning_tl.errors import UserError

    monkeypatch.setattr(report, "main", raising(UserError("no Blender")))
    assert main(["report", "x"]) == 2
    assert capsys.readouterr().err == "error: no Blender\n"


def test_a_bug_is_not_hidden(monkeypatch):
    from lightning_tl.cli import report

    monkeypatch.setattr(report, "main", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["report", "x"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(renders, tmp_path):
    (tmp_path / "full.png").symlink_to("/dev/full")
    command = [EXECUTABLE, "dataset", "preview", renders, f"--out={tmp_path / 'full.png'}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: the disk is full")
    assert "Traceback" not in result.stderr


def test_a_closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([EXECUTABLE, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert "Traceback" not in result.stderr


def test_every_command_has_its_module():
    for module, _ in COMMANDS.values():
        assert (Path(cli.__file__).parent / f"{module}.py").is_file()


def test_nearest():
    assert nearest("serch", ["search", "other"]) == "; did you mean 'search'?"
    assert nearest("zzz", ["b", "a"]) == "; valid: a, b"
