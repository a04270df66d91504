"""Built-in texts of a study: all its runs read what was installed when it began, and their keys name it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_tl._io.locks import waiting_lock
from lightning_tl.study.config import Stage, Study
from lightning_tl.study.plan import merged_config
from lightning_tl.study.records import load_json, write_json
from lightning_tl.study.shapes import PinnedTexts

_FILE = "texts.json"
_ROOT, _TOKENIZER = "data.root", "data.tokenizer"


def with_pinned_texts(study: Study, out: Path, record: bool = False) -> Study:
    """Return a study whose built-in texts are named with their hash, ``builtin:NAME@HASH``.

    Args:
        study: The study.
        out: Its folder. Texts that are recorded there stay the same, also where packages were installed since.
        record: Whether to record the texts there.

    Raises:
        UserError: There is no such text, or this machine lacks its files.
    """
    recorded = load_json(out / _FILE, missing={"texts": {}}, shape=PinnedTexts)["texts"]
    texts = dict(recorded)
    pinned = replace(
        study,
        pretrain=None if study.pretrain is None else _pinned(study.pretrain, texts),
        finetune=_pinned(study.finetune, texts),
    )
    if record and texts != recorded:
        with waiting_lock(out / "locks" / _FILE):
            first = load_json(out / _FILE, missing={"texts": {}}, shape=PinnedTexts)["texts"]
            write_json(out / _FILE, {"texts": texts | first})
        if first != recorded:  # another command has recorded them meanwhile
            return with_pinned_texts(study, out)
    return pinned


def _pinned(stage: Stage, texts: dict[str, str]) -> Stage:
    if _TOKENIZER in stage.axes or "data" in stage.axes:
        return stage
    merged = merged_config(stage, {}, "the study", classes=True).get("data")
    data = {**(merged.get("init_args") or {}), **merged} if isinstance(merged, dict) else {}
    tokenizer = data.get("tokenizer") or "ascii"

    def named(root: Any) -> Any:
        from lightning_tl.corpus.builtin import PREFIX, pinned_source

        if not isinstance(root, str) or not root.startswith(PREFIX):
            return root
        name = f"{root} {tokenizer}"
        if name not in texts:
            texts[name] = pinned_source(root, tokenizer)
        return texts[name]

    def in_axes(axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {key: [named(value) for value in values] if key == _ROOT else values for key, values in axes.items()}

    root = named(data.get("root"))
    own = {} if _ROOT in stage.axes or root == data.get("root") else {_ROOT: root}
    return replace(
        stage, set=stage.set | own, product=in_axes(stage.product), zip=[in_axes(group) for group in stage.zip]
    )
