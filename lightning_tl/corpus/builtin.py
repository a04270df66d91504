"""Built-in texts: made from what is installed on this machine, or generated. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import os
import string
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from lightning_tl._io.atomic import write_atomically
from lightning_tl._io.cache import cache_folder
from lightning_tl._io.locks import waiting_lock
from lightning_tl.corpus.build import BuildOptions, Progress, build_corpus, silent
from lightning_tl.corpus.chunks import Chunk, Document, file_groups
from lightning_tl.corpus.manifest import MANIFEST
from lightning_tl.errors import UserError, nearest

PREFIX = "builtin:"
_VERSION = 1  # of the generated texts and of the choice of files
_SHARES = 0.05  # of validation and of test
_LARGEST_FILE = 1 << 20  # larger ones are tables of data
# beginnings of names
_PROSE = ("license", "licence", "copying", "notice", "authors", "readme", "change", "history", "news", "metadata")
_GENERATED = 2000  # documents


@dataclass(frozen=True)
class Generated(Chunk):
    """Texts that a function makes.

    Attributes:
        make: Generator of random numbers → the text of one document.
        count: Number of documents.
    """

    make: Callable[[Random], str]
    count: int

    def documents(self) -> Iterator[Document]:
        """Yield the texts: the same on every machine."""
        for number in range(self.count):
            text = self.make(Random(_VERSION << 32 | number))
            yield Document(text, f"{self.source}, document {number}")


def _packages() -> list[Path]:
    """Return the folders of installed packages."""
    paths = sysconfig.get_paths()
    return sorted({Path(paths[name]) for name in ("purelib", "platlib")})


def _walk(roots: list[Path], wanted: Callable[[str], bool], without: Sequence[str] = ()) -> list[Path]:
    """Return the files with wanted names below some folders, in the order of their paths.

    Args:
        roots: The folders; one that does not exist has no files.
        wanted: File name in lower case → whether to take it.
        without: Names of sub-folders of the roots to leave out.
    """
    found: list[str] = []
    for root in roots:
        waiting = [os.fspath(root)] if root.is_dir() else []
        top = {*without} if root.name == "site-packages" else {*without, "site-packages", "dist-packages"}
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name[0] != "." and entry.name != "__pycache__" and entry.name not in top:
                            waiting.append(entry.path)
                    elif wanted(entry.name.lower()) and entry.is_file() and 0 < entry.stat().st_size <= _LARGEST_FILE:
                        found.append(entry.path)
            top = set()
    return [Path(path) for path in sorted(found)]


def _python(source: str) -> list[Chunk]:
    roots = [Path(sysconfig.get_paths()["stdlib"]), *_packages()]
    return file_groups(source, _walk(roots, lambda name: name.endswith(".py"), without=["sympy"]), skip_binary=True)


def _sympy(source: str) -> list[Chunk]:
    files = _walk([folder / "sympy" for folder in _packages()], lambda name: name.endswith(".py"))
    if not files:
        raise UserError(f"{source}: sympy is not installed; install it (pip install sympy), or choose another text")
    return file_groups(source, files, skip_binary=True)


def _c_headers(source: str) -> list[Chunk]:
    roots = [folder / "torch" / "include" for folder in _packages()]
    files = _walk(roots, lambda name: name.endswith((".h", ".hpp", ".cuh")))
    if not files:
        raise UserError(f"{source}: this installation of torch has no C++ headers; choose another text")
    return file_groups(source, files, skip_binary=True)


def _is_prose(name: str) -> bool:
    return name.endswith((".rst", ".md")) or (name.startswith(_PROSE) and name.partition(".")[2] in ("", "txt"))


def _prose(source: str) -> list[Chunk]:
    return file_groups(source, _walk(_packages(), _is_prose), skip_binary=True)


def _cipher_table() -> dict[int, int]:
    order = np.random.default_rng(_VERSION).permutation(26)
    letters = string.ascii_lowercase
    changed = "".join(letters[number] for number in order)
    return str.maketrans(letters + letters.upper(), changed + changed.upper())


def _enciphered(text: str) -> str:
    return text.translate(_cipher_table())


def _cipher(source: str) -> list[Chunk]:
    files = _walk(_packages(), _is_prose)
    return file_groups(source, files, skip_binary=True, convert=_enciphered, kind=f"cipher {_VERSION}")


def _sums(rng: Random) -> str:
    """Return 64 sums and differences, one per line."""
    lines = []
    for _ in range(64):
        limit = 10 ** rng.randrange(1, 5)
        left, right = rng.randrange(limit), rng.randrange(limit)
        sign, result = ("+", left + right) if rng.random() < 0.5 else ("-", left - right)
        lines.append(f"{left} {sign} {right} = {result}\n")
    return "".join(lines)


_NAMES = """
amount author city colour count date email height id item label length level mass mode name note order owner path phone
place price rank rate region score size source speed state status stock street target title total type unit user value
version weight width year zone
"""
_WORDS = _NAMES.split()


def _json_value(rng: Random, depth: int) -> object:
    kind = rng.randrange(5 if depth else 3)
    if kind == 0:
        return rng.randrange(10 ** rng.randrange(1, 6))
    if kind == 1:
        return " ".join(rng.choices(_WORDS, k=rng.randrange(1, 4)))
    if kind == 2:
        return rng.choice((None, True, False, round(rng.random(), 3)))
    if kind == 3:
        return [_json_value(rng, depth - 1) for _ in range(rng.randrange(1, 5))]
    return _json_object(rng, depth - 1)


def _json_object(rng: Random, depth: int) -> dict[str, object]:
    return {key: _json_value(rng, depth) for key in rng.sample(_WORDS, rng.randrange(3, 8))}


def _json_text(rng: Random) -> str:
    return json.dumps([_json_object(rng, 3) for _ in range(4)], indent=2) + "\n"


def _generated(make: Callable[[Random], str], size: int) -> Callable[[str], list[Chunk]]:
    def chunks(source: str) -> list[Chunk]:
        identity = json.dumps(["generated", source, _VERSION, _GENERATED])
        return [Generated(source, identity, size * _GENERATED, make, _GENERATED)]

    return chunks


#: Name → (what it is, its chunks).
TEXTS: dict[str, tuple[str, Callable[[str], list[Chunk]]]] = {
    "python": ("source of Python's standard library and of installed packages, without sympy", _python),
    "sympy": ("source of sympy", _sympy),
    "c-headers": ("torch's C++ headers", _c_headers),
    "prose": ("licences, READMEs, descriptions and documentation of installed packages", _prose),
    "cipher": ("the same, with each letter replaced by another one", _cipher),
    "json": ("random JSON, generated", _generated(_json_text, 1500)),
    "arithmetic": ("sums and differences, generated", _generated(_sums, 1000)),
}


def builtin_chunks(source: str) -> list[Chunk]:
    """Return the chunks of a built-in text.

    Args:
        source: ``builtin:NAME``.

    Raises:
        UserError: There is no such text, or this machine lacks its files.
    """
    name = source.removeprefix(PREFIX)
    if name not in TEXTS:
        raise UserError(f"no built-in text '{name}'{nearest(name, TEXTS)}")
    return TEXTS[name][1](source)


def builtin_corpus(source: str, tokenizer: str = "ascii", progress: Progress = silent) -> Path:
    """Return the folder of a built-in corpus, which is built at first use; other processes wait for it.

    It is kept in the cache folder under a name that contains a hash of its files' names, sizes and times: where
    packages are installed, removed or upgraded, another one is built.

    Args:
        source: ``builtin:NAME``, or ``builtin:NAME@HASH`` of :func:`pinned_source`.
        tokenizer: As for :class:`lightning_tl.corpus.build.BuildOptions`.
        progress: Shows progress.

    Raises:
        UserError: There is no such text or tokenizer, this machine lacks its files, or the hash is of another text
            that is not in the cache folder.
    """
    source, _, pinned = source.partition("@")
    folder = _corpora() / f"{source.removeprefix(PREFIX)}-{pinned}"
    if not pinned or not (folder / MANIFEST).is_file():
        folder = _folder(source, tokenizer)
    if pinned and not folder.name.endswith(f"-{pinned}"):
        raise UserError(
            f"{source}@{pinned}: this text is not in {_corpora()}, and other files are installed now; take "
            f"{source} as it is now, or the folder of a corpus that 'lightning-tl corpus build' wrote"
        )
    if not (folder / MANIFEST).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with waiting_lock(folder.with_name(f".{folder.name}.lock")):
            build_corpus(builtin_chunks(source), folder, BuildOptions(tokenizer, _SHARES, _SHARES), progress)
    return folder


def pinned_source(source: str, tokenizer: str = "ascii") -> str:
    """Return ``builtin:NAME@HASH``: the text of what is installed now, also once other files are installed.

    Args:
        source: ``builtin:NAME``; one with a hash is returned as it is.
        tokenizer: As for :func:`builtin_corpus`.

    Raises:
        UserError: There is no such text, or this machine lacks its files.
    """
    if "@" in source:
        return source
    return f"{source}@{_folder(source, tokenizer).name.rpartition('-')[2]}"


def _corpora() -> Path:
    return cache_folder() / "corpora"


def _folder(source: str, tokenizer: str) -> Path:
    """Return the folder for the text of what is installed now; it may not be there yet."""
    known = _corpora() / f".{source.removeprefix(PREFIX)}-{_installed(source, tokenizer)}.found"
    if known.is_file() and (folder := _corpora() / known.read_text().strip()) and (folder / MANIFEST).is_file():
        return folder
    content = json.dumps([_VERSION, tokenizer, sorted(chunk.identity for chunk in builtin_chunks(source))])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = _corpora() / f"{source.removeprefix(PREFIX)}-{digest}"
    write_atomically(known, folder.name)
    return folder


def _installed(source: str, tokenizer: str) -> str:
    """Return a hash that changes where a package is installed, removed or upgraded.

    It takes no time, while looking at all files takes a second.
    """
    folders = [Path(sysconfig.get_paths()["stdlib"]), *_packages()]
    times = [[str(folder), folder.stat().st_mtime_ns if folder.is_dir() else 0] for folder in folders]
    return hashlib.sha256(json.dumps([_VERSION, source, tokenizer, times]).encode()).hexdigest()[:16]
