"""The configuration reference as Markdown: what the keys of a parser or class are, in a list of definitions."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from configuration_keys import Key

#: A default as long as this is left to the YAML that --print_config prints.
_LONG = 100
#: Pages that list the classes of a kind.
PAGES = {
    "LightningModule": "model.md",
    "LightningDataModule": "data.md",
    "TransferMethod": "transfer.md",
    "Schedule": "schedule.md",
    "LRScheduler": "lr_scheduler.md",
    "Callback": "callbacks.md",
}
_ROLE = re.compile(r":\w+:`[~.]*([\w.]+)`")


def listed(keys: Iterable[Key], place: str) -> str:
    """Return keys as a list: name, type and default, then what the key is.

    Args:
        keys: The keys.
        place: Of the list on its page, for anchors: ``render`` gives ``render--image.size``.
    """
    return "\n".join(
        f'<code id="{anchor(place, key.name)}">{key.name}</code> {_facts(key)}\n:   {_help(key)}\n' for key in keys
    )


def anchor(place: str, name: str) -> str:
    """Return the anchor of a key on its page."""
    return f"{place.replace(' ', '-')}--{name}"


def _facts(key: Key) -> str:
    parts = [text for text in (_values(key), _default(key)) if text]
    return f"<small>{'; '.join(parts)}</small>" if parts else ""


def _values(key: Key) -> str:
    if key.choices:
        return _either(f"`{choice}`" for choice in key.choices)
    if key.type is None:
        return ""
    return type_text(key.type)


def _default(key: Key) -> str:
    if key.required:
        return "**required**"
    if key.type is None or key.positional or callable(key.default):
        return ""
    text = value_text(key.default)
    return f"default `{text}`" if len(text) <= _LONG else ""


def value_text(value: Any) -> str:
    """Return a default as it would stand in YAML."""
    plain = _plain(value)
    return plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a value as YAML can hold it."""
    if isinstance(value, Enum):
        return value.name
    if hasattr(value, "as_dict"):  # jsonargparse's namespaces
        return _plain(value.as_dict())
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def type_text(hint: Any) -> str:
    """Return an annotation in words: ``int or null``, ``list of float``, ``{name: int}``."""
    return _either(_alternatives(hint))


def _alternatives(hint: Any) -> list[str]:
    """Return the texts of the types that an annotation allows, one of which a value has."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return [text for part in parts for text in _alternatives(part)]
    if origin is Literal:
        return [f"`{part}`" for part in parts]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [f"`{member.name}`" for member in hint]
    if origin is type or "Callable" in str(origin or ""):
        return ["dotted path to a class or function"]
    if origin is not None and parts:
        return [_container(origin, [type_text(part) for part in parts if part is not Ellipsis], Ellipsis in parts)]
    return [_simple(hint)]


def _container(origin: Any, parts: list[str], any_length: bool) -> str:
    if issubclass(origin, tuple) and not any_length:
        return rf"\[{', '.join(parts)}\]"
    if len(parts) == 2:
        return f"{{{'name' if parts[0] == 'str' else parts[0]}: {parts[1]}}}"
    return f"list of {parts[0]}"


def _simple(hint: Any) -> str:
    if hint is None or hint is type(None):
        return "null"
    if hint is Any:
        return "any value"
    if isinstance(hint, type) and issubclass(hint, Path):
        return "path"
    name = str(getattr(hint, "__name__", hint))
    if isinstance(hint, type) and is_dataclass(hint):
        return f"[{name}](#{name.lower()})"
    return f"[{name}]({PAGES[name]})" if name in PAGES else name.replace("_", r"\_")


def _either(texts: Iterable[str]) -> str:
    """Return texts as "a, b or c", each once; any value is more than all others."""
    different = dict.fromkeys(texts)
    if "any value" in different:
        return "any value"
    *rest, last = different
    return f"{', '.join(rest)} or {last}" if rest else last


def _help(key: Key) -> str:
    return markdown(key.help) or "Not described where it comes from."


def markdown(text: str) -> str:
    """Return the text of a docstring, in one line, as Markdown that shows it as it is."""
    text = " ".join(_ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", text).split()).replace("``", "`")
    pieces = text.split("`")
    return "`".join(_escaped(piece) if index % 2 == 0 else piece for index, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    """Return text outside of code with what Markdown would take for its own; only emphasis remains."""
    text = re.sub(r"([_\[\]])", r"\\\1", text.replace("<", "&lt;"))
    return re.sub(r"(?<![\w*])\*(\S[^*]*\S)\*(?![\w*])|\*", lambda match: match[0] if match[1] else r"\*", text)
