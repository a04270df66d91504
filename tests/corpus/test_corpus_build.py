"""A corpus beside a plain reference: every byte, whatever the order, the format and the size of the sources."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_tl.corpus import build, chunks, merge
from lightning_tl.corpus.build import BuildOptions, build_corpus
from lightning_tl.corpus.manifest import read_manifest
from lightning_tl.corpus.sources import plan_sources

SPLITS = ("train", "val", "test")
OPTIONS = BuildOptions("bytes", 0.2, 0.1)


def some_texts(count: int = 120, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    alphabet = "abc déf\n漢"
    return ["".join(rng.choices(alphabet, k=rng.randrange(1, 200))) for _ in range(count)]


def reference(texts: list[str], val: float = 0.2, test: float = 0.1) -> dict[str, tuple[list[int], list[int], int]]:
    """Return ids, starts and bytes of each split, by a plain loop."""
    found: dict[str, tuple[list[int], list[int], list[int]]] = {name: ([], [], []) for name in SPLITS}
    by_hash = {hashlib.sha256(text.encode()).hexdigest(): text for text in texts if text}
    for digest in sorted(by_hash):
        place = int(digest[-16:], 16) / 16**16
        name = "val" if place < val else "test" if place < val + test else "train"
        ids, starts, sizes = found[name]
        starts.append(len(ids))
        ids.extend(by_hash[digest].encode())
        ids.append(256)
        sizes.append(len(by_hash[digest].encode()))
    return {name: (ids, starts, sum(sizes)) for name, (ids, starts, sizes) in found.items()}


def write_texts(folder: Path, texts: list[str]) -> list[str]:
    """Write texts in three formats, and return the sources."""
    (folder / "files" / "deep").mkdir(parents=True)
    third = len(texts) // 3
    for number, text in enumerate(texts[:third]):
        (folder / "files" / ("deep" if number % 2 else "") / f"{number}.txt").write_bytes(text.encode())
    lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(texts[third : 2 * third])]
    (folder / "rows.jsonl").write_text("\n".join(lines[:9]) + "\n\n" + "\n".join(lines[9:]))
    (folder / "more.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts[2 * third :]))
    return [str(folder / name) for name in ("files", "rows.jsonl", "more.jsonl")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def small(monkeypatch):
    """Make chunks, parts and sorted ranges so small that a test has many of each."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(chunks, "_BLOCK", 7)
    monkeypatch.setattr(build, "_PART_TOKENS", 300)
    monkeypatch.setattr(build, "_BATCH_CHARACTERS", 200)
    monkeypatch.setattr(merge, "_RANGE_TOKENS", 500)


def check(folder: Path, texts: list[str]) -> None:
    manifest = read_manifest(folder)
    manifest.verify()
    for name, (ids, starts, size) in reference(texts).items():
        assert manifest.open(name).tolist() == ids
        assert manifest.documents(name).tolist() == starts
        entry = manifest.splits[name]
        assert (entry.tokens, entry.documents, entry.bytes) == (len(ids), len(starts), size)


def test_every_token_is_that_of_the_reference(tmp_path, small):
    texts = some_texts()
    texts += texts[5:25]  # duplicates, in another source
    sources = write_texts(tmp_path, texts)
    plan = plan_sources(sources)
    assert len(plan) > 12
    manifest = build_corpus(plan, tmp_path / "out", OPTIONS)
    check(tmp_path / "out", texts)
    assert manifest.duplicates == 20
    assert not list(tmp_path.glob(".*"))


def test_the_order_of_sources_and_the_sizes_of_chunks_change_no_byte(tmp_path, monkeypatch):
    sources = write_texts(tmp_path, some_texts())
    build_corpus(plan_sources(sources), tmp_path / "one", OPTIONS)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 700)
    monkeypatch.setattr(build, "_PART_TOKENS", 1)
    monkeypatch.setattr(merge, "_RANGE_TOKENS", 300)
    build_corpus(plan_sources(sources[::-1]), tmp_path / "two", OPTIONS)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_documents_of_one_text_file(tmp_path, small):
    texts = [text.replace("\n", " ") for text in some_texts(60)]
    for delimiter in ("\n\n", "<end>", "\n"):
        (tmp_path / "all.txt").write_text(delimiter.join(texts))
        out = tmp_path / f"out{len(delimiter)}"
        build_corpus(plan_sources([str(tmp_path / "all.txt")], delimiter=delimiter), out, OPTIONS)
        check(out, [text for text in texts if text.strip()])


def test_a_larger_corpus_keeps_the_split_of_each_document(tmp_path):
    texts = some_texts(200)
    for count in (100, 200):
        write_texts(tmp_path / f"in{count}", texts[:count])
        build_corpus(plan_sources([str(tmp_path / f"in{count}")]), tmp_path / f"out{count}", OPTIONS)
    fewer, more = reference(texts[:100]), reference(texts)
    for name in SPLITS:
        pieces = bytes(min(id, 255) for id in more[name][0]).split(b"\xff")
        assert set(bytes(min(id, 255) for id in fewer[name][0]).split(b"\xff")) <= set(pieces)
    check(tmp_path / "out200", texts)


def test_shares_are_about_those_asked_for(tmp_path):
    texts = some_texts(3000, seed=1)
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    manifest = build_corpus(plan_sources([str(tmp_path / "in.jsonl")]), tmp_path / "out", OPTIONS)
    documents = {name: manifest.splits[name].documents for name in SPLITS}
    total = sum(documents.values())
    # five standard deviations of a binomial count
    for name, share in (("val", 0.2), ("test", 0.1)):
        assert abs(documents[name] - share * total) < 5 * (total * share * (1 - share)) ** 0.5


def test_bpe_is_trained_on_the_training_documents_in_any_order(tmp_path):
    sources = write_texts(tmp_path, some_texts())
    options = BuildOptions("bpe:280", 0.2, 0.1, bpe_sample=4000 / 2**20)  # a part of them
    one = build_corpus(plan_sources(sources), tmp_path / "one", options)
    build_corpus(plan_sources(sources[::-1]), tmp_path / "two", options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert one.dtype == np.uint16
    tokenizer = one.tokenizer()
    ids = one.open("train")
    ends = np.flatnonzero(ids == tokenizer.separator)
    assert len(ends) == one.splits["train"].documents
    starts = one.documents("train").tolist()
    decoded = {tokenizer.decode(ids[start:end]) for start, end in zip(starts, ends.tolist(), strict=True)}
    expected = bytes(min(id, 255) for id in reference(some_texts())["train"][0]).split(b"\xff")
    assert decoded == {each.decode() for each in expected if each}


def test_bpe_is_trained_on_as_much_text_as_asked_for(tmp_path, monkeypatch):
    seen = []
    train = build.train_bpe
    monkeypatch.setattr(build, "train_bpe", lambda texts, size: train(seen.extend(texts) or seen, size))
    texts = some_texts(1000)
    (tmp_path / "all.txt").write_text("<end>".join(texts))
    plan = plan_sources([str(tmp_path / "all.txt")], delimiter="<end>")
    # the training documents, 70 %, of so much of the text; the lengths of some 70 documents vary by chance
    for sample, within in ((32, 0.1), (0.1 * sum(len(text.encode()) for text in texts) / 2**20, 0.3)):
        seen.clear()
        build_corpus(plan, tmp_path / f"out{sample}", BuildOptions("bpe:280", 0.2, 0.1, bpe_sample=sample))
        share = sum(map(len, seen)) / sum(map(len, texts))
        assert share == pytest.approx(0.7 if sample == 32 else 0.07, rel=within)
    with pytest.raises(ValueError, match="holds a corpus of another --bpe_sample"):
        build_corpus(plan, tmp_path / "out32", BuildOptions("bpe:280", 0.2, 0.1, bpe_sample=16))
    with pytest.raises(ValueError, match="a sample this small holds no training document"):
        build_corpus(plan, tmp_path / "none", BuildOptions("bpe:280", 0.2, 0.1, bpe_sample=1e-9))


def test_a_finished_corpus_is_left_alone(tmp_path):
    sources = write_texts(tmp_path, some_texts())
    build_corpus(plan_sources(sources), tmp_path / "out", OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    build_corpus(plan_sources(sources), tmp_path / "out", OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from lightning_tl.corpus import build, chunks, merge, parts
chunks.CHUNK_BYTES, build._PART_TOKENS, build._BATCH_CHARACTERS, merge._RANGE_TOKENS = 1500, 800, 200, 900
out, tokenizer, after, *sources = sys.argv[1:]
left = int(after)
def counted(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
# a file is finished, a range of hashes is begun, a finished file is read: killed before one of these
Path.replace, merge._append, merge.file_sha256 = map(counted, (Path.replace, merge._append, merge.file_sha256))
build.shutil.rmtree = counted(build.shutil.rmtree)
from lightning_tl.corpus.sources import plan_sources
build.build_corpus(plan_sources(sources), Path(out), build.BuildOptions(tokenizer, 0.2, 0.1))
print(-left)
"""


def killed(out: Path, tokenizer: str, after: int, sources: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(out), tokenizer, str(after), *sources]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:270"])
def test_killed_and_run_again(tmp_path, tokenizer):
    texts = some_texts()
    sources = write_texts(tmp_path, texts)
    whole = killed(tmp_path / "whole", tokenizer, -1, sources)
    assert whole.returncode == 0, whole.stderr
    moments = int(whole.stdout)
    assert moments > 40
    if tokenizer == "bytes":
        check(tmp_path / "whole", texts)
    out, kills, kept = tmp_path / "out", 0, 0
    for after in (2, 9, 14, moments // 2, moments // 3, 7, 3, 2):
        result = killed(out, tokenizer, after, sources)
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr
        kills += 1
        assert out.exists() == (out / "manifest.json").exists()  # all of it or nothing
        if not out.exists():
            parts = len(list((tmp_path / ".out.building" / "parts").glob("*.json")))
            assert parts >= kept
            kept = parts
    assert kills >= 5
    assert kept > 0
    assert killed(out, tokenizer, -1, sources).returncode == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert not (tmp_path / ".out.building").exists()


def test_finished_chunks_are_not_read_again(tmp_path, small, monkeypatch):
    sources = write_texts(tmp_path, some_texts())
    read: list[str] = []

    def recorded(documents):
        def call(self):
            read.append(self.identity)
            if len(read) == 10:
                raise KeyboardInterrupt
            return documents(self)

        return call

    for kind in (chunks.FileGroup, chunks.FileRange):
        monkeypatch.setattr(kind, "documents", recorded(kind.documents))
    with pytest.raises(KeyboardInterrupt):
        build_corpus(plan_sources(sources), tmp_path / "out", OPTIONS)
    plan = plan_sources(sources)
    build_corpus(plan, tmp_path / "out", OPTIONS)
    assert sorted(set(read)) == sorted(chunk.identity for chunk in plan)
    assert len(read) == len(plan) + 1  # the one that was interrupted, twice
    check(tmp_path / "out", some_texts())


def test_a_source_that_changed_is_read_again(tmp_path):
    texts = some_texts()
    sources = write_texts(tmp_path, texts)
    assert killed(tmp_path / "out", "bytes", 30, sources).returncode == -signal.SIGKILL
    (tmp_path / "files" / "0.txt").write_text("another text")
    build_corpus(plan_sources(sources), tmp_path / "out", OPTIONS)
    check(tmp_path / "out", ["another text", *texts[1:]])
