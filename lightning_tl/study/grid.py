"""Axes of a study: products, zips and exclusions of arbitrary configuration keys."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_tl.errors import UserError, nearest

Point = dict[str, Any]
#: Ends of paths, and what names have of them: of a run's two checkpoints, one is the usual start.
_ENDS = {".yaml": "", "/checkpoints/last.ckpt": "", "/checkpoints/best.ckpt": "-best"}


def points(
    product: Mapping[str, Sequence[Any]], zips: Sequence[Mapping[str, Sequence[Any]]], where: str
) -> list[Point]:
    """Return all combinations of axes, the last one varying fastest.

    Args:
        product: Key → values; every key is one axis.
        zips: Groups of keys whose values change together; every group is one axis: ``{seed: [0, 1], draw: [0, 1]}``.
        where: The stage, for error messages.

    Raises:
        UserError: An axis has no values, values are not a list, lengths differ, or a key is on two axes.
    """
    axes: list[list[Point]] = []
    seen: set[str] = set()
    for group in [*({key: values} for key, values in product.items()), *zips]:
        lengths = {}
        for key, values in group.items():
            if not isinstance(values, list | tuple) or not values:
                raise UserError(f"{where}: the axis '{key}' must be a list of at least one value, not {values!r}")
            if key in seen:
                raise UserError(f"{where}: '{key}' is on two axes")
            seen.add(key)
            lengths[key] = len(values)
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise UserError(f"{where}: values that go together must be equally many: {counts}")
        columns = list(group.items())
        axes.append([{key: values[i] for key, values in columns} for i in range(next(iter(lengths.values()), 0))])
    return [{key: value for part in parts for key, value in part.items()} for parts in itertools.product(*axes)]


def excluder(
    exclude: Sequence[Mapping[str, Any]], known: Sequence[Point], where: str, what: str = "exclude"
) -> Callable[[Point], bool]:
    """Return a function that says whether a point is excluded.

    A rule excludes a point that has, for every key of the rule, the rule's value, or one of its list of values.

    Args:
        exclude: The rules.
        known: Points with all keys and values that a rule may name.
        where: The stage, for error messages.
        what: What has the rules, for error messages.

    Raises:
        UserError: A rule names a key or a value that no point has.
    """
    for key, wanted in ((key, wanted) for rule in exclude for key, wanted in rule.items()):
        values = [point[key] for point in known if key in point]
        if not values:
            axes = {key for point in known for key in point}
            raise UserError(f"{where}: {what} names '{key}', which is no axis{nearest(key, axes)}")
        for value in wanted if isinstance(wanted, list | tuple) else [wanted]:
            if value not in values:
                hint = nearest(str(value), set(map(str, values)))
                raise UserError(f"{where}: {what}: '{key}' is never {value!r}{hint}")

    def excluded(point: Point) -> bool:
        return any(
            all(
                key in point and (point[key] in wanted if isinstance(wanted, list | tuple) else point[key] == wanted)
                for key, wanted in rule.items()
            )
            for rule in exclude
        )

    return excluded


def label(point: Mapping[str, Any]) -> str:
    """Return a short name of a point that is valid as a file name: its values, numbers after their key's last part.

    Of a point without values it is empty.
    """
    if not point:
        return ""
    parts = []
    for key, value in point.items():
        last = key.rpartition(".")[2]
        if isinstance(value, list | tuple) and value and all(map(_is_number, value)):
            text = last + "-".join(f"{item:.12g}" for item in value)
        elif is_specification(value):
            text = specification_text(value, for_file=True)
        elif isinstance(value, str | list | tuple):
            items = [value] if isinstance(value, str) else value
            text = "-".join(map(_file_label, items))
        else:
            text = f"{last}{value:.12g}" if _is_number(value) else f"{last}-{value}"
        parts.append(re.sub(r"[^\w.+\-]+", "-", text).strip("-") or last)
    return "-".join(parts).lstrip(".") or "-"


def _file_label(path: Any) -> str:
    text = str(path)
    for end, short in _ENDS.items():
        if text.endswith(end):
            text = text.removesuffix(end) + short
    return text.rpartition("/")[2]


def is_specification(value: object) -> bool:
    """Return whether a value names a class with its arguments, or is a list of such."""
    if isinstance(value, list | tuple):
        return any(map(is_specification, value))
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str)


def specification_text(value: Any, for_file: bool = False) -> str:
    """Return a class with its arguments, or several of them, as a short text.

    Args:
        value: The class, or a list of classes.
        for_file: Whether it is part of a file's name: ``L2SP-strength0.01``, else ``L2SP(strength=0.01)``.
    """
    if isinstance(value, list | tuple):
        return ("+" if for_file else " + ").join(specification_text(item, for_file) for item in value)
    if not is_specification(value):
        return str(value)
    given = {
        key: f"{item:.12g}" if _is_number(item) else str(item) for key, item in (value.get("init_args") or {}).items()
    }
    name = value["class_path"].rpartition(".")[2]
    if for_file:
        return "-".join([name, *(f"{key}{text}" for key, text in given.items())])
    return f"{name}({', '.join(f'{key}={text}' for key, text in given.items())})" if given else name


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
