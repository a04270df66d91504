"""The one place that reads checkpoints: from a path, a URL or a store, and never more than plain types and tensors."""

from __future__ import annotations

import argparse
import pickle
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lightning_tl._io.files import check_regular
from lightning_tl._io.stores import download
from lightning_tl._io.urls import Url, to_place
from lightning_tl.errors import UserError, shortened
from lightning_tl.hub_files import hub_weights
from lightning_tl.hub_names import PREFIX


def read_checkpoint(place: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; only plain types, ``argparse.Namespace`` and tensors are unpickled.

    Args:
        place: Path, ``file://`` URL, ``http(s)://`` URL, URL on a store that fsspec supports, or ``hf:USER/NAME`` (also
            ``hf:USER/NAME@REVISION``) for the weights of a repository of the Hugging Face Hub. Files of safetensors are
            read too.

    Raises:
        UserError: The file is missing or cannot be fetched, is not a checkpoint, or holds more than plain types.
    """
    name = f"checkpoint {place}"
    with _local(place, name) as path:
        if _is_safetensors(path):
            return _read_safetensors(path, name)
        _check_archive(path, name)
        try:
            with torch.serialization.safe_globals([argparse.Namespace]):  # hyper-parameters of many projects
                content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{name}: holds more than plain types and tensors, or is damaged{_refused_type(error)}; nothing was "
                "executed; where you trust the file, write its weights into another: "
                "torch.save(torch.load(path, weights_only=False)['state_dict'], 'weights.pt')"
            ) from error
        except Exception as error:  # torch.load fails in many ways on other files: KeyError, EOFError, …
            raise UserError(f"{name}: damaged or not a checkpoint ({_first_line(error)})") from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"{name}: holds a {type(content).__name__}, not a state dict; write one: "
            "torch.save(model.state_dict(), path)"
        )
    return dict(content)


@contextmanager
def _local(place: str | Path, name: str) -> Iterator[Path]:
    """Yield the file on this machine; one of a store is fetched for as long as it is needed."""
    if str(place).startswith(PREFIX):
        yield hub_weights(str(place))
        return
    location = to_place(place)
    if not isinstance(location, Url):
        check_regular(location, name)
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="lightning-tl-checkpoint-") as folder:
        path = Path(folder) / "checkpoint"
        download(location, path, missing="no such file")
        yield path


def _is_safetensors(path: Path) -> bool:
    """Return whether a file is of safetensors: the length of a header (8 bytes), then the header, as JSON."""
    with path.open("rb") as file:
        begin = file.read(9)
    return len(begin) == 9 and begin[8:] == b"{" and int.from_bytes(begin[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path, name: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except Exception as error:  # of its own, in Rust
        raise UserError(f"{name}: damaged, or no file of safetensors ({_first_line(error)})") from error


def _check_archive(path: Path, name: str) -> None:
    """Refuse an archive that is larger unpacked than packed: torch compresses nothing."""
    if not zipfile.is_zipfile(path):
        return  # the older format, or no checkpoint
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        raise UserError(f"{name}: damaged or not a checkpoint ({_first_line(error)})") from error
    if unpacked > path.stat().st_size:
        raise UserError(f"{name}: damaged or not a checkpoint (its parts are larger than the file)")


def _first_line(error: Exception) -> str:
    return shortened(f"{type(error).__name__}: {error}".splitlines()[0], 160)


def _refused_type(error: Exception) -> str:
    """Return the type that torch refused to unpickle, in brackets; nothing where its message names none."""
    named = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
    return f" ({named[1]})" if named else ""
