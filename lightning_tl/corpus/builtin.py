"""Built-in texts: made from what is installed on this machine, or generated. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import os
import string
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

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
_PROSE = ("licen[cs]e*", "copying*", "notice*", "authors*", "readme*", "change*", "history*", "news*", "metadata")
_PROSE_SUFFIXES = ("", ".txt", ".md", ".rst")
_GENERATED = 2000  # documents


@dataclass(frozen=True)
class Generated(Chunk):
    """Texts that a function makes.

    Attributes:
        make: Random generator → the text of one document.
        count: Number of documents.
    """

    make: Callable[[np.random.Generator], str]
    count: int

    def documents(self) -> Iterator[Document]:
        """Yield the texts: the same on every machine."""
        for number in range(self.count):
            text = self.make(np.random.default_rng([_VERSION, number]))
            yield Document(text, f"{self.source}, document {number}")


def _packages() -> list[Path]:
    """Return the folders of installed packages."""
    paths = sysconfig.get_paths()
    return sorted({Path(paths[name]) for name in ("purelib", "platlib")})


def _walk(roots: list[Path], wanted: Callable[[Path], bool]) -> list[Path]:
    files = []
    for root in roots:
        for folder, folders, names in os.walk(root):
            # installed packages have a root of their own, also where they lie inside the standard library
            skipped = {"__pycache__", *(() if root.name == "site-packages" else ("site-packages", "dist-packages"))}
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skipped)
            for name in sorted(names):
                path = Path(folder) / name
                if wanted(path) and path.is_file() and 0 < path.stat().st_size <= _LARGEST_FILE:
                    files.append(path)
    return files


def _python(source: str) -> list[Chunk]:
    roots = [Path(sysconfig.get_paths()["stdlib"]), *_packages()]
    without = [folder / "sympy" for folder in _packages()]
    files = _walk(roots, lambda path: path.suffix == ".py" and not any(path.is_relative_to(each) for each in without))
    return file_groups(source, files, skip_binary=True)


def _sympy(source: str) -> list[Chunk]:
    files = _walk([folder / "sympy" for folder in _packages()], lambda path: path.suffix == ".py")
    if not files:
        raise UserError(f"{source}: sympy is not installed; install it (pip install sympy), or choose another text")
    return file_groups(source, files, skip_binary=True)


def _c_headers(source: str) -> list[Chunk]:
    roots = [folder / "torch" / "include" for folder in _packages()]
    files = _walk(roots, lambda path: path.suffix in (".h", ".hpp", ".cuh"))
    if not files:
        raise UserError(f"{source}: this installation of torch has no C++ headers; choose another text")
    return file_groups(source, files, skip_binary=True)


def _is_prose(path: Path) -> bool:
    name = path.name.lower()
    if path.suffix.lower() in (".rst", ".md"):
        return True
    return path.suffix.lower() in _PROSE_SUFFIXES and any(fnmatch(name, pattern) for pattern in _PROSE)


def _prose(source: str) -> list[Chunk]:
    return file_groups(source, _walk(_packages(), _is_prose), skip_binary=True)


def _cipher_table() -> dict[int, str]:
    order = np.random.default_rng(_VERSION).permutation(26)
    letters = string.ascii_lowercase
    changed = "".join(letters[number] for number in order)
    return str.maketrans(letters + letters.upper(), changed + changed.upper())


def _enciphered(text: str) -> str:
    return text.translate(_cipher_table())


def _cipher(source: str) -> list[Chunk]:
    files = _walk(_packages(), _is_prose)
    return file_groups(source, files, skip_binary=True, convert=_enciphered, kind=f"cipher {_VERSION}")


def _sums(rng: np.random.Generator) -> str:
    """Return 64 sums and differences, one per line."""
    limits = 10 ** rng.integers(1, 5, 64)
    left, right, minus = rng.integers(0, limits), rng.integers(0, limits), rng.integers(0, 2, 64)
    rows = zip(left.tolist(), right.tolist(), minus.tolist(), strict=True)
    return "".join(f"{a} - {b} = {a - b}\n" if subtract else f"{a} + {b} = {a + b}\n" for a, b, subtract in rows)


_WORDS = (
    "amount author city colour count date email height id item label length level mass mode name note order owner "
    "path phone place price rank rate region score size source speed state status stock street target title total "
    "type unit user value version weight width year zone"
).split()


def _json_value(rng: np.random.Generator, depth: int) -> object:
    kind = int(rng.integers(0, 5 if depth else 3))
    if kind == 0:
        return int(rng.integers(0, 10 ** int(rng.integers(1, 6))))
    if kind == 1:
        return " ".join(_WORDS[number] for number in rng.integers(0, len(_WORDS), int(rng.integers(1, 4))))
    if kind == 2:
        return (None, True, False, round(float(rng.normal()), 3))[int(rng.integers(0, 4))]
    if kind == 3:
        return [_json_value(rng, depth - 1) for _ in range(int(rng.integers(1, 5)))]
    return _json_object(rng, depth - 1)


def _json_object(rng: np.random.Generator, depth: int) -> dict[str, object]:
    keys = rng.choice(len(_WORDS), int(rng.integers(3, 8)), replace=False)
    return {_WORDS[number]: _json_value(rng, depth) for number in keys}


def _json_text(rng: np.random.Generator) -> str:
    return json.dumps([_json_object(rng, 3) for _ in range(4)], indent=2) + "\n"


def _generated(make: Callable[[np.random.Generator], str], size: int) -> Callable[[str], list[Chunk]]:
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
    packages are installed or changed, another one is built.

    Args:
        source: ``builtin:NAME``.
        tokenizer: As for :class:`lightning_tl.corpus.build.BuildOptions`.
        progress: Shows progress.

    Raises:
        UserError: There is no such text or tokenizer, or this machine lacks its files.
    """
    chunks = builtin_chunks(source)
    options = BuildOptions(tokenizer, _SHARES, _SHARES)
    content = json.dumps([_VERSION, tokenizer, sorted(chunk.identity for chunk in chunks)])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = cache_folder() / "corpora" / f"{source.removeprefix(PREFIX)}-{digest}"
    if not (folder / MANIFEST).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with waiting_lock(folder.with_name(f".{folder.name}.lock")):
            build_corpus(chunks, folder, options, progress)
    return folder
