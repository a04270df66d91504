"""Loads a backbone's weights from a checkpoint, with a report of matched and missing entries."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError, shortened
from lightning_tl.models.low_rank import is_adapter, is_factor, merge_updates

# Prefixes that wrappers add to the names of parameters (torch.compile, DataParallel, Lightning projects, torchvision's
# detectors).
_WRAPPERS = ("_orig_mod.", "module.", "model.", "net.", "backbone.", "body.", "encoder.")
# Classifiers of torchvision and timm, and heads: never part of a backbone.
_HEADS = ("fc.", "head.", "lm_head.", "classifier.", "fpn.")
# Keys under which checkpoints of other projects keep a network's weights; the first one present is used.
_NESTED = ("state_dict", "model_state_dict", "model", "teacher", "student", "network", "net")


@dataclass(frozen=True)
class KeyReport:
    """Which entries of a checkpoint were loaded into the backbone.

    Attributes:
        source: Where the weights came from.
        matched: Names loaded.
        missing: The backbone's names that the source lacks.
        unexpected: The source's names that the backbone lacks.
        mismatched: Name → (shape in the source, shape in the backbone).
        head: The source's names that belong to its head, which is not loaded.
        merged: Layers of which a low-rank update (LoRA) was added to the weight.
    """

    source: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    head: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)

    @property
    def fraction(self) -> float:
        """Return the share of the backbone's entries that were loaded."""
        return len(self.matched) / max(1, len(self.matched) + len(self.missing) + len(self.mismatched))

    def __str__(self) -> str:
        lines = [
            f"backbone from {self.source}: {len(self.matched)} matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.mismatched)} of another shape, {len(self.head)} of the head"
        ]
        shapes = [f"{name}: {a} there, {b} here" for name, (a, b) in self.mismatched.items()]
        if self.merged:
            lines.append(f"  low-rank updates (LoRA) added to the weights of {len(self.merged)} layers")
        for title, names in (("missing", self.missing), ("unexpected", self.unexpected), ("shapes", shapes)):
            if names:
                lines.append(f"  {title}: {', '.join(names[:5])}{f', … ({len(names)})' if len(names) > 5 else ''}")
        return "\n".join(lines)


def backbone_state(state: Mapping[str, Any], own: Container[str] = ()) -> tuple[dict[str, Tensor], list[str]]:
    """Split a state dict into its backbone's entries under the network's names, and the names of the rest.

    If there are entries under ``backbone.``, they are the backbone; else all entries outside the head are. Prefixes of
    wrappers (``_orig_mod.``, ``module.``, ``model.``, …) are removed.

    Args:
        state: Of a network.
        own: The backbone's own names, where they are known. They stay as they are, also where they look like those of
            a head (``head.norm.weight`` of a ConvNeXt) or of a wrapper.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    inside = {name for name in tensors if ".backbone." in f".{name}".replace("._orig_mod.", ".")}
    backbone: dict[str, Tensor] = {}
    rest: list[str] = []
    for name, value in tensors.items():
        if inside and name not in inside:
            rest.append(name)
            continue
        short = name
        while short not in own and short.startswith(_WRAPPERS):
            short = short.split(".", 1)[1]
        short = short.replace("_orig_mod.", "")
        if short not in own and short.startswith(_HEADS):
            rest.append(name)
        else:
            backbone[short] = value
    return backbone, rest


def network_state(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return the entries of a checkpoint that are a network's, and the key they are kept under (empty: at its top)."""

    def holds_tensors(value: Any) -> bool:
        return isinstance(value, Mapping) and any(isinstance(entry, Tensor) for entry in value.values())

    for key in _NESTED:
        if holds_tensors(content.get(key)):
            return content[key], key
    if not holds_tensors(content):
        others = [key for key, value in content.items() if holds_tensors(value)]
        if len(others) == 1:
            return content[others[0]], others[0]
    return content, ""


def _may_lack(name: str) -> bool:
    """Whether a source may lack an entry.

    BatchNorm's counters do not affect the outputs, and older files of torchvision lack them; what transfer methods add
    changes no output as long as it is new.
    """
    return name.endswith("num_batches_tracked") or is_factor(name) or is_adapter(name)


def is_statistic(name: str) -> bool:
    """Return whether a buffer has BatchNorm's running statistics, which are as finite as weights."""
    return name.endswith(("running_mean", "running_var"))


def tensor_problem(there: Tensor, here: Tensor, finite: bool = True) -> str:
    """Return why a tensor of a checkpoint cannot take the place of a module's; empty if it can.

    Args:
        there: The checkpoint's.
        here: The module's.
        finite: Whether all values must be finite.
    """
    if there.layout != torch.strided or there.device.type != "cpu" or there.is_quantized:
        return "is no plain tensor of numbers"
    if there.shape != here.shape:
        return f"is {list(there.shape)} there and {list(here.shape)} here"
    if there.is_floating_point() != here.is_floating_point() or there.is_complex() != here.is_complex():
        kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (there, here)]
        return f"is of {kinds[0]} there and {kinds[1]} here: these are no weights to go on from"
    if finite and there.is_floating_point() and not bool(torch.isfinite(there).all()):
        wrong = int((~torch.isfinite(there)).sum())
        return f"has {wrong} of {there.numel()} values that are not finite: its training diverged"
    return ""


def _under(key: str) -> str:
    return f" (under '{key}')" if key not in ("", "state_dict") else ""


def load_backbone(
    source: str | Path | Mapping[str, Any], backbone: nn.Module, min_fraction: float = 0.9, source_name: str = ""
) -> KeyReport:
    """Copy a checkpoint's backbone into ``backbone``, in place.

    Low-rank updates of a checkpoint (LoRA) are added to its weights. What a transfer method has added to ``backbone``,
    and the checkpoint lacks, stays as it is.

    Args:
        source: A checkpoint of any task of this library, of Lightning, or a state dict of torchvision or timm, as a
            file or already in memory.
        backbone: The module to fill.
        min_fraction: Smallest share of the backbone's entries that the source must have in the right shape.
        source_name: How messages call a source that is no file.

    Returns:
        The matched, missing, unexpected and mismatched entries.

    Raises:
        UserError: Fewer than ``min_fraction`` of the entries fit, as for a checkpoint of another backbone; or an entry
            has another shape, as for another number of channels; or the source has other bottleneck adapters
            than the backbone. Then nothing is copied.
    """
    content = read_checkpoint(source) if isinstance(source, str | Path) else dict(source)
    state, key = network_state(content)
    entries, head = backbone_state(state, backbone.state_dict().keys())
    place = str(source) if isinstance(source, str | Path) else source_name or "a state dict"
    entries, merged = merge_updates(entries, place)
    own = {name: value for name, value in backbone.state_dict().items() if name in entries or not _may_lack(name)}
    for name, value in entries.items():
        if is_adapter(name) and (name not in own or own[name].shape != value.shape):
            raise UserError(
                f"{place}: its backbone has bottleneck adapters ({name} {list(value.shape)}, …), which cannot be "
                "merged into the weights; use the checkpoint that it was fine-tuned from, or the same adapters here "
                "(--model.transfer)"
            )
    shapes = {name: (tuple(entries[name].shape), tuple(own[name].shape)) for name in own if name in entries}
    report = KeyReport(
        source=place + _under(key),
        matched=[name for name, (there, here) in shapes.items() if there == here],
        missing=[name for name in own if name not in entries],
        unexpected=[name for name in entries if name not in own],
        mismatched={name: pair for name, pair in shapes.items() if pair[0] != pair[1]},
        head=head,
        merged=merged,
    )
    if not entries and not head:
        found = shortened(", ".join(map(str, content))) or "nothing"
        raise UserError(
            f"{report.source} holds no weights of a network; it has {found}. "
            f"Give a checkpoint, or a state dict (also under one of the keys {', '.join(_NESTED)})"
        )
    if report.mismatched and report.fraction >= min_fraction:
        first, (there, here) = next(iter(report.mismatched.items()))
        hint = f": the checkpoint has in_chans={there[1]}; use the same here" if first == "conv1.weight" else ""
        raise UserError(f"{report.source}: {first} is {there} there and {here} here{hint}.\n{report}")
    if report.fraction < min_fraction:
        made_by = content.get("lightning_tl")
        held = made_by.get("backbone") if isinstance(made_by, Mapping) else None
        name = f" (it holds a '{shortened(held)}')" if held else ""
        raise UserError(
            f"{report.source} is a checkpoint of another backbone{name}: "
            f"{report.fraction:.0%} of the entries fit, {min_fraction:.0%} are needed.\n{report}"
        )
    for name in report.matched:
        if problem := tensor_problem(entries[name], own[name]):
            raise UserError(f"{report.source}: {name} {problem}; use another checkpoint")
    backbone.load_state_dict({name: entries[name] for name in report.matched}, strict=False)
    return report


def load_head(source: str | Path | Mapping[str, Any], head: nn.Module, source_name: str = "") -> None:
    """Copy the head of a checkpoint of this library into ``head``, in place.

    Args:
        source: The checkpoint, as a file or already in memory.
        head: The module to fill.
        source_name: How messages call a source that is no file.

    Raises:
        UserError: The checkpoint has no head with these names and shapes.
    """
    state, _ = network_state(read_checkpoint(source) if isinstance(source, str | Path) else dict(source))
    theirs = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
    own = head.state_dict()
    different = sorted(own.keys() ^ theirs.keys())
    problem = f"{different[0]} is only in one of the two" if different else ""
    for name in () if different else own:
        problem = problem or (f"{name} {reason}" if (reason := tensor_problem(theirs[name], own[name])) else "")
    if problem:
        raise UserError(
            f"{source_name or source}: its head does not fit ({problem}); use data with the same vocabulary, or a new "
            "head (--model.keep_head false)"
        )
    head.load_state_dict(theirs)
