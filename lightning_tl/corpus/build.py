"""Builds a corpus: chunks of text to part files, and these, in the order of the texts' hashes, to one file per split.

Killed at any moment and run again, a build gives the same bytes: a finished chunk has its part files, which are kept;
the rest is done again. The corpus appears in one step, when its folder is renamed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import remove_leftovers, sync_to_disk, write_atomically
from lightning_tl._io.locks import lock_owner, try_lock
from lightning_tl.corpus.bpe import BpeTokenizer, bpe_size, load_tokenizer, train_bpe
from lightning_tl.corpus.chunks import Chunk, Document
from lightning_tl.corpus.manifest import FORMAT, MANIFEST, SPLITS, TOKENIZER, Manifest, read_manifest
from lightning_tl.corpus.merge import merge_parts
from lightning_tl.corpus.parts import PartBuffer
from lightning_tl.corpus.split import split_of
from lightning_tl.corpus.tokenizers import Tokenizer
from lightning_tl.errors import UserError

_PART_TOKENS = 16 << 20
_BATCH_CHARACTERS = 1 << 20  # that a tokenizer gets at a time
_MIB = 1 << 20
#: Of manifests that were written before the setting was one of them.
_EARLIER_SETTINGS = {"bpe_sample": 32}

Progress = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]


@contextmanager
def silent(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show no progress."""
    yield lambda done, total: None


@dataclass(frozen=True)
class BuildOptions:
    """How a corpus is built.

    Attributes:
        tokenizer: ``bytes``, ``ascii``, ``bpe:SIZE``, or the path of a ``tokenizer.json``.
        val_share: Share of the documents for validation.
        test_share: Share of the documents for test.
        separator: For a ``tokenizer.json``: the token that ends a document (``None``: the first known one).
        bpe_sample: For ``bpe:SIZE``: MiB of text, about, that it is trained on: a random part of the training
            documents, all of which are in memory meanwhile.
    """

    tokenizer: str = "bytes"
    val_share: float = 0.02
    test_share: float = 0.02
    separator: str | None = None
    bpe_sample: float = 32

    def check(self) -> None:
        """Check the values.

        Raises:
            UserError: One is out of range.
        """
        for name in ("val_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.val_share + self.test_share >= 1:
            raise UserError("--val_share and --test_share leave nothing to train on: their sum must be below 1")
        if not 0 < self.bpe_sample < float("inf"):
            raise UserError(f"--bpe_sample is {self.bpe_sample}; it must be above 0 (MiB of text; the default is 32)")


def build_corpus(chunks: Sequence[Chunk], out: Path, options: BuildOptions, progress: Progress = silent) -> Manifest:
    """Build a corpus; continue a build that was interrupted. Where it is finished already, nothing is done.

    Args:
        chunks: What to read; their order does not matter.
        out: The corpus folder, which must not exist, or must hold the corpus of the same sources and options.
        options: How to build it.
        progress: Shows progress, as :func:`lightning_tl.progress.progress_bar`.

    Raises:
        UserError: The sources hold too few documents or a broken one, an option is wrong, another process builds the
            corpus, or the folder holds something else.
    """
    options.check()
    trained = bpe_size(options.tokenizer)
    if trained and options.separator is not None:
        raise UserError(f"--separator is for a tokenizer.json; {options.tokenizer} has a separator of its own")
    given = None if trained else load_tokenizer(options.tokenizer, options.separator)
    settings = _settings(options, given)
    if finished := _finished(chunks, out, settings):
        return finished
    out = out.absolute()
    work = out.with_name(f".{out.name}.building")
    work.mkdir(parents=True, exist_ok=True)
    with _only_builder(work, out):
        if finished := _finished(chunks, out, settings):  # by another process, in the meantime
            shutil.rmtree(work, ignore_errors=True)
            return finished
        remove_leftovers(work)
        tokenizer = given or _trained(chunks, trained or 0, options, work, progress)
        parts, sources = _write_parts(chunks, tokenizer, work, progress)
        staged = work / "corpus"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        splits, duplicates = merge_parts(parts, staged, tokenizer, options.val_share, options.test_share, progress)
        _check_splits(splits, out)
        entry: dict[str, Any] = {"name": tokenizer.name, "separator": tokenizer.separator}
        if isinstance(tokenizer, BpeTokenizer):
            entry["separator_text"] = tokenizer.separator_text
            write_atomically(staged / TOKENIZER, tokenizer.definition, sync=True)
        content = {
            "format": FORMAT,
            "tokenizer": entry,
            "vocab_size": tokenizer.vocab_size,
            "dtype": tokenizer.dtype.name,
            "splits": splits,
            "duplicates": duplicates,
            "sources": sources,
            "settings": settings,
        }
        write_atomically(staged / MANIFEST, json.dumps(content, indent=2) + "\n", sync=True)
        sync_to_disk(staged)
        staged.replace(out)
        sync_to_disk(out.parent)
        shutil.rmtree(work, ignore_errors=True)
    return read_manifest(out)


def _settings(options: BuildOptions, given: Tokenizer | None) -> dict[str, Any]:
    """Return the options that the bytes of a corpus depend on, for its manifest."""
    settings: dict[str, Any] = {"tokenizer": given.name if given else options.tokenizer}
    settings |= {"val_share": options.val_share, "test_share": options.test_share}
    if given is None:
        settings["bpe_sample"] = options.bpe_sample
    elif isinstance(given, BpeTokenizer):
        settings["separator"] = given.separator_text
    return settings


def _finished(chunks: Sequence[Chunk], out: Path, settings: dict[str, Any]) -> Manifest | None:
    """Return the corpus at ``out`` if it is what would be built; ``None`` if there is nothing yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out}: there already, and no corpus; give another --out")
    manifest = read_manifest(out)
    there = _EARLIER_SETTINGS | {"separator": manifest.tokenizer_entry.get("separator_text")} | manifest.settings
    if differing := [name for name, value in settings.items() if there.get(name) != value]:
        raise _other(out, f"another --{differing[0]} ({there.get(differing[0])}, not {settings[differing[0]]})")
    sources = {entry["path"]: entry for entry in manifest.sources}
    wanted = _sources(chunks)
    if {name: entry["size"] for name, entry in sources.items()} != {name: size for name, (size, _) in wanted.items()}:
        raise _other(out, "other sources")
    for name, (_, reading) in wanted.items():
        if sources[name].get("reading", reading) != reading:  # earlier manifests do not say it
            options = [f"--{option} {value!r}" for option, value in sources[name]["reading"].items()]
            raise _other(out, f"{name} read with {' '.join(options) or 'no --delimiter'}")
    return manifest


def _other(out: Path, what: str) -> UserError:
    return UserError(f"{out}: holds a corpus of {what}; give another --out, or delete that folder")


def _sources(chunks: Sequence[Chunk]) -> dict[str, tuple[int, dict[str, str]]]:
    """Return by source: its bytes, and the options by which it is read."""
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for chunk in chunks:
        size, reading = found.get(chunk.source, (0, {}))
        found[chunk.source] = size + chunk.size, reading | chunk.reading
    return found


@contextmanager
def _only_builder(work: Path, out: Path) -> Iterator[None]:
    lock = work / "lock"
    with try_lock(lock) as held:
        if not held:
            raise UserError(f"{out}: process {lock_owner(lock)} builds this corpus; wait for it, or give another --out")
        yield


def _identity(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _digest(document: Document) -> tuple[bytes, int]:
    """Return the SHA-256 of a text, and its bytes."""
    try:
        content = document.text.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair
        raise UserError(
            f"{document.where}: character {error.start} is half of a surrogate pair, not a character; correct or "
            "delete this document"
        ) from None
    return hashlib.sha256(content).digest(), len(content)


def _trained(chunks: Sequence[Chunk], size: int, options: BuildOptions, work: Path, progress: Progress) -> BpeTokenizer:
    """Train a BPE on the first training documents, in the order of their hashes: whatever the order of the sources."""
    settings = json.dumps([options.val_share, options.test_share, options.bpe_sample])
    plan = _identity(options.tokenizer, settings, *_identities(chunks))
    saved = work / f"tokenizer-{plan}.json"
    if saved.is_file():
        return BpeTokenizer(saved.read_text(encoding="utf-8"), options.tokenizer, str(saved))
    total = sum(chunk.size for chunk in chunks)
    share = min(1.0, options.bpe_sample * _MIB / max(1, total))
    texts: dict[bytes, str] = {}
    done = 0
    with progress("choosing texts for the tokenizer", "MiB") as advance:
        for chunk in chunks:
            advance(done // _MIB, total // _MIB)
            for document in chunk.documents():
                digest, _ = _digest(document)
                chosen = int.from_bytes(digest[:8], "big") < share * 2**64
                if chosen and document.text and split_of(digest, options.val_share, options.test_share) == "train":
                    texts[digest] = document.text
            done += chunk.size
        advance(total // _MIB, total // _MIB)
    if not texts and share < 1:  # of all the text: there are too few documents, which is said later
        raise UserError(
            f"--bpe_sample {options.bpe_sample:g}: a sample this small holds no training document; enlarge it"
        )
    tokenizer = train_bpe((texts[digest] for digest in sorted(texts)), size)
    write_atomically(saved, tokenizer.definition, sync=True)
    return BpeTokenizer(tokenizer.definition, options.tokenizer, str(saved))


def _identities(chunks: Sequence[Chunk]) -> list[str]:
    return sorted(chunk.identity for chunk in chunks)


def _write_parts(
    chunks: Sequence[Chunk], tokenizer: Tokenizer, work: Path, progress: Progress
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Tokenize the chunks that have no part files yet.

    Returns:
        All part files, and what each source held.
    """
    folder = work / "parts"
    folder.mkdir(exist_ok=True)
    total, done = sum(chunk.size for chunk in chunks), 0
    parts: list[Path] = []
    sources: dict[str, dict[str, Any]] = {}
    with progress("tokenizing", "MiB") as advance:
        for chunk in chunks:
            name = _identity(tokenizer.name, tokenizer.definition or "", str(tokenizer.separator), chunk.identity)
            record = folder / f"{name}.json"
            if not record.is_file():
                write_atomically(record, json.dumps(_tokenize(chunk, tokenizer, folder, name)), sync=True)
            counts = json.loads(record.read_text())
            parts += [folder / f"{name}.{number}.part" for number in range(counts["parts"])]
            new = {"path": chunk.source, "size": 0, "documents": 0, "bytes": 0, "empty": 0, "reading": {}}
            entry = sources.setdefault(chunk.source, new)
            for key in ("documents", "bytes", "empty"):
                entry[key] += counts[key]
            entry["size"] += chunk.size
            entry["reading"] |= chunk.reading
            done += chunk.size
            advance(done // _MIB, total // _MIB)
    return parts, [sources[name] for name in sorted(sources)]


def _tokenize(chunk: Chunk, tokenizer: Tokenizer, folder: Path, name: str) -> dict[str, int]:
    """Write the part files of a chunk, and return the counts for its record."""
    counts = {"parts": 0, "documents": 0, "bytes": 0, "empty": 0}
    buffer = PartBuffer(tokenizer.dtype, tokenizer.separator)

    def flush() -> None:
        buffer.write(folder / f"{name}.{counts['parts']}.part")
        counts["parts"] += 1

    for documents in _batches(chunk.documents()):
        counts["empty"] += sum(not each.text for each in documents)
        documents = [each for each in documents if each.text]
        digests = [_digest(each) for each in documents]
        for (digest, size), ids in zip(digests, tokenizer.encode_batch([d.text for d in documents]), strict=True):
            buffer.add(digest, ids, size)
            counts["documents"] += 1
            counts["bytes"] += size
        if buffer.tokens >= _PART_TOKENS:
            flush()
    if buffer.tokens:
        flush()
    return counts


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _check_splits(splits: dict[str, dict[str, Any]], out: Path) -> None:
    counts = {name: splits[name]["documents"] for name in SPLITS}
    if not sum(counts.values()):
        raise UserError(f"{out}: the sources hold no document with a text; nothing is written")
    for name, count in counts.items():
        if not count:
            raise UserError(
                f"{out}: too few documents ({sum(counts.values())}): none falls into {name}; add documents "
                "(for a text file say where one ends by --delimiter), or enlarge --val_share and --test_share"
            )
