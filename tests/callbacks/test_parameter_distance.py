"""ParameterDistance from a checkpoint."""

import pytest
import torch

from lightning_tl.callbacks import ParameterDistance
from tests.callbacks.modules import Classifier, images, trainer
from tests.measured_values import only


def test_a_reference_by_path_that_lacks_a_layer(tmp_path):
    old = Classifier()
    del old.head
    torch.save({"state_dict": old.state_dict()}, tmp_path / "old.ckpt")
    module = Classifier()
    distance = ParameterDistance(str(tmp_path / "old.ckpt"), every_n_steps=None)
    with pytest.warns(UserWarning, match=r"leaves out parameters that its reference lacks: head.weight, head.bias"):
        trainer(max_steps=1, callbacks=[distance]).fit(module, images())
    assert "head" not in {record.group for record in distance.history}
    assert only(distance.history, 0, "param_distance", "total").value > 0
