"""LightningModules: the base to subclass for a new task, and one file a task."""

from lightning_tl.tasks.base import TransferTask
from lightning_tl.tasks.classification import Classification, MultiLabelClassification
from lightning_tl.tasks.schedules import WarmupCosine

__all__ = ["Classification", "MultiLabelClassification", "TransferTask", "WarmupCosine"]
