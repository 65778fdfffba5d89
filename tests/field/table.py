"""A pytest plugin: at the end, one line for each thing that was checked, with what was measured.

A test's docstring says what it checks; the fixture `note` adds what was seen.
"""

import re
from collections.abc import Callable, Generator

import pytest

_NOTES = pytest.StashKey[list[str]]()
_ROWS: list[tuple[str, str, float, str]] = []


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say in a few words what was seen."""
    notes: list[str] = []
    request.node.stash[_NOTES] = notes
    return notes.append


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep a row for each test."""
    report = yield
    if report.when == "call" or not report.passed:
        function = getattr(item, "function", None)
        what = re.sub(r"\s+", " ", (function and function.__doc__) or item.name).strip().rstrip(".")
        parameters = re.search(r"\[.*\]$", item.name)
        if parameters:
            what = f"{what} {parameters[0]}"
        notes: list[str] = item.stash.get(_NOTES, [])
        seen = "; ".join(notes)
        _ROWS.append(
            (what, {"passed": "ok", "skipped": "left out"}.get(report.outcome, "FAILED"), report.duration, seen)
        )
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    terminalreporter.section("what was checked")
    width = max((len(what) for what, *_ in _ROWS), default=0)
    for what, outcome, seconds, seen in _ROWS:
        terminalreporter.line(f"{outcome:8} {what:{width}} {seconds:6.1f} s  {seen}".rstrip())
