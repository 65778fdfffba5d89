"""The progress bar, on a terminal that the tests can read."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from monitor.formats import open_writer
from monitor.progress import ReplayProgress
from monitor.timebase import NS_PER_SECOND, parse_time
from tests.detections import detection

START_NS = parse_time("2010-05-27T16:00:00Z")


class Terminal(io.StringIO):
    """Standard output and standard error of one terminal."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """Interpret what was written as a terminal does: the lines that a person sees."""
        return on_screen(self.getvalue())


def on_screen(written: str) -> list[str]:
    lines, column = [""], 0
    for token in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|[^\x1b]", written):
        if token == "\n":
            lines.append("")
            column = 0
        elif token == "\r":
            column = 0
        elif token == "\x1b[K":
            lines[-1] = lines[-1][:column]
        elif token == "\x1b[2K":
            lines[-1] = " " * column
        elif token.endswith("m") and len(token) > 1:
            pass
        else:
            assert token[0] != "\x1b", f"unexpected control sequence {token!r}"
            lines[-1] = lines[-1][:column].ljust(column) + token + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")


def test_the_line_says_where_how_fast_and_how_many() -> None:
    terminal, clock = Terminal(), Clock()
    with ReplayProgress(7200, stream=terminal, clock=clock) as progress:
        clock.now_s = 2.0
        progress.update(START_NS + 1800 * NS_PER_SECOND, 1800.0, 1)
        (line,) = terminal.screen()
    assert "25%  2010-05-27 16:30:00 UTC  900x real time  1 detection" in line
    assert "━" in line
    assert terminal.screen() == [""]


def test_nothing_is_written_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with ReplayProgress(10, stream=stream) as progress:
        progress.update(START_NS, 5.0, 0)
        assert progress.guard(stream) is stream
    assert stream.getvalue() == ""


def test_a_dumb_terminal_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with ReplayProgress(10, stream=terminal) as progress:
        progress.update(START_NS, 5.0, 0)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("total_s", "done_s"), [(0.0, 5.0), (10.0, 11.0), (10.0, 0.0)])
def test_totals_that_do_not_fit_are_drawn(total_s: float, done_s: float) -> None:
    terminal = Terminal()
    with ReplayProgress(total_s, stream=terminal, clock=Clock()) as progress:
        progress.update(START_NS, done_s, 0)
        (line,) = terminal.screen()
    assert "0 detections" in line
    assert ("%" in line) == (total_s > 0)
    assert "110%" not in line


@pytest.mark.parametrize("columns", [20, 60, 80])
def test_a_narrow_terminal_is_never_wrapped(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    with ReplayProgress(10, stream=terminal) as progress:
        progress.update(START_NS, 5.0, 12345)
        (line,) = terminal.screen()
    assert 0 < len(line) < columns


def test_many_updates_draw_few_lines() -> None:
    terminal, clock = Terminal(), Clock()
    with ReplayProgress(100_000, stream=terminal, clock=clock) as progress:
        for packet in range(100_000):
            clock.now_s = packet * 1e-5
            progress.update(START_NS + packet * NS_PER_SECOND, packet, 0)
    assert 9 <= terminal.getvalue().count("real time") <= 11


@pytest.mark.parametrize("color", [False, True])
def test_rows_on_the_same_terminal_stay_whole(color: bool) -> None:
    terminal, clock = Terminal(), Clock()
    expected = io.StringIO()
    with ReplayProgress(100, stream=terminal, clock=clock) as progress:
        shown = open_writer("table", progress.guard(terminal), color=color)
        plain = open_writer("table", expected)
        for number in range(20):
            clock.now_s += 0.07
            progress.update(START_NS, number * 5, number)
            if number % 3:
                one = detection(peak_counts=float(number))
                shown.write(one)
                plain.write(one)
        clock.now_s += 1
        progress.update(START_NS, 99, 13)
        *rows, bar = terminal.screen()
        assert rows == expected.getvalue().splitlines()
        assert "13 detections" in bar
    assert terminal.screen() == [*expected.getvalue().splitlines(), ""]


def test_a_terminal_that_goes_away_does_not_end_the_replay() -> None:
    class Gone(Terminal):
        def write(self, _text: str) -> int:
            raise OSError(5, "Input/output error")

    with ReplayProgress(10, stream=Gone()) as progress:
        progress.update(START_NS, 5.0, 0)
        progress.update(START_NS, 6.0, 0)


def test_a_guarded_stream_is_still_that_stream() -> None:
    terminal = Terminal()
    guarded: TextIO = ReplayProgress(10, stream=terminal).guard(terminal)
    assert guarded is not terminal
    assert guarded.isatty()
    print("row", file=guarded)
    assert terminal.screen() == ["row", ""]


def test_on_a_real_terminal() -> None:
    program = """
import sys, time
from monitor.formats import open_writer
from monitor.progress import ReplayProgress
from tests.detections import detection
with ReplayProgress(100) as progress:
    writer = open_writer("table", progress.guard(sys.stdout))
    for number in range(100):
        progress.update(number, number, number)
        if number % 10 == 0: writer.write(detection(peak_counts=float(number)))
"""
    leader, follower = pty.openpty()
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=follower, stderr=follower, env=environment) as child:
        os.close(follower)
        written = b""
        try:
            while chunk := os.read(leader, 65536):
                written += chunk
        except OSError:
            pass  # Linux reports the end of a terminal so.
        os.close(leader)
    assert child.returncode == 0, written.decode()
    header, *rows, rest = on_screen(written.decode().replace("\r\n", "\n"))
    assert header.startswith("onset (UTC)")
    assert [row.split()[-1] for row in rows] == [str(number) for number in range(0, 100, 10)]
    assert rest == ""
