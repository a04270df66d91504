"""`lightning-tl corpus`: build a corpus of token ids from text, and show what one holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning_tl.cli.parsing import command_parser, parse, with_underscores
from lightning_tl.errors import UserError, nearest

_OPTIONS = ("val_share", "test_share", "bpe_sample")


def _build(argv: list[str]) -> int:
    from lightning_tl.corpus.build import BuildOptions, build_corpus
    from lightning_tl.corpus.sources import plan_sources
    from lightning_tl.progress import progress_bar

    parser = command_parser(
        "corpus build",
        "Tokenize texts into one memory-mapped file per split. Interrupted, it goes on where it stopped when the same "
        "command is run again.",
    )
    parser.add_argument(
        "--source",
        type=str,
        nargs="+",
        required=True,
        help="Text files, .jsonl, .parquet, folders of these, hf:NAME (a Hugging Face data set), builtin:NAME.",
    )
    parser.add_argument("--out", type=Path, required=True, help="New folder, or that of an interrupted build.")
    parser.add_argument(
        "--tokenizer", type=str, default="bytes", help="bytes, ascii, bpe:SIZE (trained), or a tokenizer.json."
    )
    parser.add_argument(
        "--separator", type=str | None, default=None, help="Of a tokenizer.json: the token that ends a document."
    )
    parser.add_argument(
        "--bpe_sample",
        type=float,
        default=32,
        help="Of bpe:SIZE: MiB of text, about, that it is trained on, a random part of the training documents.",
    )
    parser.add_argument("--key", type=str, default="text", help="Key or column of the text in .jsonl, .parquet, hf:.")
    parser.add_argument("--pattern", type=str, default="*", help="Which files of a folder to read, such as '*.txt'.")
    parser.add_argument(
        "--delimiter",
        type=str | None,
        default=None,
        help="What ends a document in a text file; \\n is a new line (default: a file is one document).",
    )
    parser.add_argument("--val_share", type=float, default=0.02, help="Share of the documents for validation.")
    parser.add_argument("--test_share", type=float, default=0.02, help="Share of the documents for test.")
    options = parse(parser, [with_underscores(argument, _OPTIONS) for argument in argv])
    delimiter = None if options.delimiter is None else options.delimiter.replace("\\n", "\n")
    chunks = plan_sources(options.source, options.key, options.pattern, delimiter)
    settings = BuildOptions(
        options.tokenizer, options.val_share, options.test_share, options.separator, options.bpe_sample
    )
    build_corpus(chunks, options.out, settings, progress_bar)
    print(_summary(options.out))
    print(options.out)
    return 0


def _show(argv: list[str]) -> int:
    parser = command_parser("corpus show", "What a corpus holds, and the beginning of its first documents.")
    parser.add_argument("root", type=Path, help="Corpus folder.")
    parser.add_argument("--documents", type=int, default=2, help="Number of documents to show the beginning of.")
    parser.add_argument("--split", type=str, default="train", help="Split of these documents.")
    parser.add_argument("--verify", action="store_true", help="Read all of it, and compare it with its hashes.")
    options = parse(parser, argv)
    if options.documents < 0:
        raise UserError(f"--documents is {options.documents}; it must be at least 0")
    from lightning_tl.corpus.manifest import read_manifest

    print(_summary(options.root))
    manifest = read_manifest(options.root)
    if options.verify:
        manifest.verify()
        print("every file has the content that the manifest says")
    ids, tokenizer = manifest.open(options.split), manifest.tokenizer()
    for start in manifest.documents(options.split)[: options.documents].tolist():
        print(f"\n{options.split}, from token {start}:")
        text = tokenizer.decode(ids[start : start + 400])
        print("\n".join(f"  {line[:120]}" for line in text.splitlines()[:8]))
    return 0


def _summary(root: Path) -> str:
    from lightning_tl.corpus.manifest import read_manifest

    manifest = read_manifest(root)
    lines = [f"tokenizer {manifest.tokenizer_entry['name']}: {manifest.vocab_size} ids, {manifest.dtype.name}"]
    for name, entry in manifest.splits.items():
        ratio = entry.bytes / max(1, entry.tokens)
        lines.append(
            f"{name:<5}  {entry.tokens:>14,} tokens  {entry.documents:>10,} documents  {entry.bytes / 1e6:>10,.1f} MB  "
            f"{ratio:.2f} bytes per token"
        )
    empty = sum(int(source.get("empty", 0)) for source in manifest.sources)
    left_out = f"{manifest.duplicates:,} duplicates" + (f" and {empty:,} empty documents" if empty else "")
    return "\n".join([*lines, f"left out: {left_out}"])


ACTIONS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "build": (_build, "--source PATH... --out DIR [--tokenizer bytes|ascii|bpe:SIZE|FILE]: tokenize texts"),
    "show": (_show, "DIR [--verify]: its size, tokenizer and first documents"),
}


def main(argv: list[str]) -> int:
    """Run the action that ``argv`` begins with."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: lightning-tl corpus ACTION [OPTIONS]\n")
        print("\n".join(f"lightning-tl corpus {name} {line}" for name, (_, line) in ACTIONS.items()))
        return 0 if argv else 2
    if argv[0] not in ACTIONS:
        raise UserError(f"corpus: no action '{argv[0]}'{nearest(argv[0], ACTIONS)}")
    return ACTIONS[argv[0]][0](argv[1:])
