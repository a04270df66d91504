import pytest

from data_gen import devices
from data_gen.devices import choose_device, default_workers, gpu_of, visible_gpus
from lightning_tl.errors import UserError


@pytest.mark.parametrize(
    ("wanted", "available", "chosen"),
    [
        ("cpu", {"OPTIX": ["a"], "CUDA": ["a"]}, "CPU"),
        ("auto", {"OPTIX": ["a"], "CUDA": ["a"]}, "OPTIX"),
        ("auto", {"OPTIX": [], "CUDA": ["a"]}, "CUDA"),
        ("auto", {"OPTIX": [], "CUDA": []}, "CPU"),
        ("cuda", {"OPTIX": ["a"], "CUDA": ["a"]}, "CUDA"),
        ("optix", {"OPTIX": ["a"], "CUDA": ["a"]}, "OPTIX"),
    ],
)
def test_the_choice_of_a_device(wanted, available, chosen):
    assert choose_device(wanted, available) == chosen


def test_a_device_that_is_not_there():
    with pytest.raises(
        UserError, match=r"'image\.device' is optix, but .* \(it finds: cuda\): see whether `nvidia-smi`"
    ):
        choose_device("optix", {"OPTIX": [], "CUDA": ["a"]})
    with pytest.raises(UserError, match=r"\(it finds: none\)"):
        choose_device("cuda", {})


def test_the_gpus_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, GPU-abc")
    assert visible_gpus() == ["1", "GPU-abc"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert visible_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(devices.shutil, "which", lambda name: str(tool))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert visible_gpus() == ["0", "1"]


def test_one_worker_a_gpu_or_a_core(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 7)
    assert [default_workers(d) for d in ("optix", "auto", "cpu")] == [3, 3, 7]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert default_workers("auto") == 7


def test_workers_take_turns_on_gpus():
    assert [gpu_of(i, "cuda", ["0", "1"]) for i in range(3)] == ["0", "1", "0"]
    assert gpu_of(0, "cpu", ["0"]) is None
    assert gpu_of(0, "auto", []) is None
