"""Thousands of damaged inputs: an answer or one message, never a traceback, a hang, or a file outside of the folder."""

from __future__ import annotations

import logging
import os
import random
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from targets import TARGETS, Inputs

CASES = 3200
SECONDS, BYTES = 20, 3 << 30


class TooLong(BaseException):
    """A case took more than its time; no handler of ``Exception`` catches it."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("sound"))


@contextmanager
def limited() -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(SECONDS * 6)  # of the clock, on a machine that does more
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def listing(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def failure(target: str, number: int, folder: Path, inputs: Inputs) -> str:
    """Run a case; return what is wrong with its end, or an empty text."""
    if target == "checkpoints":
        _ = inputs.run
    case = folder / "case"
    case.mkdir(parents=True)
    (folder / "beside").mkdir()
    before, memory = listing(folder) | listing(inputs.folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = os.times()
    problem = ""
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[target][0](random.Random(f"{target} {number}"), case, inputs)
    except TooLong:
        problem = "takes too long"
    except SystemExit:
        pass
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"[:300]
    used = os.times()
    if used.user - begun.user + used.system - begun.system > SECONDS:
        problem = problem or "takes too long"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory > BYTES >> 10:
        problem = problem or "takes more than 3 GB"
    outside = {name for name in listing(folder) | listing(inputs.folder) if not name.startswith(f"{case}/")} ^ before
    if outside:
        problem = problem or f"changes {sorted(outside)[:3]}"
    shutil.rmtree(folder)
    return problem and f"{target} {number}: {problem}"


def numbers(cases: int) -> list[tuple[str, int]]:
    return [(name, number) for name, (_, share) in TARGETS.items() for number in range(max(1, round(cases * share)))]


def run_cases(cases: list[tuple[str, int]], tmp_path: Path, inputs: Inputs, capfd: Any) -> None:
    failures = []
    logging.raiseExceptions = False  # handlers keep the stream of an earlier test
    for target, number in cases:
        failures += filter(None, [failure(target, number, tmp_path / f"{target}{number}", inputs)])
        _, said = capfd.readouterr()
        if "Traceback" in said:
            failures.append(f"{target} {number}: prints a traceback")
    assert not failures, f"{len(failures)} of {len(cases)}:\n" + "\n".join(failures[:80])


@pytest.mark.filterwarnings("ignore")
def test_some_damaged_inputs(tmp_path: Path, inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    run_cases([case for case in numbers(120) if case[0] not in ("checkpoints", "fit_yaml")], tmp_path, inputs, capfd)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("target", TARGETS)
def test_thousands_of_damaged_inputs(
    target: str, tmp_path: Path, inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    run_cases([case for case in numbers(CASES) if case[0] == target], tmp_path, inputs, capfd)
