from __future__ import annotations

import io
import sys

import pytest

from lightning_tl import progress
from lightning_tl.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_with_a_rate_and_the_time_left(clock, capsys):
    with progress_bar("render", "images") as advance:
        advance(500, 1000)  # there already: not in the rate
        for _ in range(4):
            clock[0] += 5
            advance_to = 500 + int((clock[0] - 100) * 10)
            advance(advance_to, 1000)
        clock[0] += 1
        advance(1000, 1000)
        advance(1000, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "render: 600/1000 images, 10.0/s, 40 s left",
        "render: 700/1000 images, 10.0/s, 30 s left",
        "render: 1000/1000 images, 23.8/s",
    ]


def test_nothing_to_do_is_one_line(clock, capsys):
    with progress_bar("train", "steps") as advance:
        advance(30, 30)
    assert capsys.readouterr().err == "train: 30/30 steps\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("render", "images") as advance:
        advance(0, 10)
        advance(10, 10)
    text = terminal.getvalue()
    assert "render" in text
    assert "10/10" in text
    assert "images/s" in text
