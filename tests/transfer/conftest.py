from pathlib import Path

import pytest
from transferred import pretrained


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a pre-trained network for several labels."""
    return pretrained(tmp_path_factory.mktemp("start") / "pre.ckpt")
