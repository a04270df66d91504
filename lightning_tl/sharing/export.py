"""Writes the network of a checkpoint, or a part of it, as files that other projects read, with its transfer card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError, nearest
from lightning_tl.models.low_rank import is_adapter, merge_updates
from lightning_tl.models.weights import backbone_state, network_state, tensor_problem
from lightning_tl.sharing.card_page import card_page
from lightning_tl.sharing.graphs import write_onnx, write_torchscript
from lightning_tl.sharing.hugging_face_folder import write_hugging_face_folder
from lightning_tl.sharing.safetensors_file import write_safetensors
from lightning_tl.sharing.timm_folder import write_timm_folder
from lightning_tl.sharing.torchvision_names import torchvision_state
from lightning_tl.sharing.trained_network import trained_network
from lightning_tl.sharing.transfer_card import CardSources, card_json, transfer_card


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        file: Name of the file with the weights, in a folder of its own.
        folder: Whether ``--out`` is a folder.
        about: What is written.
    """

    file: str
    folder: bool
    about: str


#: What can be written, by the name of the format.
FORMATS = {
    "backbone": Format("backbone.pt", False, "state dict of the backbone, by its own names"),
    "torchvision": Format("torchvision.pt", False, "state dict of the network, by torchvision's names"),
    "timm": Format("model.safetensors", True, "folder of the network, for timm.create_model"),
    "safetensors": Format("model.safetensors", False, "weights of the whole network as safetensors"),
    "onnx": Format("model.onnx", False, "the whole network as an ONNX graph"),
    "torchscript": Format("model.torchscript.pt", False, "the whole network as a TorchScript graph"),
    "huggingface": Format(
        "model.safetensors", True, "folder of a language model, for Hugging Face's AutoModelForCausalLM"
    ),
}


def export(
    checkpoint: str | Path,
    out: Path,
    form: str = "backbone",
    size: int | None = None,
    sources: CardSources | None = None,
) -> str:
    """Write a checkpoint's network, or a part of it, as new files.

    Low-rank updates (LoRA) are added to the weights. Beside the weights the transfer card is written, as JSON and as
    Markdown: ``transfer_card.json`` and ``README.md`` in a folder, ``NAME.transfer_card.json`` and ``.md`` beside a
    file.

    Args:
        checkpoint: Of any task; for ``backbone`` also of Lightning, or a state dict. A path or URL.
        out: The file or folder.
        form: One of :data:`FORMATS`.
        size: For ``onnx`` and ``torchscript``: side of the images, pixels; default: that of the checkpoint's
            preprocessing.
        sources: What else the card is made from.

    Returns:
        What was written.

    Raises:
        UserError: The format is unknown; the checkpoint cannot be read, holds no such network, or one that is damaged
            or has bottleneck adapters; a file of the card cannot be read; ``out`` exists.
    """
    made, text = _export_beside(checkpoint, out, form, size, sources or CardSources())
    with made as folder:
        place = Path(folder)
        names = {"transfer_card.json": f"{out.stem}.transfer_card.json", "README.md": f"{out.stem}.transfer_card.md"}
        if FORMATS[form].folder:
            (place / "export").rename(out)
        else:
            cards = [(place / "export" / name, out.with_name(beside)) for name, beside in names.items()]
            for written, target in (*cards, (place / "export" / FORMATS[form].file, out)):
                written.replace(target)
    return text


def export_folder(
    checkpoint: str | Path, folder: Path, form: str, size: int | None = None, sources: CardSources | None = None
) -> str:
    """Write what :func:`export` writes into a folder of its own, under the names that hubs expect.

    Args:
        checkpoint: As of :func:`export`, as are ``form``, ``size`` and ``sources``.
        folder: New folder.
        form: The format.
        size: Side of the images, pixels.
        sources: What else the card is made from.

    Returns:
        What was written.

    Raises:
        UserError: As :func:`export`.
    """
    made, text = _export_beside(checkpoint, folder, form, size, sources or CardSources())
    with made as beside:
        (Path(beside) / "export").rename(folder)
    return text


def _export_beside(
    checkpoint: str | Path, out: Path, form: str, size: int | None, sources: CardSources
) -> tuple[tempfile.TemporaryDirectory[str], str]:
    """Write all files into the folder ``export`` of a temporary folder beside ``out``."""
    if form not in FORMATS:
        raise UserError(f"export: no format '{form}'{nearest(form, FORMATS)}")
    if size is not None and size < 8:
        raise UserError(f"--size is {size}; it must be at least 8 px")
    if size is not None and form not in ("onnx", "torchscript"):
        raise UserError(f"--size is for the formats onnx and torchscript; --format {form} has images of any size")
    if out.exists():
        raise UserError(f"export: --out {out} exists already; give another name, or delete it")
    out.parent.mkdir(parents=True, exist_ok=True)
    made = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    try:
        folder = Path(made.name) / "export"
        text = _WRITERS[form](checkpoint, folder, size)
        card = transfer_card(checkpoint, folder / FORMATS[form].file, form, text, sources)
        (folder / "transfer_card.json").write_text(card_json(card), encoding="utf-8")
        (folder / "README.md").write_text(card_page(card), encoding="utf-8")
    except BaseException:
        made.cleanup()
        raise
    return made, text


def _backbone(checkpoint: str | Path, folder: Path, size: int | None) -> str:
    state, text = plain_backbone(checkpoint)
    folder.mkdir()
    torch.save(state, folder / FORMATS["backbone"].file)
    return text


def _torchvision(checkpoint: str | Path, folder: Path, size: int | None) -> str:
    network = trained_network(checkpoint, "torchvision")
    state, call = torchvision_state(network)
    folder.mkdir()
    plain = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    torch.save(plain, folder / FORMATS["torchvision"].file)
    return f"weights of {checkpoint} for {call}: {len(state)} entries{_merged(network.merged)}"


def _timm(checkpoint: str | Path, folder: Path, size: int | None) -> str:
    network = trained_network(checkpoint, "timm")
    folder.mkdir()
    call = write_timm_folder(network, folder)
    return f"{network.task.backbone_name} of {checkpoint}, for {call}{_merged(network.merged)}"


def _safetensors(checkpoint: str | Path, folder: Path, size: int | None) -> str:
    state, _ = network_state(read_checkpoint(checkpoint))
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"export: checkpoint {checkpoint} holds no weights")
    merged, layers = merge_updates(tensors, f"checkpoint {checkpoint}")
    _check(merged, checkpoint)
    folder.mkdir()
    write_safetensors(folder / FORMATS["safetensors"].file, merged)
    values = sum(tensor.numel() for tensor in merged.values())
    return f"network of {checkpoint}: {len(merged)} entries, {values:,} numbers{_merged(len(layers))}"


def _onnx(checkpoint: str | Path, folder: Path, size: int | None) -> str:
    network = trained_network(checkpoint, "onnx")
    folder.mkdir()
    return f"network of {checkpoint} as ONNX: {write_onnx(network, folder / FORMATS['onnx'].file, size)}"


def _torchscript(checkpoint: str | Path, folder: Path, size: int | None) -> str:
    network = trained_network(checkpoint, "torchscript")
    folder.mkdir()
    path = folder / FORMATS["torchscript"].file
    return f"network of {checkpoint} as TorchScript: {write_torchscript(network, path, size)}"


def _huggingface(checkpoint: str | Path, folder: Path, size: int | None) -> str:
    return write_hugging_face_folder(checkpoint, folder)


_WRITERS: dict[str, Callable[[str | Path, Path, int | None], str]] = {
    "backbone": _backbone,
    "torchvision": _torchvision,
    "timm": _timm,
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torchscript": _torchscript,
    "huggingface": _huggingface,
}


def _merged(layers: int) -> str:
    return f"\n  low-rank updates (LoRA) added to the weights of {layers} layers" if layers else ""


def _check(state: dict[str, Tensor], checkpoint: str | Path) -> None:
    for name, tensor in state.items():
        if problem := tensor_problem(tensor, tensor):
            raise UserError(f"export: checkpoint {checkpoint}: {name} {problem}; use another checkpoint")


def plain_backbone(checkpoint: str | Path) -> tuple[dict[str, Tensor], str]:
    """Return the backbone's state dict of a checkpoint, with low-rank updates merged, and a report.

    Args:
        checkpoint: Path or URL.

    Raises:
        UserError: As :func:`export`.
    """
    content = read_checkpoint(checkpoint)
    network, _ = network_state(content)
    # in a checkpoint of this library all below "backbone." is the backbone, whatever its name looks like
    own = [name for name in network if name.startswith("backbone.")] if "lightning_tl" in content else []
    state, head = backbone_state(network, {name.removeprefix("backbone.") for name in own})
    if not state:
        raise UserError(f"export: checkpoint {checkpoint} holds no weights of a backbone")
    if adapters := [name for name in state if is_adapter(name)]:
        raise UserError(
            f"export: the backbone of checkpoint {checkpoint} has bottleneck adapters ({adapters[0]}, …), which cannot "
            "be merged into its weights; export the checkpoint that it was fine-tuned from, or use LoRA"
        )
    merged, layers = merge_updates(state, f"checkpoint {checkpoint}")
    _check(merged, checkpoint)
    plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in merged.items()}
    values = sum(tensor.numel() for tensor in plain.values())
    text = f"backbone of {checkpoint}: {len(plain)} entries, {values:,} numbers; {len(head)} of the head left out"
    return plain, text + _merged(len(layers))
