"""A training that passes a gate before each step and before each checkpoint (see ``data_gen/scene_gate.py``)."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback
from scene_gate import pass_gate

OVERLAY = "trainer: {callbacks+: [{class_path: step_gate.StepGate}]}\n"  # a configuration that adds it


class StepGate(Callback):
    """Passes the gate; without one it does nothing."""

    def on_train_batch_start(self, *_: Any) -> None:
        pass_gate()

    def on_save_checkpoint(self, *_: Any) -> None:
        pass_gate()
