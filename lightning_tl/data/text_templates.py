"""Templates: rows of a JSONL file to prompts and responses, or to prompts and one response per class."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightning_tl._io.files import check_regular
from lightning_tl._io.json_text import parse_json
from lightning_tl.errors import UserError, nearest, one_line, shortened


class Example(NamedTuple):
    """A prompt with its possible responses.

    Attributes:
        prompt: The prompt.
        responses: One response; or one for each class.
        answer: Which response is right.
    """

    prompt: str
    responses: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Template:
    """How an example is made of a row. ``{key}`` stands for the row's value; ``{{`` and ``}}`` for braces.

    Attributes:
        prompt: The prompt.
        response: The response, for a row that has one.
        label: The key of the class, for classification; ``response`` is not used then.
        choices: Value of ``label`` → the words that stand for this class.
    """

    prompt: str = "{prompt}"
    response: str = "{response}"
    label: str | None = None
    choices: dict[str | int, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The classes."""
        return [str(name) for name in self.choices]

    def check(self) -> None:
        """Check the template.

        Raises:
            UserError: It cannot be used.
        """
        for name in ("prompt", "response"):
            _keys(getattr(self, name), f"data.template.{name}")
        if (self.label is None) != (not self.choices):
            raise UserError(
                "data.template: label and choices belong together: label is the key of the class, and choices has the "
                "words of each class, such as {0: ' sports', 1: ' science'}"
            )
        if self.label is not None and len(self.choices) < 2:
            raise UserError("data.template.choices has one class; classification needs two or more")
        words = list(self.choices.values())
        if empty := [name for name, word in self.choices.items() if not word]:
            raise UserError(f"data.template.choices: class '{empty[0]}' has no words")
        if repeated := [word for place, word in enumerate(words) if word in words[:place]]:
            raise UserError(f"data.template.choices: two classes have the words '{repeated[0]}'")

    def example(self, row: dict[str, Any], where: str) -> Example:
        """Return the example of a row.

        Args:
            row: The row.
            where: File and line, for messages.

        Raises:
            UserError: The row lacks a key, its class is unknown, or its response is empty.
        """
        prompt = _filled(self.prompt, row, where, "prompt")
        if self.label is None:
            response = _filled(self.response, row, where, "response")
            if not response:
                raise UserError(f"{where}: the response is empty, so there is nothing to learn; delete the line")
            return Example(prompt, (response,), 0)
        if self.label not in row:
            raise UserError(
                f"{where}: no key '{self.label}', which data.template.label names{nearest(self.label, row)}"
            )
        value, names = str(row[self.label]), self.names
        if value not in names:
            raise UserError(
                f"{where}: class '{shortened(value, 40)}' is not in data.template.choices{nearest(value, names)}"
            )
        return Example(prompt, tuple(self.choices.values()), names.index(value))


def _keys(text: str, name: str) -> list[str]:
    """Return the keys in a template's text.

    Raises:
        UserError: A brace has no partner, or a placeholder is more than a key.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise UserError(f"{name}: {one_line(error).lower()}; write {{{{ and }}}} for braces") from None
    for _, key, form, conversion in parts:
        if key is not None and (not key or form or conversion or "." in key or "[" in key):
            raise UserError(
                f"{name}: '{{{key}}}' must be the name of a key, as {{text}}; write {{{{ and }}}} for braces"
            )
    return [key for _, key, _, _ in parts if key is not None]


def _filled(text: str, row: dict[str, Any], where: str, name: str) -> str:
    for key in _keys(text, f"data.template.{name}"):
        if key not in row:
            raise UserError(f"{where}: no key '{key}', which data.template.{name} names{nearest(key, row)}")
        if not isinstance(row[key], str | int | float) or isinstance(row[key], bool):
            raise UserError(f"{where}: '{key}' is no text or number but {shortened(repr(row[key]), 40)}")
    return text.format(**row)


def read_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the rows of a JSONL file, each with its file and line, for messages.

    Raises:
        UserError: There is no such file, or a line is not a JSON object.
    """
    check_regular(path, str(path))
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                row = parse_json(line.removeprefix(b"\xef\xbb\xbf"))
            except ValueError as error:
                raise UserError(
                    f"{where}: not JSON ({shortened(one_line(error))}); correct or delete the line"
                ) from None
            if not isinstance(row, dict):
                raise UserError(f"{where}: not a JSON object; each line must be one")
            yield row, where
