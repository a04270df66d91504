"""Time, CPU time and peak memory of `lightning-tl corpus build`, by size and tokenizer.

    python benchmarks/corpus.py [--megabytes 100] [--tokenizers ascii bytes bpe:8192] [--folder DIR]

The text is the source of Python's standard library and of installed packages, as JSON lines. Where it is shorter than
asked for it is repeated, with a line before each document that makes it another one. Each build runs in a process of
its own. Beside it the same for a quarter of the text: memory that does not grow is flat. "read" is a process that only
reads and parses the lines: what any other tokenizer would need too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightning_tl.corpus.builtin import builtin_chunks
from lightning_tl.corpus.manifest import read_manifest

BUILD = """
import resource, sys
from lightning_tl.cli.main import main
assert main(["corpus", "build", "--source", sys.argv[1], "--tokenizer", sys.argv[2], "--out", sys.argv[3]]) == 0
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
READ = """
import json, resource, sys
for line in open(sys.argv[1], encoding="utf-8"):
    json.loads(line)["text"]
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def write_text(path: Path, size: int) -> None:
    """Write JSON lines whose texts have about ``size`` bytes of UTF-8."""
    written, copy = 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            for chunk in builtin_chunks("builtin:python"):
                for document in chunk.documents():
                    text = f"# copy {copy}\n{document.text}"
                    file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                    written += len(text.encode())
                    if written >= size:
                        return
            copy += 1


def measure(code: str, *arguments: str) -> tuple[float, float, float]:
    """Return the seconds, the CPU seconds and the peak memory in MB of a process."""
    begun = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    cpu, memory = result.stdout.split()[-2:]
    return time.perf_counter() - begun, float(cpu), int(memory) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--tokenizers", nargs="+", default=["ascii", "bytes", "bpe:8192"])
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: the temporary folder)")
    options = parser.parse_args()
    print(f"{'text':>9}  {'tokenizer':<9}  {'seconds':>8}  {'CPU s':>7}  {'peak memory':>11}  {'tokens':>8}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for megabytes in (options.megabytes // 4, options.megabytes):
            path, out = Path(folder) / "text.jsonl", Path(folder) / "corpus"
            write_text(path, megabytes * 10**6)
            seconds, cpu, memory = measure(READ, str(path))
            print(f"{megabytes:>6} MB  {'(read)':<9}  {seconds:>8.1f}  {cpu:>7.1f}  {memory:>8.0f} MB")
            for tokenizer in options.tokenizers:
                seconds, cpu, memory = measure(BUILD, str(path), tokenizer, str(out))
                size = sum(split.tokens for split in read_manifest(out).splits.values())
                row = f"{megabytes:>6} MB  {tokenizer:<9}  {seconds:>8.1f}  {cpu:>7.1f}"
                print(f"{row}  {memory:>8.0f} MB  {size / 1e6:>6.0f}M", flush=True)
                shutil.rmtree(out)


if __name__ == "__main__":
    main()
