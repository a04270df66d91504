"""Broken sources, tokenizers and corpora: one error each that says what, where and how to mend it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, trainers

from lightning_tl.cli.main import main
from lightning_tl.corpus import build, chunks
from lightning_tl.corpus.manifest import read_manifest
from lightning_tl.errors import UserError

GOOD = "".join(f'{{"text": "document {number} {"x" * number}"}}\n' for number in range(60))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a sound source in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(GOOD)
    return tmp_path


def error(capsys: Any, *arguments: str) -> str:
    """Run the command, which must fail with one error and leave no corpus, and return its message."""
    assert main(["corpus", *arguments]) == 2
    text: str = capsys.readouterr().err
    assert text.count("error: ") == 1
    assert "Traceback" not in text
    assert not Path("out/manifest.json").exists()
    return text[text.index("error: ") + 7 :].replace("\n", " ")


# name: (file, its content, further options, parts of the message)
SOURCES: dict[str, tuple[str, bytes | None, list[str], list[str]]] = {
    "no such file": ("a.txt", None, [], ["source a.txt: no such file"]),
    "an empty file": ("a.txt", b"", [], ["source a.txt: an empty file"]),
    "only white space": ("a.jsonl", b"\n\n  \n", [], ["hold no document with a text"]),
    "only empty texts": ("a.jsonl", b'{"text": ""}\n', [], ["hold no document with a text"]),
    "not UTF-8": ("a.txt", b"caf\xe9 noir", [], ["a.txt: byte 3 is not UTF-8", "iconv", "--pattern"]),
    "not UTF-8, after a delimiter": (
        "a.txt",
        b"one\n\ntwo\n\ncaf\xe9",
        ["--delimiter=\\n\\n"],
        ["a.txt: byte 13 is not UTF-8"],
    ),
    "a binary file": ("a.txt", b"abc\0def", [], ["a.txt: contains the null character", "--pattern"]),
    "compressed": ("a.jsonl.gz", b"\x1f\x8b", [], ["a.jsonl.gz: compressed; unpack it first"]),
    "broken JSON": ("a.jsonl", GOOD.encode() + b'{"text": "b\n', [], ["a.jsonl, line 61: not JSON", "delete the line"]),
    "JSON that is not UTF-8": ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', [], ["a.jsonl, line 2: not JSON"]),
    "JSON nested too deeply": ("a.jsonl", b"[" * 99999, [], ["a.jsonl, line 1: not JSON (it is nested too deeply"]),
    "a line that is no object": ("a.jsonl", b"[1, 2]\n", [], ["line 1: not a JSON object", '{"text": "…"}']),
    "a missing key": (
        "a.jsonl",
        b'{"text": "a"}\n\n{"body": "b"}\n',
        [],
        ["a.jsonl, line 3: no key 'text'", "--key (there: body)"],
    ),
    "another key": ("a.jsonl", b'{"text": "a"}\n', ["--key=content"], ["no key 'content'", "(there: text)"]),
    "a text that is a number": ("a.jsonl", b'{"text": 12}\n', [], ["line 1: 'text' is not a text but 12"]),
    "half a surrogate pair": (
        "a.jsonl",
        b'{"text": "good"}\n{"text": "ab\\ud800"}\n',
        [],
        ["a.jsonl, the document at byte 17: character 2 is half of a surrogate pair"],
    ),
    "an empty delimiter": ("a.txt", b"abc", ["--delimiter="], ["--delimiter is empty"]),
    "too few documents": ("a.txt", b"abc", [], ["out: too few documents (1): none falls into", "--val_share"]),
    "too few documents for a BPE": (
        "a.txt",
        b"abc",
        ["--tokenizer=bpe:280", "--val-share=0.45", "--test-share=0.45"],
        ["out: too few documents (1): none falls into", "--delimiter"],
    ),
    "no text for a BPE": (
        "a.txt",
        b"abc",
        ["--bpe-sample=0"],
        ["--bpe_sample is 0.0; it must be above 0 (MiB of text; the default is 32)"],
    ),
    "a share out of range": ("a.txt", b"abc", ["--val-share=1"], ["--val_share is 1.0; it must be between 0 and 1"]),
    "shares of everything": (
        "a.txt",
        b"abc",
        ["--val_share=0.5", "--test_share=0.5"],
        ["leave nothing to train on", "below 1"],
    ),
    "an unknown tokenizer": ("a.txt", b"abc", ["--tokenizer=byte"], ["no tokenizer 'byte'; did you mean 'bytes'?"]),
    "a size that is none": ("a.txt", b"abc", ["--tokenizer=bpe:4k"], ["tokenizer 'bpe:4k': write bpe:SIZE", "257"]),
    "a size that is too small": ("a.txt", b"abc", ["--tokenizer=bpe:100"], ["tokenizer 'bpe:100': write bpe:SIZE"]),
    "a separator for bytes": (
        "a.txt",
        b"abc",
        ["--tokenizer=bytes", "--separator=</s>"],
        ["--separator is for a tokenizer.json; the tokenizer 'bytes' has its own"],
    ),
    "a separator for a BPE to be trained": (
        "a.txt",
        b"abc",
        ["--tokenizer=bpe:300", "--separator=</s>"],
        ["--separator is for a tokenizer.json; bpe:300"],
    ),
    "an unknown built-in text": ("builtin:pythn", None, [], ["no built-in text 'pythn'; did you mean 'python'?"]),
    "an unknown option": ("a.txt", b"abc", ["--tokeniser=bytes"], ["unknown option --tokeniser; did you mean"]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_broken_source_or_a_wrong_option(place, capsys, name):
    file, content, options, parts = SOURCES[name]
    if content is not None:
        (place / file).write_bytes(content)
    message = error(capsys, "build", "--source", file, "--out=out", *options)
    for part in parts:
        assert part in message, message


def test_a_broken_line_of_a_later_chunk_has_its_number(place, capsys, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 200)
    (place / "a.jsonl").write_text(GOOD + "\n" + GOOD + "broken\n" + GOOD)
    assert "a.jsonl, line 122: not JSON" in error(capsys, "build", "--source=a.jsonl", "--out=out")


def test_a_folder_without_files(place, capsys):
    (place / "texts").mkdir()
    (place / "texts" / ".hidden.txt").write_text("hidden")
    (place / "texts" / "a.md").write_text("text")
    message = error(capsys, "build", "--source=texts", "--pattern=*.txt", "--out=out")
    assert "source texts: no file '*.txt' in this folder; choose the files by --pattern" in message


def test_documents_that_are_too_large(place, capsys, monkeypatch):
    monkeypatch.setattr(chunks, "_LARGEST_DOCUMENT", 100)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 50)
    (place / "a.txt").write_text("word " * 40)
    assert "a.txt: 0 MiB are too many for one document" in error(capsys, "build", "--source=a.txt", "--out=out")
    message = error(capsys, "build", "--source=a.txt", "--out=out", "--delimiter=\\n")
    assert "a.txt: no '\\n' in 0 MiB after byte 0" in message


def test_a_pipe_is_not_waited_for(place, capsys):
    os.mkfifo("pipe.txt")
    assert "source pipe.txt: a pipe, not a file" in error(capsys, "build", "--source=pipe.txt", "--out=out")


def test_an_output_folder_with_something_else(place, capsys):
    (place / "out").mkdir()
    (place / "out" / "notes.txt").write_text("mine")
    message = error(capsys, "build", "--source=good.jsonl", "--out=out")
    assert "out: there already, and no corpus; give another --out" in message
    assert (place / "out" / "notes.txt").read_text() == "mine"


BUILD = ["corpus", "build", "--source=good.jsonl", "--val_share=0.2", "--test_share=0.2"]


def test_a_corpus_of_other_settings_or_sources(place, capsys):
    (place / "more.jsonl").write_text(GOOD * 2)
    (place / "lines.txt").write_text("".join(f"line {number}\n" for number in range(60)))
    lines = ["--source=lines.txt", "--delimiter=\\n"]
    for first, changed, what in (
        ([], "--tokenizer=ascii", "another --tokenizer (bytes, not ascii)"),
        ([], "--test_share=0.3", "another --test_share (0.2, not 0.3)"),
        ([], "--source=more.jsonl", "other sources"),
        ([], "--key=other", "good.jsonl read with --key 'text'"),  # sources of the same sizes
        (lines, "--delimiter=\\n\\n", "lines.txt read with --delimiter '\\n'"),
        (["--tokenizer=two.json"], "--separator=<two>", "another --separator (</s>, not <two>)"),
    ):
        two_ends("two.json")
        shutil.rmtree("made", ignore_errors=True)
        assert main([*BUILD, "--out=made", *first]) == 0
        assert main([*BUILD, "--out=made", *first]) == 0
        capsys.readouterr()
        assert main([*BUILD, "--out=made", *first, changed]) == 2
        message = capsys.readouterr().err.replace("\n", " ")
        assert f"made: holds a corpus of {what}; give another --out" in message


def two_ends(path: str) -> None:
    """Write a tokenizer with two special tokens, either of which may end a document."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(special_tokens=["</s>", "<two>"], vocab_size=60, show_progress=False)
    tokenizer.train_from_iterator([GOOD], trainer)
    tokenizer.save(path)


def test_parts_of_an_interrupted_build_with_another_separator_are_not_used(place, monkeypatch):
    two_ends("two.json")
    monkeypatch.setattr(build, "merge_parts", interrupted)
    assert main([*BUILD, "--out=made", "--tokenizer=two.json"]) == 130
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert main([*BUILD, "--out=made", "--tokenizer=two.json", "--separator=<two>"]) == 0
    manifest = read_manifest("made")
    assert int((manifest.open("train") == manifest.separator).sum()) == manifest.splits["train"].documents


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_corpus_from_before_a_setting_was_written_down(place, capsys):
    command = [*BUILD, "--out=made", "--tokenizer=bpe:270"]
    assert main(command) == 0
    path = Path("made/manifest.json")
    content = json.loads(path.read_text())
    assert content["settings"].pop("bpe_sample") == 32
    assert [source.pop("reading") for source in content["sources"]] == [{"key": "text"}]
    path.write_text(json.dumps(content))
    before = path.stat().st_mtime_ns
    assert main(command) == 0
    assert path.stat().st_mtime_ns == before
    capsys.readouterr()
    assert main([*command, "--bpe_sample=16"]) == 2
    assert "another --bpe_sample (32, not 16" in capsys.readouterr().err


def test_two_builds_of_one_corpus(place, capsys):
    import filelock

    (place / ".out.building").mkdir()
    with filelock.FileLock(place / ".out.building" / "lock"):
        (place / ".out.building" / "lock").write_text("4711\n")
        message = error(capsys, "build", "--source=good.jsonl", "--out=out")
    assert "out: process 4711 builds this corpus; wait for it" in message


def tokenizer_file(special: list[str]) -> str:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    tokenizer.add_special_tokens(special)
    return str(tokenizer.to_str())


@pytest.mark.parametrize(
    "content,options,message",
    [
        (b"{", [], "tokenizer.json: not a tokenizer of Hugging Face's tokenizers"),
        (b"", [], "tokenizer.json: not a tokenizer of Hugging Face's tokenizers"),
        (b'{"model": {"type": "unknown"}}', [], "tokenizer.json: not a tokenizer"),
        (b"\xff\xfe", [], "tokenizer.json: not UTF-8; give a tokenizer.json"),
        (tokenizer_file([]).encode(), [], "it has no known end of a text; name the token that ends a document"),
        (tokenizer_file(["<pad>"]).encode(), [], "valid: <pad>"),
        (tokenizer_file(["<pad>"]).encode(), ["--separator=<pat>"], "'<pat>' is not one of its special tokens"),
        (tokenizer_file(["</s>"]).encode(), ["--separator=a"], "'a' is not one of its special tokens"),
    ],
)
def test_a_damaged_tokenizer(place, capsys, content, options, message):
    (place / "tokenizer.json").write_bytes(content)
    assert message in error(capsys, "build", "--source=good.jsonl", "--out=out", "--tokenizer=tokenizer.json", *options)


@pytest.mark.parametrize(
    "source,tokenizer,package,message",
    [
        ("good.jsonl", "bpe:300", "tokenizers", "pip install 'lightning-tl[language]', or use the tokenizer bytes"),
        ("a.parquet", "bytes", "pyarrow.parquet", "to read Parquet files install pyarrow: pip install pyarrow"),
        ("hf:some/set", "bytes", "datasets", "to read Hugging Face data sets install datasets: pip install datasets"),
    ],
)
def test_a_package_that_is_missing(place, capsys, monkeypatch, source, tokenizer, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    (place / "a.parquet").write_bytes(b"PAR1")
    assert message in error(capsys, "build", f"--source={source}", "--out=out", f"--tokenizer={tokenizer}")


class Table:
    """Stands in for a Parquet file or a data set of one text column."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows
        self.column_names, self._fingerprint, self.data = ["content", "id"], "print", SimpleNamespace(nbytes=1000)
        self.schema_arrow = SimpleNamespace(names=["content", "id"])
        group = SimpleNamespace(total_byte_size=1000)
        self.metadata = SimpleNamespace(num_row_groups=1, row_group=lambda number: group)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *error: object) -> None: ...

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> dict[str, list[Any]]:
        return {"content": self.rows[rows]}

    def iter_batches(self, batch_size: int, row_groups: list[int], columns: list[str]) -> list[Any]:
        assert (row_groups, columns) == ([0], ["content"])
        batches = [self.rows[:30], self.rows[30:]]
        return [
            SimpleNamespace(column=lambda number, rows=rows: SimpleNamespace(to_pylist=lambda: rows))
            for rows in batches
        ]


def use_tables(monkeypatch: pytest.MonkeyPatch, rows: list[Any]) -> list[Any]:
    """Put modules in the place of pyarrow and datasets; return what ``load_dataset`` is called with."""
    called: list[Any] = []

    def load(*arguments: Any, **options: Any) -> Table:
        called.append((arguments, options))
        if arguments[0] == "no/such":
            raise FileNotFoundError("Dataset 'no/such' does not exist")
        return Table(rows)

    parquet: Any = ModuleType("pyarrow.parquet")
    parquet.ParquetFile = lambda path: Table(rows)
    package: Any = ModuleType("pyarrow")
    package.parquet = parquet
    datasets: Any = ModuleType("datasets")
    datasets.load_dataset = load
    for module in (parquet, package, datasets):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return called


@pytest.mark.parametrize("source", ["a.parquet", "hf:some/set,english"])
def test_tables_are_read_as_lines_are(place, capsys, monkeypatch, source):
    rows = [json.loads(line)["text"] for line in GOOD.splitlines()]
    called = use_tables(monkeypatch, rows)
    (place / "a.parquet").write_bytes(b"PAR1")
    options = ["--val_share=0.2", "--test_share=0.2", "--key=content"]
    assert main(["corpus", "build", f"--source={source}", "--out=table", *options]) == 0
    assert main([*BUILD, "--out=lines"]) == 0
    for name in ("train.bin", "val.bin", "test.bin"):
        assert (place / "table" / name).read_bytes() == (place / "lines" / name).read_bytes()
    if source.startswith("hf:"):
        assert called == [(("some/set", "english"), {"split": "train"})]
    message = error(capsys, "build", f"--source={source}", "--out=out", "--key=contents")
    assert "no column 'contents', which --key names; did you mean 'content'?" in message
    use_tables(monkeypatch, [*rows, None])
    message = error(capsys, "build", f"--source={source}", "--out=out", "--key=content")
    assert "row 60" in message
    assert "'content' is not a text but None" in message


def test_a_data_set_that_does_not_exist(place, capsys, monkeypatch):
    use_tables(monkeypatch, [])
    message = error(capsys, "build", "--source=hf:no/such", "--out=out")
    assert "hf:no/such: cannot be loaded (Dataset 'no/such' does not exist); write hf:NAME,CONFIGURATION" in message


def edit(**changes: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


DAMAGE: dict[str, tuple[Any, str]] = {
    "no folder": (lambda folder: folder.rename(folder.with_name("gone")), "made: no such folder; build the corpus"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "made: no manifest.json in it, so it is no"),
    "no JSON": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: cannot be read as JSON"),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: not the manifest of a"),
    "another format": (edit(format=2), "manifest.json: format 2; this version reads format 1"),
    "no splits": (edit(splits={}), "a key is missing or wrong (ValueError: splits are"),
    "a split without counts": (edit(splits={"train": {}}), "a key is missing or wrong (KeyError: 'tokens')"),
    "splits of another kind": (edit(splits=3), "a key is missing or wrong (AttributeError"),
    "an unknown type": (edit(dtype="float32"), "a key is missing or wrong (ValueError: dtype is 'float32', for 257"),
    "a type that is too small": (edit(dtype="uint8"), "dtype is 'uint8', for 257 ids"),
    "a count that is none": (edit(vocab_size=-1), "a key is missing or wrong (ValueError: -1 is not a count"),
    "a separator out of range": (edit(tokenizer={"name": "bytes", "separator": 999}), "ValueError: tokenizer"),
    "no tokenizer": (edit(tokenizer=None), "a key is missing or wrong (TypeError"),
    "a tokenizer whose file is gone": (
        edit(tokenizer={"name": "bpe:300", "separator": 0}),
        "tokenizer.json: no such file; build the corpus again",
    ),
    "truncated": (
        lambda folder: os.truncate(folder / "train.bin", 11),
        "train.bin: 11 bytes, but manifest.json says",
    ),
    "a file that is gone": (lambda folder: (folder / "train.bin").unlink(), "train.bin: no such file; build"),
    "documents truncated": (
        lambda folder: os.truncate(folder / "train.documents.npy", 90),
        "train.documents.npy: cannot be read",
    ),
    "other documents": (
        lambda folder: np.save(folder / "train.documents.npy", np.zeros(2, np.uint64)),
        "train.documents.npy: 2 documents, but manifest.json says another number",
    ),
    "a changed token": (
        lambda folder: (folder / "val.bin").write_bytes(b"\1" + (folder / "val.bin").read_bytes()[1:]),
        "val.bin: its content is not what manifest.json says",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_corpus(place, capsys, name):
    assert main([*BUILD, "--out=made"]) == 0
    capsys.readouterr()
    damage, part = DAMAGE[name]
    damage(place / "made")
    message = error(capsys, "show", "made", "--verify")
    assert part in message
    assert "build the corpus again: lightning-tl corpus build" in message


def test_a_split_that_is_none(place, capsys):
    assert main([*BUILD, "--out=made"]) == 0
    with pytest.raises(UserError, match=r"made: no split 'valid'; valid: train, val, test"):
        read_manifest("made").open("valid")
    capsys.readouterr()
    assert "no split 'valid'" in error(capsys, "show", "made", "--split=valid")
    assert "--documents is -1; it must be at least 0" in error(capsys, "show", "made", "--documents=-1")
    assert "corpus: no action 'shw'; did you mean 'show'?" in error(capsys, "shw")


def test_build_and_show_print_what_a_corpus_holds(place, capsys):
    assert main([*BUILD, "--out=made", "--tokenizer=ascii"]) == 0
    out = capsys.readouterr().out
    manifest = read_manifest("made")
    assert f"{manifest.splits['train'].tokens:,} tokens" in out
    assert "tokenizer ascii: 99 ids, uint8" in out
    assert main(["corpus", "show", "made", "--verify", "--documents=1"]) == 0
    out = capsys.readouterr().out
    first = manifest.tokenizer().decode(manifest.open("train")[: int(manifest.documents("train")[1])])
    assert f"  {first}" in out
    assert "every file has the content that the manifest says" in out
