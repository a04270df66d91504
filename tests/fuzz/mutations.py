"""Seeded damage to bytes, texts, and nested values."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

Rng = random.Random
ODD_TEXTS = [
    "",
    " ",
    "null",
    "nan",
    "-inf",
    "../x",
    "/etc/passwd",
    "a\0b",
    "x" * 4000,
    "é→🙂",
    "$\\nope{$",
    "<script>",
    "${a}",
]
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    10**30,
    -(10**18),
    1e300,
    -0.5,
    float("nan"),
    float("inf"),
    [],
    {},
]
ODD += [[None], [[]], {"a": None}, {"": 1}, [1, 2, 3], *ODD_TEXTS]


def damaged_bytes(rng: Rng, content: bytes) -> bytes:
    """Flip, cut, repeat, insert or swap bytes in one to four places."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        elif kind == 3:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        elif kind == 4:
            del data[at : at + rng.randint(1, 64)]
        elif data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
    return bytes(data)


def damaged_text(rng: Rng, text: str, words: list[str]) -> str:
    """Replace, drop, repeat or swap lines or pieces of a text."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0:
            del lines[at]
            lines = lines or [""]
        elif kind == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 2:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(words) + lines[at][place:]
        elif kind == 3:
            pieces = lines[at].split(",")
            pieces[rng.randrange(len(pieces))] = rng.choice(words)
            lines[at] = ",".join(pieces)
        elif kind == 4:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
        else:
            head, colon, _ = lines[at].partition(":")
            lines[at] = f"{head}{colon} {rng.choice(words)}" if colon else lines[at][::-1]
    return "\n".join(lines)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all parts of nested lists and dicts."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found += places(part, (*path, key))
    return found


def damaged_value(rng: Rng, value: Any, odd: Callable[[Rng], Any] | None = None) -> Any:
    """Replace, remove, rename or nest one to three parts of nested values."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        paths = places(value)
        if not paths:
            return rng.choice(ODD)
        *parents, last = rng.choice(paths)
        into = value
        for key in parents:
            into = into[key]
        kind = rng.randrange(5)
        if kind == 0:
            del into[last]
        elif kind == 1 and isinstance(into, dict):
            into[rng.choice(ODD_TEXTS)] = into.pop(last)
        elif kind == 2:
            into[last] = [into[last]] if rng.random() < 0.5 else {"a": into[last]}
        else:
            into[last] = odd(rng) if odd is not None and rng.random() < 0.5 else copy.deepcopy(rng.choice(ODD))
    return value
