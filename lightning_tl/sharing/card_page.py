"""The transfer card as a Markdown page, with the header that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from lightning_tl.markdown import code, escaped, table

_LIBRARIES = {"timm": "timm", "huggingface": "transformers", "onnx": "onnx"}
_TASKS = {
    "Classification": "image-classification",
    "MultiLabelClassification": "image-classification",
    "ObjectDetection": "object-detection",
    "SemanticSegmentation": "image-segmentation",
    "CausalLanguageModel": "text-generation",
}


def card_page(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown; a part that is unknown has no section.

    Args:
        card: Of :func:`~lightning_tl.sharing.transfer_card.transfer_card`.
    """
    return f"---\n{_header(card)}---\n\n" + "\n\n".join(_sections(card)) + "\n"


def _header(card: Mapping[str, Any]) -> str:
    network = card.get("network", {})
    task = _TASKS.get(str(network.get("task")))
    header = {
        "library_name": _LIBRARIES.get(card["weights"]["format"], "lightning-tl"),
        "tags": ["lightning-tl"],
        "pipeline_tag": task,
        "license": card.get("license"),
    }
    return yaml.safe_dump({key: value for key, value in header.items() if value}, sort_keys=False)


def _sections(card: Mapping[str, Any]) -> Iterator[str]:
    network = card.get("network", {})
    yield f"# {escaped(' on '.join(str(network[key]) for key in ('task', 'backbone') if key in network) or 'Weights')}"
    yield escaped(card["about"]) + "."
    yield "## Weights\n\n" + _facts(card["weights"])
    if network:
        yield "## Network\n\n" + _facts(network)
    if "classes" in card:
        listed = "\n".join(f"{number}. {escaped(name)}" for number, name in enumerate(card["classes"]))
        yield f"## Classes\n\nIn the order of the outputs:\n\n{listed}"
    if "preprocessing" in card:
        yield "## Preprocessing of images\n\nIn this order:\n\n" + _facts(card["preprocessing"])
    if "training" in card:
        yield "## Training\n\n" + _facts(card["training"])
    if "scores" in card:
        yield "## Scores\n\n" + _facts(card["scores"])
    if "law" in card:
        yield "## Scaling law of the transfer\n\n" + "\n\n".join(map(_law, card["law"]))
    if "forgetting" in card:
        yield "## Forgetting\n\n" + _facts(card["forgetting"])
    if "fragility" in card:
        heads = ("quantity", "gamma", "value", "standard error", "step")
        keys = ("quantity", "gamma", "value", "stderr", "step")
        rows = [[_text(row.get(key)) for key in keys] for row in card["fragility"]]
        yield "## Fragility\n\n" + table(heads, rows)
    if "reproduce" in card:
        reproduce = card["reproduce"]
        config = yaml.safe_dump(reproduce["config"], sort_keys=False, allow_unicode=True)
        yield (
            "## How to reproduce\n\n"
            + code(reproduce["command"], "")
            + "\n\nwith this `config.yaml`:\n\n"
            + code(config, "yaml")
        )
    versions = {"trained with": card.get("trained_with", {}), "exported with": card.get("exported_with", {})}
    yield "## Versions\n\n" + _facts({key: value for key, value in versions.items() if value})


def _law(law: Mapping[str, Any]) -> str:
    rows = []
    for name, each in law["parameters"].items():
        low, high = (("unbounded" if end is None else _text(end)) for end in each["interval"])
        note = "" if each["identified"] else f"not identified: {each.get('reason', '')}".rstrip(": ")
        rows.append([name, _text(each.get("value")), f"{low} to {high}", note])
    level = f"{100 * law['level']:g} % interval" if law.get("level") is not None else "interval"
    parts = [f"**{escaped(law['label'])}**: {escaped(law['formula'])}", table(("", "value", level, ""), rows)]
    parts += [" ".join(escaped(sentence) for sentence in law["sentences"])] if law.get("sentences") else []
    return "\n\n".join(parts)


def _facts(facts: Mapping[str, Any]) -> str:
    rows = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            rows += [[f"{key}: {name}", _text(entry)] for name, entry in value.items()]
        else:
            rows.append([key, _text(value)])
    return table(("", ""), rows)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value)
