"""A series of checkpoints, measured one after the other and kept: what is finished is never measured again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import remove_leftovers, write_atomically
from lightning_tl._io.locks import lock_owner, try_lock
from lightning_tl.errors import UserError
from lightning_tl.measure.params import listed
from lightning_tl.measured_value import Measured
from lightning_tl.offline.loss_tables import LossTables
from lightning_tl.offline.revisions import Revision
from lightning_tl.progress import progress_bar

SETTINGS = "series.json"
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Result:
    """What was measured on one checkpoint.

    Attributes:
        revision: The checkpoint.
        records: One per value.
        tables: The losses by draw and batch; None where no loss was measured.
    """

    revision: Revision
    records: list[Measured]
    tables: LossTables | None = None


Measure = Callable[[int], tuple[list[Measured], LossTables | None]]
"""Index of a checkpoint → what is measured on it."""


def measured_series(
    revisions: Sequence[Revision],
    sources: Sequence[Mapping[str, Any]],
    measure: Measure,
    settings: Mapping[str, Any],
    out: Path,
) -> list[Result]:
    """Measure checkpoints one after the other; each is written to a file as soon as it is finished.

    A second call with the same settings measures only what is missing. It gives the same bytes as an undisturbed one.

    Args:
        revisions: The checkpoints, in order.
        sources: By checkpoint, plain types that tell it from another one of this name: its measurement is kept while
            these stay the same.
        measure: Called with the index of each checkpoint that is not finished.
        settings: Plain types: everything that the values depend on but the checkpoint.
        out: Folder of the results.

    Raises:
        UserError: The folder holds measurements with other settings, or another process works there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with try_lock(out / ".lock") as held:
        if not held:
            raise UserError(f"{out}: process {lock_owner(out / '.lock')} measures there; wait, or choose another --out")
        remove_leftovers(out)
        _settle(settings, out / SETTINGS)
        results = []
        with progress_bar("measure", "checkpoints") as advance:
            for index, (revision, source) in enumerate(zip(revisions, sources, strict=True)):
                advance(index, len(revisions))
                path = out / _CHECKPOINTS / f"{_file_name(revision.name)}.json"
                result = _finished(path, revision, source)
                if result is None:
                    result = Result(revision, *measure(index))
                    write_atomically(path, _text(result, source), sync=True)
                results.append(result)
            advance(len(revisions), len(revisions))
    return results


def _settle(settings: Mapping[str, Any], path: Path) -> None:
    """Write the settings, or compare them with those that are there."""
    text = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if not path.is_file():
        write_atomically(path, text)
        return
    there, now = _read(path), json.loads(text)
    differing = sorted(name for name in there.keys() | now.keys() if there.get(name) != now.get(name))
    if differing:
        was = ", ".join(f"{name} {there.get(name)!r} (now {now.get(name)!r})" for name in differing[:4])
        raise UserError(
            f"{path.parent}: holds measurements with other settings: {was}; choose another --out, or delete that folder"
        )


def _finished(path: Path, revision: Revision, source: Mapping[str, Any]) -> Result | None:
    if not path.is_file():
        return None
    content = _read(path)
    if content.get("source") != dict(source) or content.get("revision") != asdict(revision):
        return None
    try:
        tables = None if content["losses"] is None else LossTables.from_json(content["losses"])
        return Result(revision, [Measured(**record) for record in content["records"]], tables)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: is damaged; delete it, and it is measured again") from None


def _text(result: Result, source: Mapping[str, Any]) -> str:
    content = {
        "revision": asdict(result.revision),
        "source": dict(source),
        "records": [record.row() for record in result.records],
        "losses": None if result.tables is None else result.tables.to_json(),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged; delete it, and it is made again")
    return content


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.=-]", "_", name) or "_"


def check_names(revisions: Sequence[Revision]) -> None:
    """Refuse revisions whose results would go to the same file.

    Raises:
        UserError: Two have the same name, or names that differ only in special characters.
    """
    names = [_file_name(revision.name) for revision in revisions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"the revisions {listed(twice)} are named more than once; name each once")
