"""The transfer card: what is known of an exported network, from files. What is unknown is left out."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning_tl._io.urls import Url, to_place
from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.config_files import read_yaml
from lightning_tl.errors import UserError
from lightning_tl.models.causal_lm import HUGGING_FACE
from lightning_tl.models.low_rank import is_adapter, is_factor
from lightning_tl.models.weights import is_statistic, network_state
from lightning_tl.sharing.rendered_hash import rendered_facts
from lightning_tl.sharing.run_results import RunResults, law_facts, run_results

_PACKAGES = ("lightning-tl", "torch", "torchvision", "timm", "lightning")
_DESCRIBED = ("task", "backbone", "in_chans", "num_classes", "transfer")
#: Sections of a configuration that say nothing about the result, and may hold keys of services.
_LEFT_OUT = ("logger", "profiler", "default_root_dir", "enable_progress_bar", "enable_model_summary")


@dataclass(frozen=True)
class CardSources:
    """Files that the card is made from, besides those of the checkpoint's run.

    Attributes:
        law: ``fits.json`` of a study, or of the law command.
        measurements: ``measurements.csv``; default: that of the run.
        license: Name of the weights' licence, as ``apache-2.0``.
    """

    law: Path | None = None
    measurements: Path | None = None
    license: str | None = None


def transfer_card(checkpoint: str | Path, weights: Path, form: str, text: str, sources: CardSources) -> dict[str, Any]:
    """Return the card as plain types.

    The run is the folder of the checkpoint, or the one above it, that has a ``config.yaml``. From there come the
    configuration, the scores, what was forgotten, and the measurements.

    Args:
        checkpoint: Path or URL.
        weights: The file that was written.
        form: Its format.
        text: What was written, in words.
        sources: Other files.

    Raises:
        UserError: A file cannot be read, or is damaged.
    """
    content = read_checkpoint(checkpoint)
    described = content.get("lightning_tl")
    described = dict(described) if isinstance(described, Mapping) else {}
    folder = run_folder(checkpoint)
    config = read_yaml(folder / "config.yaml") if folder is not None else {}
    step = content.get("global_step")
    results = run_results(folder, sources.measurements, step if isinstance(step, int) else None)
    card: dict[str, Any] = {
        "card": "lightning-tl transfer card",
        "card_version": 1,
        "about": text.splitlines()[0].replace(str(checkpoint), Path(str(checkpoint)).name),
        "license": sources.license,
        "weights": _weights(weights, form),
        "network": {key: described.get(key) for key in _DESCRIBED}
        | {"backbone_options": _options(content), "parameters": _size(content)},
        "classes": described.get("classes"),
        "preprocessing": described.get("preprocessing"),
        "training": {"steps": step, "started_from": _start(config), "data": _data(config, results)},
        "scores": results.scores,
        "forgetting": results.forgetting,
        "fragility": results.fragility,
        "law": law_facts(sources.law) if sources.law is not None else None,
        "trained_with": {"lightning": content.get("pytorch-lightning_version")},
        "exported_with": _versions(),
    }
    known: dict[str, Any] = _known(card)
    reproduce = _reproduce(config, checkpoint)
    return known | ({"reproduce": reproduce} if reproduce else {})


def card_json(card: Mapping[str, Any]) -> str:
    """Return the card as JSON."""
    return json.dumps(card, indent=2, ensure_ascii=False) + "\n"


def run_folder(checkpoint: str | Path) -> Path | None:
    """Return the folder of the run that a checkpoint belongs to; None where it is not at hand."""
    place = to_place(checkpoint)
    if isinstance(place, Url):
        return None
    folders = (place.parent, place.parent.parent)
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def _known(value: Any) -> Any:
    """Return nested data without what is None or empty."""
    if isinstance(value, Mapping):
        kept = {key: _known(entry) for key, entry in value.items()}
        return {key: entry for key, entry in kept.items() if entry is not None and entry != {} and entry != []}
    if isinstance(value, list):  # an open end of an interval stays null
        return [_known(entry) if isinstance(entry, Mapping) else entry for entry in value]
    return value


def _weights(file: Path, form: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return {"format": form, "file": file.name, "bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def _options(content: Mapping[str, Any]) -> Any:
    arguments = content.get("hyper_parameters")
    return arguments.get("backbone_options") if isinstance(arguments, Mapping) else None


def _size(content: Mapping[str, Any]) -> int:
    """Return the number of the network's own parameters."""
    state, _ = network_state(content)
    buffers = ("num_batches_tracked", "relative_position_index", "attn_mask")
    return sum(
        value.numel()
        for name, value in state.items()
        if hasattr(value, "numel")
        and value.is_floating_point()
        and not (is_factor(name) or is_adapter(name) or is_statistic(name) or name.endswith(buffers))
    )


def _lookup(config: Mapping[str, Any], *keys: str) -> Any:
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _is_text(config: Mapping[str, Any]) -> bool:
    return str(_lookup(config, "data", "class_path")).removeprefix("lightning_tl.data.") in ("Text", "TextExamples")


def _start(config: Mapping[str, Any]) -> Any:
    start = _lookup(config, "model", "init_args", "init_from")
    pretrained = _lookup(config, "model", "init_args", "pretrained")
    if start is not None:
        return str(start)
    if _is_text(config):  # "pretrained" is for models of Hugging Face, and true by default
        backbone = str(_lookup(config, "model", "init_args", "backbone"))
        return backbone if pretrained and backbone.startswith(HUGGING_FACE) else None
    if pretrained:
        return "timm's weights" if pretrained is True else f"timm's weights {pretrained}"
    return None


def _data(config: Mapping[str, Any], results: RunResults) -> dict[str, Any]:
    arguments = _lookup(config, "data", "init_args") or {}
    kind = _lookup(config, "data", "class_path")
    root = arguments.get("root")
    if _is_text(config):
        chosen = {key: arguments.get(key) for key in ("context", "tokenizer", "n", "draw")}
        return {"module": str(kind), "root": root, "samples": results.images, **chosen}
    rendered = rendered_facts(root, arguments.get("n")) if isinstance(root, str) else {}
    return {
        "module": None if kind is None else str(kind),
        "root": root,
        "images": results.images if results.images is not None else arguments.get("n"),
        **{key: arguments.get(key) for key in ("name", "fraction", "shots", "draw", "target")},
        **rendered,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _reproduce(config: Mapping[str, Any], checkpoint: str | Path) -> dict[str, Any] | None:
    if not config:
        return None
    plain = json.loads(json.dumps(config, default=str))  # a copy, of JSON's own types
    trainer = plain.get("trainer")
    if isinstance(trainer, dict):
        plain["trainer"] = {key: value for key, value in trainer.items() if key not in _LEFT_OUT}
    return {
        "command": "lightning-tl fit --config config.yaml --trainer.default_root_dir RUN",
        "checkpoint": Path(str(checkpoint)).name,
        "config": plain,
    }


def check_license(name: str | None) -> str | None:
    """Return the name of a licence.

    Raises:
        UserError: It is no identifier.
    """
    if name is not None and not (name and all(char.isalnum() or char in ".-+_" for char in name)):
        raise UserError(f"--license is '{name}'; give an identifier, as apache-2.0 or cc-by-4.0")
    return name
