"""LightningModules: the bases to subclass for a new task, and one file a task."""

from lightning_tl.tasks.base import TransferTask
from lightning_tl.tasks.classification import Classification, MultiLabelClassification
from lightning_tl.tasks.dense import DensePrediction
from lightning_tl.tasks.detection import ObjectDetection
from lightning_tl.tasks.image_results import ImageResults, MeanScores, SumScores
from lightning_tl.tasks.language import CausalLanguageModel
from lightning_tl.tasks.lr_schedules import Cosine, Polynomial, Schedule, WarmupCosine
from lightning_tl.tasks.normals import SurfaceNormals
from lightning_tl.tasks.segmentation import SemanticSegmentation
from lightning_tl.tasks.text_classification import TextClassification

__all__ = [
    "CausalLanguageModel",
    "Classification",
    "Cosine",
    "DensePrediction",
    "ImageResults",
    "MeanScores",
    "MultiLabelClassification",
    "ObjectDetection",
    "Polynomial",
    "Schedule",
    "SemanticSegmentation",
    "SumScores",
    "SurfaceNormals",
    "TextClassification",
    "TransferTask",
    "WarmupCosine",
]
