"""Exports are pushed to a stand-in of the Hugging Face Hub on this machine, and trainings start from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ports import free_port
from sharing.checkpoints import checkpoint, close, images
from sharing.hub_stand_in import COMMIT, TOKEN, stand_in

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.cli.main import main
from lightning_tl.errors import UserError
from lightning_tl.tasks import Classification

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in, with an empty cache and a valid token."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its attempts
    with stand_in() as hub:
        use(monkeypatch, hub.url)
        yield hub


def use(monkeypatch, url):
    """As HF_ENDPOINT, which is read when the library is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for module in ("huggingface_hub.file_download", "huggingface_hub.hf_api"):
        if hasattr(sys.modules.get(module), "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(f"{module}.HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_pushed_and_started_from(tmp_path, hub, capsys):
    ours = checkpoint(tmp_path / "a.ckpt", Classification, "resnet10_w8")
    arguments = ["export", str(tmp_path / "a.ckpt"), "--format=safetensors", "--license=mit"]
    assert main([*arguments, "--push=hf:me/digits"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/me/digits/commit/{COMMIT}"
    files = hub.repos["me/digits"]
    assert files.keys() == {"model.safetensors", "README.md", "transfer_card.json"}
    assert json.loads(files["transfer_card.json"])["license"] == "mit"
    assert files["README.md"].startswith(b"---\nlibrary_name: lightning-tl\n")
    assert main([*arguments, "--push=hf:me/digits", f"--out={tmp_path}/own.safetensors"]) == 0  # once more
    assert (tmp_path / "own.safetensors").read_bytes() == files["model.safetensors"]
    for place in ("hf:me/digits", "hf:me/digits@v1", f"hf:me/digits@{COMMIT}"):
        task = Classification(5, "resnet10_w8", init_from=place).eval()
        assert task.key_report.source == place
        assert task.key_report.fraction == 1
    with torch.no_grad():
        assert close(task.backbone(images()), ours.backbone(images()))
    fetched = [line for line in hub.asked if line.startswith("GET") and "resolve" in line]
    assert len(fetched) == 1  # then it is in the cache


def test_a_backbone_of_torch(tmp_path, hub):
    checkpoint(tmp_path / "a.ckpt", Classification, "resnet10_w8")
    assert main(["export", str(tmp_path / "a.ckpt"), "--push=hf:me/b"]) == 0
    assert Classification(5, "resnet10_w8", init_from="hf:me/b").key_report.fraction == 1


def refused(place):
    with pytest.raises(UserError) as error:
        read_checkpoint(place)
    return str(error.value)


def test_what_cannot_be_fetched(tmp_path, hub, monkeypatch):
    hub.repos |= {"me/empty": {"notes.txt": b"x"}, "me/asked": {"model.safetensors": b"x"}}
    hub.gated.add("me/asked")
    assert refused("hf:me/none") == (
        "hf:me/none: no such repository; check its name, or, where it is private, log in by: hf auth login, or set "
        "HF_TOKEN"
    )
    assert refused("hf:me/empty@v2").startswith("hf:me/empty@v2: the repository has no such revision; leave out @v2")
    assert refused("hf:me/empty").startswith("hf:me/empty: has none of the files model.safetensors, backbone")
    assert refused("hf:me/asked").startswith("hf:me/asked: access must be granted by its owner")
    for wrong in ("hf:me", "hf:me/a@", "hf:../a", "hf:me/a/b"):
        assert "is no repository of the Hugging Face Hub; give hf:USER/NAME[@REVISION]" in refused(wrong)
    use(monkeypatch, f"http://127.0.0.1:{free_port()}")
    assert refused("hf:me/away").startswith("hf:me/away: the Hub cannot be reached; check the network, or give a file")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refused("hf:me/digits") == (
        "hf:… needs the package huggingface_hub; install it with: pip install 'lightning-tl[hub]'"
    )


def test_what_cannot_be_pushed(tmp_path, hub, monkeypatch, capsys):
    checkpoint(tmp_path / "a.ckpt", Classification, "resnet10_w8")

    def said(*arguments):
        assert main(["export", str(tmp_path / "a.ckpt"), *arguments]) == 2
        return capsys.readouterr().err

    assert "'me/b' is no repository of the Hugging Face Hub" in said("--push=me/b")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "hf:me/b: refused: there is no valid token; log in by: hf auth login, or set HF_TOKEN" in said(
        "--push=hf:me/b"
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.read_only = True
    assert "hf:me/b: refused: your token may not do this; give it the right to write" in said("--push=hf:me/b")
    hub.read_only = False
    assert "hf:me/b@other: the repository has no such revision" in said("--push=hf:me/b@other")
    use(monkeypatch, f"http://127.0.0.1:{free_port()}")
    assert "hf:me/b: the Hub cannot be reached" in said("--push=hf:me/b")
    assert sorted(each.name for each in tmp_path.iterdir() if each.name != "cache") == ["a.ckpt"]


@pytest.mark.slow
def test_by_the_librarys_own_setting(tmp_path):
    """HF_ENDPOINT and HF_HOME, in a process of its own."""
    checkpoint(tmp_path / "a.ckpt", Classification, "resnet10_w8")
    root = str(Path(__file__).parents[2])
    with stand_in() as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "PYTHONPATH": root}
        command = [sys.executable, "-m", "lightning_tl.cli.main", "export", str(tmp_path / "a.ckpt")]
        code = "import sys; from lightning_tl.cli.main import main; sys.exit(main(sys.argv[1:]))"
        command[1:3] = ["-c", code]
        done = subprocess.run(
            [*command, "--format=safetensors", "--push=hf:me/digits"],
            env=os.environ | own,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "model.safetensors" in hub.repos["me/digits"]
        again = subprocess.run(
            [*command[:3], "export", "hf:me/digits", f"--out={tmp_path}/b.pt"],
            env=os.environ | own,
            capture_output=True,
            text=True,
        )
        assert again.returncode == 0, again.stderr
    assert torch.load(tmp_path / "b.pt", weights_only=True)
