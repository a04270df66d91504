"""Workers inside a program that behaves like Blender's (blender_stand_in.py): with renders, in the slow test."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import blender_stand_in
import numpy as np
import pytest
from PIL import Image
from scene_gate import SceneGate, wait_for_end

from data_gen import blender_program, check, dispatch, farm, local_pool, reproduce
from data_gen.blender_program import VARIABLE, blender_command
from data_gen.check import check_environment
from data_gen.farm import render
from data_gen.interpreter import VARIABLE as OTHER_PYTHON
from data_gen.interpreter import named_blender
from data_gen.shard_writer import read_shard
from lightning_tl.errors import UserError

HERE = Path(__file__).parent


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def shards(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.tar"))}


@pytest.fixture
def fake_worker(monkeypatch):
    monkeypatch.setattr(local_pool, "worker_arguments", lambda: [str(HERE / "fake_worker.py")])


@pytest.fixture(params=["4.2", ""], ids=["as downloaded", "as a distribution installs it"])
def stand_in(request, tmp_path):
    return blender_stand_in.make(tmp_path / "a folder", series=request.param)


def test_workers_in_blender_give_the_same_bytes_and_dead_ones_are_replaced(
    tiny, tmp_path, monkeypatch, fake_worker, stand_in
):
    monkeypatch.setenv(VARIABLE, str(stand_in))
    monkeypatch.setenv("FAKE_KILL", "train2")
    monkeypatch.setenv("FAKE_ONCE", str(tmp_path / "once"))
    notes = []
    render(tiny(), tmp_path / "there", 12, workers=1, say=notes.append)
    assert notes == [f"rendering in {stand_in}, which the variable BLENDER names"]
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(farm, "check_environment", lambda: None)
    render(tiny(), tmp_path / "here", 12, workers=1)
    assert (tmp_path / "once").exists()
    assert shards(tmp_path / "here") == shards(tmp_path / "there")


def test_a_scene_that_kills_is_named_with_the_command_for_this_blender(tiny, tmp_path, monkeypatch, fake_worker):
    monkeypatch.setattr(farm, "check_environment", lambda: None)
    monkeypatch.setenv(VARIABLE, str(blender_stand_in.make(tmp_path / "a folder")))
    monkeypatch.setenv("FAKE_KILL", "train1")
    with pytest.raises(dispatch.LostScenes) as caught:
        render(tiny(), tmp_path / "out", 6, workers=1)
    assert f"  BLENDER='{tmp_path}/a folder/blender' {sys.executable} -m data_gen.reproduce" in str(caught.value)
    assert "it ended with code -9" in str(caught.value)
    assert "last words" in str(caught.value)


def test_no_blender_outlives_its_driver(tiny, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(farm.config_to_dict(tiny())))
    gate = SceneGate(tmp_path / "gate")
    command = [sys.executable, str(HERE / "render_here.py"), str(tmp_path / "config.json"), str(tmp_path / "out")]
    blender = str(blender_stand_in.make(tmp_path / "blender"))
    driver = subprocess.Popen(
        [*command, "60", "0", "2", "fake"], env={**os.environ, VARIABLE: blender, **gate.environment}
    )
    try:
        gate.wait(2)  # both workers stand before a scene
        family = _descendants(driver.pid)
        assert len(family) == 4  # two of BlenderProc's commands, and a Blender for each
        ends = [os.pidfd_open(process) for process in family]
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        wait_for_end(ends)
    finally:
        driver.kill()
        gate.close()


def _descendants(process):
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True).stdout
    children = [int(word) for word in listing.split()]
    return children + [below for child in children for below in _descendants(child)]


def test_another_python_goes_before_blender_and_blender_before_this_python(monkeypatch):
    monkeypatch.delenv(OTHER_PYTHON, raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert named_blender() == ""
    monkeypatch.setenv(VARIABLE, "/opt/blender")
    assert named_blender() == "/opt/blender"
    monkeypatch.setenv(OTHER_PYTHON, "/other/python")
    assert named_blender() == ""


def test_a_folder_or_a_name_on_the_path(tmp_path, monkeypatch):
    made = blender_stand_in.make(tmp_path / "blender-4.2")
    monkeypatch.setenv("PATH", f"{made.parent}:{os.environ['PATH']}")
    (tmp_path / "link").symlink_to(made)
    for value in (made, made.parent, "blender", tmp_path / "link"):
        command = blender_command(str(value), ["-m", "json"], tmp_path)
        assert json.loads(command[-1])["home"] == str(made.parent)


@pytest.mark.parametrize(
    "text,message",
    [
        (None, "nothing does not exist: give the path of Blender's program"),
        ("folder", "holds no program 'blender': give the path of Blender's program or of the folder"),
        ("text", r"is not executable: if it is Blender, chmod \+x"),
        ("echo 'grep 3.8'", "is no Blender that works here: grep 3.8"),
        ("echo 'libGL.so.1: cannot open' >&2; exit 127", "is no Blender that works here: libGL.so.1: cannot open"),
        ("exit 3", "is no Blender that works here: it ended with code 3"),
        ("echo 'Blender 3.4.1'", r"is Blender 3\.4\.1, but rendering needs 4\.2 .*to 4\.5: name one of these"),
        ("echo 'Blender 5.1.0'", r"is Blender 5\.1\.0, but rendering needs 4\.2"),
        ("echo 'Blender 4.2.3 LTS'; echo boom >&2", "does not run Python code: boom"),
    ],
    ids=["no file", "no Blender in it", "not executable", "another", "libraries", "fails", "old", "new", "no Python"],
)
def test_clear_errors(tmp_path, monkeypatch, text, message):
    path = tmp_path / "nothing"
    if text == "folder":
        path.mkdir()
    elif text == "text":
        path.write_text("no program")
    elif text is not None:
        program(path, text)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(UserError, match=f"^{VARIABLE}: .*{message}.*; or unset BLENDER") as caught:
        check_environment()
    assert str(path) in str(caught.value)


def test_a_file_that_the_system_cannot_run(tmp_path, monkeypatch):
    (tmp_path / "text").write_text("no program\n")
    (tmp_path / "text").chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "text"))
    with pytest.raises(UserError, match="cannot be run"):
        check_environment()


@pytest.mark.parametrize("layout", ["downloaded", "downloaded, tried before", "installed"])
def test_packages_that_blenders_python_lacks_with_the_command(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(blender_program, "_PACKAGES", {"json": "json", "cv2": "opencv-python-headless<5"})
    monkeypatch.setattr(blender_program, "_package_folders", list)
    made = blender_stand_in.make(tmp_path / "blender", packages=False, series="" if layout == "installed" else "4.2")
    place = f"--custom-blender-path {made.parent}"
    command = f"blenderproc pip install 'opencv-python-headless<5' {place}"
    if layout == "installed":
        version = ".".join(map(str, sys.version_info[:2]))
        command = (
            f"python{version} -m pip install --target ~/.config/blender/4.2/scripts/modules 'opencv-python-headless<5'"
        )
    else:
        (made.parent / "4.2/python/bin").mkdir(parents=True)
        (made.parent / "4.2/python/bin/python3.11").touch()
    if layout == "downloaded, tried before":
        listed = made.parent / "custom-python-packages/installed_packages_cache_v2.json"
        listed.parent.mkdir()
        listed.touch()
        command = f"rm {listed} && {command}"
    monkeypatch.setenv(VARIABLE, str(made))
    with pytest.raises(UserError) as caught:
        check_environment()
    assert f"of {made} lacks cv2: {command}; or unset BLENDER" in str(caught.value)


def test_packages_that_blenderproc_installed_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(blender_program, "_PACKAGES", {"cv2": "opencv-python-headless<5"})
    monkeypatch.setattr(blender_program, "_package_folders", list)
    made = blender_stand_in.make(tmp_path / "blender", packages=False)
    version = "python{}.{}".format(*sys.version_info[:2])
    installed = made.parent / "custom-python-packages/lib" / version / "site-packages"
    installed.mkdir(parents=True)
    (installed / "cv2.py").touch()
    monkeypatch.setenv(VARIABLE, str(made))
    check_environment()


def test_this_python_lacks_blenderproc(tmp_path, monkeypatch):
    monkeypatch.setattr(blender_program.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv(VARIABLE, str(blender_stand_in.make(tmp_path / "blender")))
    with pytest.raises(UserError, match=r"needs BlenderProc: pip install 'lightning-tl\[render\]'"):
        check_environment()


def test_blender_itself_is_not_checked_for_the_libraries_of_bpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "bpy", object())
    monkeypatch.setattr(check, "missing_packages", lambda: ["bpy"])
    check_environment(here=True)


def _pictures(out, pattern="*.tar"):
    return {name: data for path in sorted(out.rglob(pattern)) for name, data in read_shard(path)}


@pytest.mark.slow
@pytest.mark.render
def test_real_renders_are_those_of_the_python_package(tiny, tmp_path, monkeypatch):
    render(tiny(), tmp_path / "here", 12, workers=1)
    monkeypatch.setenv(VARIABLE, str(blender_stand_in.make(tmp_path / "blender", bpy=True)))
    render(tiny(), tmp_path / "there", 12, workers=1)
    assert shards(tmp_path / "here") == shards(tmp_path / "there")
    assert reproduce.main([str(tmp_path / "there"), "--scene", "4"]) == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "there/reproduced").iterdir()}
    assert len(again) == 10
    members = _pictures(tmp_path / "here")
    assert all(members[name.removeprefix("train-")] == content for name, content in again.items())


@pytest.mark.slow
@pytest.mark.render
def test_a_real_blender_gives_the_labels_of_the_python_package(tiny, tmp_path, monkeypatch):
    """With ``TEST_BLENDER=/path/to/blender``. Colours may differ by its version."""
    blender = os.environ.get("TEST_BLENDER")
    if not blender:
        pytest.skip("TEST_BLENDER names no Blender")
    config = tiny(image={"size": 48, "samples": 1, "denoise": False, "depth": True})
    render(config, tmp_path / "here", 12, workers=1)
    monkeypatch.setenv(VARIABLE, blender)
    render(config, tmp_path / "there", 12, workers=1)
    here, there = (_pictures(tmp_path / name) for name in ("here", "there"))
    assert here.keys() == there.keys()
    for name in here:
        if ".normal." in name or ".depth." in name:  # whole steps, of another build's rounding
            first, second = (np.asarray(Image.open(io.BytesIO(m[name])), int) for m in (here, there))
            assert np.abs(first - second).max() <= 1, name
        elif ".rgb." not in name:
            assert here[name] == there[name], name
