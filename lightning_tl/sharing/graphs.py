"""A network as a graph that runs without its code: ONNX and TorchScript."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl._io.atomic import replacing
from lightning_tl.errors import UserError, one_line, shortened
from lightning_tl.sharing.trained_network import TrainedNetwork
from lightning_tl.tasks import ObjectDetection

#: Largest difference between the graph's outputs and the network's, over the largest output.
TOLERANCE = 1e-5


def write_onnx(network: TrainedNetwork, path: Path, size: int | None = None) -> str:
    """Write an ONNX file: input ``images`` ``[batch, in_chans, size, size]``, output ``outputs``; any batch.

    Where onnxruntime is installed, its outputs are compared with the network's.

    Args:
        network: The network.
        path: New file, in an existing folder.
        size: Side of the images, pixels; default: that of the checkpoint's preprocessing.

    Returns:
        The shapes, and whether the outputs were compared.

    Raises:
        UserError: A package is missing, the size is not known, the network cannot be exported, or its outputs differ.
    """
    for package in ("onnx", "onnxscript"):
        try:
            import_module(package)
        except ImportError:
            raise UserError(
                f"--format onnx needs the package {package}; install it with: pip install 'lightning-tl[onnx]'"
            ) from None
    model, images = _prepared(network, "onnx", size)
    with _explained("onnx"), replacing(path) as beside:
        batch = torch.export.Dim("batch")
        torch.onnx.export(
            model,
            (images,),
            beside,
            input_names=["images"],
            output_names=["outputs"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    try:
        runtime: Any = import_module("onnxruntime")
    except ImportError:
        return f"{_shapes(images)}; not compared: onnxruntime is not installed"
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": inputs.numpy()})[0])

    return f"{_shapes(images)}; {_compared(model, run, images, path)} by onnxruntime"


def write_torchscript(network: TrainedNetwork, path: Path, size: int | None = None) -> str:
    """Write a TorchScript file, which ``torch.jit.load`` reads, for images ``[batch, in_chans, size, size]``.

    Args:
        network: The network.
        path: New file, in an existing folder.
        size: Side of the images, pixels; default: that of the checkpoint's preprocessing.

    Returns:
        The shapes, and that the outputs were compared.

    Raises:
        UserError: The size is not known, the network cannot be exported, or its outputs differ.
    """
    model, images = _prepared(network, "torchscript", size)
    with _explained("torchscript"), replacing(path) as beside:
        traced: Any = torch.jit.trace(model, images, check_trace=False)
        traced.save(str(beside))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again: Any = torch.jit.load(str(path))
    return f"{_shapes(images)}; {_compared(model, again, images, path)}"


class _Inference(nn.Module):
    """A task's outputs for images, without what only training needs."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.backbone, self.head = task.backbone, task.head
        self._task = (task,)  # in a tuple, so that it is no part of the graph

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self._task[0](images)
        return outputs


def _prepared(network: TrainedNetwork, form: str, size: int | None) -> tuple[nn.Module, Tensor]:
    """Return what is exported, and two images."""
    if isinstance(network.task, ObjectDetection):
        raise UserError(
            f"export: --format {form} is not for detection, whose number of boxes varies; use --format torchvision"
        )
    side = network.image_size(size)
    if side is None:
        raise UserError("export: the checkpoint does not say how large its images are: give --size, pixels")
    task = copy.deepcopy(network.task)
    task.memory_format = torch.contiguous_format
    model = _Inference(task).eval().to(memory_format=torch.contiguous_format)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    return model, torch.rand(2, network.task.in_chans, side, side, generator=generator)


@contextmanager
def _explained(form: str) -> Iterator[None]:
    """Mute the exporter; raise its errors as a ``UserError``."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except (UserError, OSError):
        raise
    except Exception as error:  # of the exporter, in many ways
        raise UserError(
            f"export: PyTorch cannot write this network as {form} ({type(error).__name__}: "
            f"{shortened(one_line(error), 300)}); use --format safetensors"
        ) from error
    finally:
        logger.setLevel(level)


def _shapes(images: Tensor) -> str:
    return f"images [batch, {', '.join(map(str, images.shape[1:]))}]"


@torch.no_grad()
def _compared(model: nn.Module, other: Callable[[Tensor], Tensor], images: Tensor, path: Path) -> str:
    """Compare outputs on one, two and three images; return the largest difference."""
    worst = 0.0
    for inputs in (images[:1], images, torch.cat([images, images[:1].flip(-1)])):
        ours, theirs = model(inputs), other(inputs)
        worst = max(worst, float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12)))
    if not worst <= TOLERANCE:
        path.unlink()
        raise UserError(f"export: the outputs of the written graph differ by {worst:.1e} from the network's: not kept")
    return f"outputs differ by at most {worst:.1e} of the largest"
