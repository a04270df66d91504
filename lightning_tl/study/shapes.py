"""Shapes of the files that a study writes and reads again, as dataclasses, and a check of a file's content by them."""

from __future__ import annotations

import types
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from lightning_tl._io.files import is_inside
from lightning_tl.errors import shortened

_DEEPEST = 60
_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


@dataclass
class _Shard:
    images: int
    sha256: str = ""


@dataclass
class Shards:
    """``manifest.json`` of a split, as far as a plan needs it."""

    shards: list[_Shard]


@dataclass
class _Measurement:
    step: int
    quantity: str
    value: float | None
    group: str = ""
    gamma: float | None = None
    stderr: float | None = None


@dataclass
class _Interpolation:
    alpha: float
    val_error: float
    error: float | None = None
    pretrain_loss: float | None = None


@dataclass
class RunRecord:
    """``record.json`` of a finished run."""

    key: str
    checkpoint: str
    metrics: dict[str, float]
    facts: dict[str, str | float | bool | None]
    seconds: float
    measurements: list[_Measurement] = field(default_factory=list)
    error_replicates: list[float] = field(default_factory=list)
    interpolations: list[_Interpolation] = field(default_factory=list)


@dataclass
class RunState:
    """``state.json`` of a run in progress."""

    key: str
    time: float
    folder: str = ""
    host: str = ""
    status: str = ""
    error: str = ""
    step: int = 0
    steps: int = 0
    spent: float = 0.0


@dataclass
class _Tried:
    chosen: Any
    tried: list[tuple[Any, float]]


@dataclass
class _Chosen:
    key: str


@dataclass
class _Settings:
    title: str = ""
    choose: _Chosen | None = None


@dataclass
class _Falling:
    metric: str
    drop: float
    interval: tuple[float, float] | None
    runs: int


@dataclass
class Begun:
    """A pre-training that a step begins."""

    group: str
    n: float
    seed: str
    why: str


@dataclass
class _Look:
    runs: int
    confidence: float


@dataclass
class _Decision:
    group: str
    state: str
    answer: str
    confidence: float
    threshold: float
    looks: int
    why: str


@dataclass
class Step:
    """A look at the results so far, and the pre-trainings that are begun after it."""

    settings: str
    question: str
    done: bool
    reason: str
    runs: int
    cost: float
    hours: float
    decisions: list[_Decision]
    looks: list[_Look]
    notes: list[str]
    batch: list[Begun]


@dataclass
class _Spent:
    runs: int
    cost: float
    hours: float | None


@dataclass
class Steps:
    """The steps of a study with ``until``."""

    content: str
    asked: str
    taken: list[Step]
    grid: _Spent
    spent: _Spent


@dataclass
class PinnedTexts:
    """``texts.json``: built-in text and tokenizer → the text with its hash."""

    texts: dict[str, str]


@dataclass
class StudyFacts:
    """``study.json``."""

    study: _Settings = field(default_factory=_Settings)
    seconds: dict[str, float] = field(default_factory=dict)
    chosen: dict[str, _Tried] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    still_falling: dict[str, _Falling] = field(default_factory=dict)
    tested_on_validation: list[str] = field(default_factory=list)
    checkpoints: dict[str, list[str]] = field(default_factory=dict)
    cores: int | None = None
    steps: Steps | None = None


@dataclass
class _Parameter:
    value: float | None
    identified: bool
    interval: tuple[float | None, float | None]
    reason: str | None


@dataclass
class _Form:
    formula: str


@dataclass
class _Law:
    form: _Form
    params: dict[str, _Parameter]


@dataclass
class _Advice:
    verdict: str = ""
    sentences: list[str] = field(default_factory=list)


@dataclass
class _Group:
    label: str
    law: _Law | None
    advice: _Advice | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class _Comparison:
    sentence: str = ""


@dataclass
class Fits:
    """``fits.json``, as far as reports need it."""

    advice: list[str]
    groups: list[_Group]
    pretraining: list[str] = field(default_factory=list)
    comparisons: list[_Comparison] = field(default_factory=list)


@dataclass
class _Figure:
    file: str
    caption: str


@dataclass
class _Table:
    title: str
    heads: list[str]
    rows: list[list[str]]


@dataclass
class _Overview:
    heads: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass
class AnalysisRecord:
    """``overtraining.json`` or ``transfer_methods.json``, as far as reports need it."""

    answer: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    overview: _Overview | None = None
    figures: list[_Figure] = field(default_factory=list)
    tables: list[_Table] = field(default_factory=list)


@dataclass
class _Entropy:
    value: float
    interval: tuple[float, float]
    images: int


@dataclass
class ComplexityEntry:
    """One rendering's entry in ``complexity.json``."""

    key: str
    checkpoint: str
    entropy: _Entropy


def problem(content: Any, shape: Any) -> str:
    """Return where a JSON content differs from a shape; empty if it does not.

    Args:
        content: The content.
        shape: A dataclass (a field without default must be there; further keys may be), or a type of its fields.
    """
    if _too_deep(content):
        return "it is nested too deeply"
    difference = _differs(content, shape, "")
    if not difference and shape is RunRecord and content["checkpoint"] and not is_inside(content["checkpoint"]):
        return f"checkpoint leads out of the folder: {shortened(content['checkpoint'])}"
    return difference


def _too_deep(content: Any) -> bool:
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True


def _differs(value: Any, kind: Any, where: str) -> str:
    if kind is Any:
        return ""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        differences = [_differs(value, part, where) for part in parts]
        return "" if "" in differences else min(differences, key=lambda text: (text.startswith(f"{where}: "), text))
    if is_dataclass(kind):
        return _differs_from_dataclass(value, kind, where)
    if origin is list:
        if not isinstance(value, list):
            return _wrong(value, where, "a list")
        items = ((each, parts[0], f"{where}[{place}]") for place, each in enumerate(value))
    elif origin is tuple:
        if not isinstance(value, list) or len(value) != len(parts):
            return _wrong(value, where, f"a list of {len(parts)}")
        items = ((each, part, f"{where}[{place}]") for place, (each, part) in enumerate(zip(value, parts, strict=True)))
    elif origin is dict:
        if not isinstance(value, dict):
            return _wrong(value, where, "keys and values")
        items = ((each, parts[1], f"{where}.{key}") for key, each in value.items())
    else:
        right = isinstance(value, int | float if kind is float else kind)
        right = right and (kind is bool or not isinstance(value, bool))
        return "" if right else _wrong(value, where, _NAMES.get(kind, str(kind)))
    return next(filter(None, (_differs(*item) for item in items)), "")


def _differs_from_dataclass(value: Any, kind: Any, where: str) -> str:
    if not isinstance(value, dict):
        return _wrong(value, where, "keys and values")
    hints = get_type_hints(kind)
    for entry in fields(kind):
        place = f"{where}.{entry.name}" if where else entry.name
        if entry.name in value:
            if difference := _differs(value[entry.name], hints[entry.name], place):
                return difference
        elif entry.default is MISSING and entry.default_factory is MISSING:
            return f"{place} is missing"
    return ""


def _wrong(value: Any, where: str, wanted: str) -> str:
    return f"{shortened(where) or 'it'}: should be {wanted}, not {shortened(repr(value), 60)}"
