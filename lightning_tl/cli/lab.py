"""`lightning-tl lab`: the papers' theory beside simulations, and the library's own answers on them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_tl.cli.parsing import command_parser, parse, with_underscores
from lightning_tl.errors import UserError, nearest
from lightning_tl.labs.catalogue import LABS, lab_class, listing

if TYPE_CHECKING:
    from lightning_tl.labs.lab import Lab


def usage() -> str:
    """Return the text of ``lightning-tl lab --help``."""
    return (
        "usage: lightning-tl lab [NAME [--key value ...] | all] [--out DIR]\n\n"
        "Theory with a known answer, simulated; what the library measures, fits and concludes is compared with it.\n\n"
        f"labs:\n{listing()}\n\n"
        "lightning-tl lab NAME --help lists a lab's parameters; `all` runs every lab into folders of DIR.\n"
    )


def main(argv: list[str] | None = None) -> int:
    """List the labs, run one, or run all; write their files.

    Args:
        argv: Arguments after ``lightning-tl lab``; default the process's.

    Returns:
        0 where no comparison disagrees with the theory, else 1.

    Raises:
        UserError: No such lab or parameter; a value is out of range.
    """
    arguments = sys.argv[2:] if argv is None else list(argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    name, *rest = arguments
    if name != "all":
        lab, out = _parsed(name, rest)
        return _run(name, lab, out)
    parser = command_parser("lab all", "Run every lab with its default parameters.")
    parser.add_argument("--out", type=Path, default=Path("runs/labs"), help="Folder to write into.")
    parser.add_argument("--seed", type=int, default=0, help="Of all labs.")
    options = parse(parser, rest)
    codes = [_run(each, lab_class(each)(seed=_seed(options.seed)), options.out / each) for each in LABS]
    return max(codes)


def _seed(seed: int) -> int:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; it must be from 0 to {2**32 - 1}")
    return seed


def _parsed(name: str, arguments: list[str]) -> tuple[Lab, Path]:
    if name not in LABS:
        raise UserError(f"no lab '{name}'{nearest(name, [*LABS, 'all'])}")
    kind = lab_class(name)
    parser = command_parser(f"lab {name}", LABS[name][2])
    parser.add_argument("--out", type=Path, default=Path("runs/labs") / name, help="Folder to write into.")
    parser.add_class_arguments(kind)
    own = [item.name for item in fields(kind)]
    settings = parse(parser, [with_underscores(argument, own) for argument in arguments])
    _seed(settings["seed"])
    return kind(**{key: settings[key] for key in own}), settings.out


def _run(name: str, lab: Lab, out: Path) -> int:
    from lightning_tl.labs.outcome_files import write_outcome

    lab.check()
    out.mkdir(parents=True, exist_ok=True)  # a wrong folder fails before a minute of simulation
    if not os.access(out, os.W_OK):
        raise UserError(f"{out}: you may not write there; choose another folder by --out")
    begun = time.monotonic()
    with _one_thread():
        outcome = lab.run()
    paths = write_outcome(name, lab, outcome, out)
    counts = outcome.counts()
    print(f"{name}: {outcome.paragraphs[2]}")
    total = sum(counts.values())
    print(f"  {counts['agrees']} of {total} comparisons agree with the theory", end="")
    rest = [f"{counts[kind]} {words}" for kind, words in _REST.items() if counts[kind]]
    print(f" ({', '.join(rest)})" if rest else "", end="")
    print(f"; {time.monotonic() - begun:.0f} s; wrote {paths[-1]}")
    return 1 if counts["disagrees"] else 0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread of BLAS and torch.

    Matrices of labs are small: more threads gain little, and where other processes use the cores, they wait for each
    other and take many times as long.
    """
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


_REST = {"disagrees": "disagree", "undecided": "are undecided: more runs would decide"}
