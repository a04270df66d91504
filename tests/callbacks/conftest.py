import os
import warnings

import pytest
import torch

for noise in (
    ".*num_workers.*",
    ".*GPU available.*",
    ".*tensorboard.*",
    ".*log_every_n_steps.*",
    ".*exists and is not.*",
):
    warnings.filterwarnings("ignore", message=noise)


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    """Run in an empty folder, and fail where a test leaves files outside it."""
    before = set(os.listdir())
    here = os.getcwd()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    yield
    assert set(os.listdir(here)) <= before | {".pytest_cache", "__pycache__"}
